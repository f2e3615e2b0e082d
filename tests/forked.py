"""``ssa-analyze`` in processes that can be killed: forked as all of the tests are (``processes``)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar

from processes import forking


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (negative: the signal), what it said, and seconds that it took."""

    code: int
    said: str
    seconds: float


class Running:
    """A command at work in ``folder``; what it says goes to files there.

    Args:
        small: measures take seconds and reports draw two figures, as in the tests of the documents.
        spawn: workers of the command are spawned, as they are for a user, and not forked as the command itself is.
        prepare: name of a function of ``forked``, called with ``prepared`` in the process before the command.
    """

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        *,
        small: bool = True,
        spawn: bool = False,
        prepare: str = "",
        prepared: tuple[Any, ...] = (),
    ) -> None:
        self.log = folder / f"said-{time.monotonic_ns()}.txt"
        self.started = time.monotonic()
        self.process = forking().Process(target=_command, args=(arguments, folder, self.log, small, spawn, prepare, prepared))
        self.process.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self.process.pid is not None
        return self.process.pid

    def signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def interrupt(self) -> None:
        """What Ctrl-C in a terminal does: SIGINT to the process and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGINT)

    def kill_after(self, seconds: float) -> Ended:
        """Wait, and kill what is then still at work."""
        self.process.join(seconds)
        self.signal(signal.SIGKILL)
        return self.ended()

    def said(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace") if self.log.is_file() else ""

    def says(self, text: str, patience: float = 60.0) -> bool:
        """Wait until it says something; whether it did."""
        until = time.monotonic() + patience
        while text not in self.said():
            if time.monotonic() > until or not self.process.is_alive():
                return text in self.said()
            time.sleep(0.005)
        return True

    def ended(self, patience: float = 300.0) -> Ended:
        """Wait for the end; a process that does not come to one is killed, with the exit code -999."""
        self.process.join(patience)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            return Ended(-999, self.said(), time.monotonic() - self.started)
        return Ended(self.process.exitcode, self.said(), time.monotonic() - self.started)


def run(arguments: list[str], folder: Path, **options: Any) -> Ended:
    """A command from its beginning to its end."""
    return Running(arguments, folder, **options).ended()


def _command(
    arguments: list[str], folder: Path, log: Path, small: bool, spawn: bool, prepare: str, prepared: tuple[Any, ...]
) -> None:
    import pytest
    import torch
    from command_line import small as make_small
    from ssa_analysis.cli.main import main

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests themselves run under, or held as they began
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.setpgid(0, 0)  # a job of a shell, which Ctrl-C reaches as a whole
    os.chdir(folder)
    stream = open(log, "w", buffering=1)  # noqa: SIM115 (for as long as the process lives)
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = stream
    sys.argv = ["ssa-analyze", *arguments]
    patch = pytest.MonkeyPatch()
    if small:
        make_small(patch)
    if not spawn:
        patch.setattr(multiprocessing, "get_context", lambda method=None: _Workers)
    if prepare:
        globals()[prepare](*prepared)
    main()


class _Workers:
    """What a command takes for a context of ``multiprocessing``: its workers are forked, and belong where it belongs itself."""

    groups: ClassVar[list[Path]] = []  # control groups
    Pipe = staticmethod(forking().Pipe)

    @classmethod
    def Process(cls, target: Callable[..., None], args: tuple[Any, ...], daemon: bool) -> BaseProcess:
        """As of a context."""
        return forking().Process(target=_worker, args=(os.getpgrp(), cls.groups, target, args), daemon=daemon)


def _worker(shell_job: int, groups: list[Path], target: Callable[..., None], args: tuple[Any, ...]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as one that is spawned while interrupts are held
    os.setpgid(0, shell_job)
    for folder in groups:
        (folder / "cgroup.procs").write_text(str(os.getpid()))
    target(*args)


def impatient(busy: float) -> None:
    """A store that is held by another process is waited for ``busy`` seconds at a time."""
    from ssa_analysis.running import store

    store.BUSY = busy


def clock_that_goes_back() -> None:
    """At every look the clock shows an hour less."""
    shown = [time.time()]

    def look() -> float:
        shown[0] -= 3600
        return shown[0]

    time.time = look


def nobody() -> None:
    """A user without rights, since permissions mean nothing to root."""
    os.setgid(65534)
    os.setuid(65534)


def in_group(folder: Path) -> None:
    """Join a control group, with all processes that are started later."""
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    _Workers.groups.append(folder)


def content_of(store: Path) -> dict[str, Any]:
    """What a store holds, but for times and what is said of the environment; raises if SQLite finds it damaged."""
    with contextlib.closing(sqlite3.connect(store)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        cells = database.execute(
            "SELECT key, c.sha256, k.path, measure, c.settings, seed, data, status, error FROM cells c JOIN checkpoints k "
            "ON k.sha256 = c.sha256 ORDER BY key"
        ).fetchall()
        scores = database.execute(
            "SELECT c.key, name, value, unit, stderr, low, high, converged, s.settings, arrays FROM scores s "
            "JOIN cells c ON c.id = s.cell ORDER BY c.key, name"
        ).fetchall()
    return {"cells": cells, "scores": scores}


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What two stores do not share, in words; empty where they are equal to the bit."""
    for part in ("cells", "scores"):
        # compared as text: a NaN is a NaN, and repr() tells every bit of a float
        ours, theirs = [repr(row) for row in found[part]], [repr(row) for row in wanted[part]]
        if ours != theirs:
            extra, lost = [row for row in ours if row not in theirs], [row for row in theirs if row not in ours]
            return f"{part}: {len(ours)} instead of {len(theirs)}; more: {extra[:1]}, missing: {lost[:1]}"
    return ""
