"""Stops between two pieces of work, deadlines that no clock moves, and executors that heed both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssa_analysis import stopping
from ssa_analysis.running.executors import Event, InProcessExecutor, Job, ProcessExecutor, Tries, events_of
from ssa_analysis.stopping import Deadline, Stopped, ended_after, gentle_interrupts, request_stop, stop_requested, told_of_a_stop


@pytest.fixture(autouse=True)
def _nobody_asks_before_or_after() -> Iterator[None]:
    assert not stop_requested()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    yield
    signal.signal(signal.SIGINT, before)
    stopping._state.requested = False


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)


def test_the_first_interrupt_asks_and_the_second_breaks_in() -> None:
    told: list[str] = []
    with gentle_interrupts(lambda: told.append("once")), told_of_a_stop(lambda: told.append("listener")):
        assert not stop_requested()
        interrupt()
        assert stop_requested()
        assert told == ["listener", "once"]
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert not stop_requested()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_of_the_block_one_interrupt_breaks_in() -> None:
    with gentle_interrupts(lambda: None):
        pass
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_where_interrupts_are_ignored_they_stay_so() -> None:
    """As in the background jobs of a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with gentle_interrupts(lambda: None):
        interrupt()
        assert not stop_requested()


def test_in_another_thread_signals_stay_as_they_are() -> None:
    def work() -> None:
        with gentle_interrupts(lambda: None):
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[object] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_a_deadline_of_this_machine_heeds_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    deadline = Deadline.within(100)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 99 < deadline.left <= 100
    assert Deadline.within(-1).left < 0
    elsewhere = Deadline("another machine", deadline.monotonic, wall=50.0)
    assert elsewhere.left == 50.0  # nothing but the clock can be compared


def test_a_timer_that_was_not_needed_is_gone() -> None:
    with ended_after(0.05):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    time.sleep(0.1)  # it would end this process


# jobs stand at the top of the module: a spawned worker finds them by name


def pieces(names: list[str], pause: float = 0.0) -> Iterator[str]:
    for name in names:
        if stop_requested():
            return
        time.sleep(pause)
        yield name


def one_piece(pause: float) -> Iterator[str]:
    for _ in range(1000):
        time.sleep(pause)
        if stop_requested():
            raise Stopped
    yield "never"


def sleeps_at(names: list[str], slow: str) -> Iterator[str]:
    for name in names:
        time.sleep(300 if name == slow else 0)
        yield name


def test_a_stop_ends_a_job_here_after_the_piece_in_hand_and_no_other_begins() -> None:
    jobs = [Job("a", pieces, {"names": ["1", "2", "3"]}, "names"), Job("b", pieces, {"names": ["4"]}, "names")]
    events = []
    for event in InProcessExecutor().run(jobs):
        events.append((event.key, event.kind, event.value))
        if event.value == "2":
            request_stop()
    assert events == [("a", "value", "1"), ("a", "value", "2"), ("a", "done", None)]


def test_workers_hear_of_a_stop() -> None:
    jobs = [
        Job("pieces", pieces, {"names": ["1", "2", "3", "4"], "pause": 1.0}, "names", attempts=2),
        Job("one", one_piece, {"pause": 0.05}, attempts=3),
        Job("later", pieces, {"names": ["5"]}, "names"),
    ]
    events, asked = [], 0.0
    for event in ProcessExecutor(2).run(jobs):
        events.append((event.key, event.kind))
        if event.value == "1":
            request_stop()
            asked = time.monotonic()
    assert time.monotonic() - asked < 10
    assert sorted(set(events)) == [("one", "stopped"), ("pieces", "done"), ("pieces", "value")]
    assert events.count(("pieces", "value")) in (1, 2)  # the second one was in hand, or had not begun


def test_a_result_that_takes_too_long_costs_itself_and_is_not_tried_again() -> None:
    job = Job("a", sleeps_at, {"names": ["1", "slow", "3"], "slow": "slow"}, "names", attempts=5, timeout=3.0)
    started = time.monotonic()
    events = [(event.kind, event.value) for event in ProcessExecutor(1).run([job])]
    late = "took longer than 3.0 s, the time that a cell may take"
    assert events == [("value", "1"), ("lost", late), ("value", "3"), ("done", None)]
    assert time.monotonic() - started < 60


HELD = """
import multiprocessing, signal, sys

def look():
    sys.exit(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))

if __name__ == "__main__":
    from ssa_analysis.stopping import interrupts_held

    process = multiprocessing.get_context("spawn").Process(target=look)
    with interrupts_held():
        process.start()
    process.join()
    sys.exit(process.exitcode)
"""


def test_the_first_process_that_is_started_holds_interrupts_too(tmp_path: Path) -> None:
    (tmp_path / "held.py").write_text(HELD)
    assert subprocess.run([sys.executable, tmp_path / "held.py"], check=False).returncode == 1


def test_here_a_timeout_ends_nothing() -> None:
    job = Job("a", pieces, {"names": ["1"], "pause": 0.05}, "names", timeout=0.01)
    assert [event.kind for event in events_of(job)] == ["value", "done"]


class TestTries:
    def test_a_job_learns_how_often_its_first_piece_was_starved(self) -> None:
        tries = Tries(Job("a", pieces, {"names": ["1", "2"]}, "names", attempts=3, starved="hungry"))
        assert tries.heard(Event("a", "begun")) is None
        _, again = tries.lost("killed", starved=True)
        assert again is not None
        assert again.arguments == {"names": ["1", "2"], "hungry": 1}
        _, again = tries.lost("killed", starved=False)
        assert again is not None
        assert again.arguments["hungry"] == 1
        tries.heard(Event("a", "value", "1"))  # the next piece has a history of its own
        _, again = tries.lost("killed", starved=False)
        assert again is not None
        assert again.arguments == {"names": ["2"]}

    def test_the_next_piece_begins_anew_where_one_was_given_up(self) -> None:
        tries = Tries(Job("a", pieces, {"names": ["1", "2"]}, "names", attempts=1, starved="hungry"))
        events, again = tries.lost("killed", starved=True)
        assert [(event.kind, event.value) for event in events] == [("lost", "killed")]
        assert again is not None
        assert again.arguments == {"names": ["2"]}

    def test_after_a_stop_nothing_is_tried_again(self) -> None:
        tries = Tries(Job("a", pieces, {"names": ["1"]}, "names", attempts=5))
        request_stop()
        events, again = tries.lost("killed")
        assert ([event.kind for event in events], again) == (["stopped"], None)

    def test_the_wait_for_a_worker_is_no_part_of_a_timeout(self) -> None:
        tries = Tries(Job("a", pieces, {"names": ["1"]}, "names", attempts=2, timeout=0.05))
        time.sleep(0.06)  # in a queue
        assert not tries.late(0.0)
        tries.heard(Event("a", "begun"))
        assert not tries.late(0.0)
        time.sleep(0.06)
        assert tries.late(0.0)
        _, again = tries.lost("the node was lost")
        assert again is not None
        assert not tries.late(0.0), "the next worker has not begun"

    def test_a_word_that_was_on_its_way_is_allowed_for(self) -> None:
        tries = Tries(Job("a", pieces, {"names": ["1"]}, "names", attempts=2, timeout=60.0))
        tries.heard(Event("a", "begun"))
        assert (tries.late(59.0), tries.late(61.0)) == (False, True)
