"""Progress lines: throttled, with the share done and the time left; shown only where somebody asks."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from ssa_analysis.progress import LOGGER, LoggedProgress, duration, progress_is_shown, show_progress
from ssa_analysis.running.executors import Job, ProcessExecutor


@pytest.fixture
def clean_logger() -> Iterator[None]:
    """The logger as it is before anybody has asked for progress."""
    handlers, level, propagate = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    LOGGER.handlers[:], LOGGER.propagate = [], True
    LOGGER.setLevel(logging.NOTSET)
    yield
    LOGGER.handlers[:], LOGGER.propagate = handlers, propagate
    LOGGER.setLevel(level)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.usefixtures("clean_logger")
def test_a_line_every_ten_seconds_with_share_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = LoggedProgress("landscape of a.pt", 60, unit="points", done=20, clock=clock)
    with caplog.at_level(logging.INFO, "ssa_analysis.progress"):
        for _ in range(40):
            clock.now += 4.0
            progress.step()
    lines = [record.getMessage() for record in caplog.records]
    # steps 3, 6, ... come at least ten seconds after the last line; the last step says nothing
    assert len(lines) == 13
    assert lines[0] == "landscape of a.pt: 23 of 60 points (38 %), about 2 min 28 s left"
    assert lines[-1] == "landscape of a.pt: 59 of 60 points (98 %), about 4.0 s left"


@pytest.mark.usefixtures("clean_logger")
def test_without_a_total_it_says_what_has_been_done(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = LoggedProgress("curvature of a.pt", None, unit="products", clock=clock)
    with caplog.at_level(logging.INFO, "ssa_analysis.progress"):
        for stage in ("", "trace"):
            progress.stage = stage
            for _ in range(3):
                clock.now += 4.0
                progress.step()
    assert [record.getMessage() for record in caplog.records] == [
        "curvature of a.pt: 3 products so far, 12.0 s",
        "curvature of a.pt, trace: 6 products so far, 24.0 s",
    ]


@pytest.mark.usefixtures("clean_logger")
def test_nobody_sees_anything_who_has_not_asked(capfd: pytest.CaptureFixture[str]) -> None:
    LoggedProgress("work", 9, interval=0).step()
    assert not progress_is_shown()
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("clean_logger")
def test_show_progress_writes_each_line_once_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show_progress()
    show_progress()
    LoggedProgress("work", 4, interval=0, clock=Clock()).step()
    assert progress_is_shown()
    out, err = capsys.readouterr()
    assert (out, err) == ("", "work: 1 of 4 steps (25 %), about 0 ms left\n")


def works() -> Iterator[int]:
    progress = LoggedProgress("work in a worker", 2, interval=0)
    progress.step()
    yield progress.done


@pytest.mark.usefixtures("clean_logger")
@pytest.mark.parametrize("shown", [True, False])
def test_workers_show_progress_where_their_driver_does(shown: bool, capfd: pytest.CaptureFixture[str]) -> None:
    if shown:
        show_progress()
    events = list(ProcessExecutor(1).run([Job("a", works)]))
    assert [event.kind for event in events] == ["value", "done"]
    assert ("work in a worker: 1 of 2 steps (50 %)" in capfd.readouterr().err) == shown


def test_durations_for_people() -> None:
    assert [duration(s) for s in (0.85, 3.2, 125, 4200)] == ["850 ms", "3.2 s", "2 min 05 s", "1 h 10 min"]
