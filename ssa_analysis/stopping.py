"""Stopping long work at the end of the piece in hand, a cell or an epoch; and clocks that nobody sets."""

from __future__ import annotations

import functools
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType


class Stopped(KeyboardInterrupt):
    """Work ended between two pieces, because a stop was asked for. What was finished is kept."""


@dataclass
class _State:
    requested: bool
    listeners: list[Callable[[], None]]


_state = _State(False, [])


def stop_requested() -> bool:
    """Whether the work of this process is to end after the piece in hand."""
    return _state.requested


def request_stop() -> None:
    """Ask for it, and tell whoever has other processes at work (:func:`told_of_a_stop`)."""
    _state.requested = True
    for listener in list(_state.listeners):
        listener()


@contextmanager
def told_of_a_stop(listener: Callable[[], None]) -> Iterator[None]:
    """Call ``listener`` at once where a stop is asked for inside the block; it may run inside a signal handler."""
    _state.listeners.append(listener)
    try:
        yield
    finally:
        _state.listeners.remove(listener)


@contextmanager
def gentle_interrupts(tell: Callable[[], None]) -> Iterator[None]:
    """Inside the block the first Ctrl-C asks for a stop and is told; the second one interrupts, as it does everywhere else.

    Python gives signals to the main thread; in another one nothing changes, nor where interrupts are ignored, as they are in the
    background jobs of a script.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        try:
            yield
        finally:
            _state.requested = False
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if _state.requested:
            raise KeyboardInterrupt
        request_stop()
        tell()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _state.requested = False


@contextmanager
def interrupts_held() -> Iterator[None]:
    """An interrupt waits until the block has ended; in a process that is started there, until it follows its driver."""
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which is what starts a process first, and which lets interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_the_driver() -> None:
    """In a worker process: an interrupt asks for a stop and never breaks in, since the driver decides; and the worker ends
    when its driver has ended, however that came about."""
    import multiprocessing
    import os

    signal.signal(signal.SIGINT, lambda number, frame: request_stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    driver = multiprocessing.parent_process()
    if driver is None:
        return

    def watch() -> None:
        driver.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


TOO_LATE = -14  # exit code, as multiprocessing gives it, of a process that SIGALRM has ended


@contextmanager
def ended_after(seconds: float | None) -> Iterator[None]:
    """The system ends this process, by SIGALRM, if the block takes longer; even inside a library that hangs."""
    if seconds is None or not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@functools.cache
def _machine() -> str:
    """This machine since it was last started."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    return socket.gethostname()


@dataclass(frozen=True)
class Deadline:
    """A moment in the future that workers can be told of. On the machine that set it, setting the clock does not move it."""

    machine: str
    monotonic: float
    wall: float

    @classmethod
    def within(cls, seconds: float) -> Deadline:
        """So many seconds from now."""
        return cls(_machine(), time.monotonic() + seconds, time.time() + seconds)

    @property
    def left(self) -> float:
        """Seconds until then; negative once it has passed."""
        return self.monotonic - time.monotonic() if self.machine == _machine() else self.wall - time.time()
