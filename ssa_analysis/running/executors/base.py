"""Where jobs run. A job is a function that yields results; only the driver sees them, and only it writes the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ssa_analysis.errors import SettingsError, SSAError
from ssa_analysis.progress import duration
from ssa_analysis.registry import Registry
from ssa_analysis.stopping import Stopped, ended_after, stop_requested


@dataclass(frozen=True)
class Job:
    """``function(**arguments)`` must be importable by name, picklable in its arguments, and yield its results.

    Attributes:
        each: name of the argument that is a list of which each element gives one result, in order. A worker that dies
            at one element then costs that element alone. Empty: the job is one piece.
        attempts: how often a piece may be begun, where its worker dies (killed, out of memory, a node lost). An error
            that the function raises is an answer, and is not tried again.
        starved: name of the argument that counts how often the first piece was ended for want of memory, as it seems, so
            that it can take less; empty: there is none.
        timeout: seconds that one result may take, after which its worker is ended and the piece is not tried again; None:
            as long as it likes.
    """

    key: str
    function: Callable[..., Iterator[Any]]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    each: str = ""
    attempts: int = 1
    starved: str = ""
    timeout: float | None = None


@dataclass(frozen=True)
class Event:
    """``kind`` is ``value`` (one yielded result), ``lost`` (one element of ``Job.each`` was given up; ``value`` says why),
    ``failed`` (``value`` is the message), ``stopped`` (between two pieces, because a stop was asked for) or ``done``.
    Workers say ``begun`` to their driver, which is not passed on."""

    key: str
    kind: str
    value: Any = None


class Executor(Protocol):
    """Runs jobs and yields their events in the order they happen."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """Every job that was taken from ``jobs`` ends in exactly one ``done``, ``failed`` or ``stopped``; closing the iterator
        ends what still runs. A job is taken when there is room for it, and none once a stop was asked for."""
        ...


@dataclass(frozen=True)
class ExecutorSettings:
    """What every executor is made from.

    Attributes:
        workers: jobs at a time; None leaves it to the executor.
        isolated: whether every job needs a process of its own, which may be killed.
        device: that the jobs compute on, ``cpu`` or ``cuda``: with the latter each job needs a GPU.
        options: an executor's own, by name (``--executor-option``).
    """

    workers: int | None = None
    device: str = "cpu"
    options: Mapping[str, str] = field(default_factory=dict)
    isolated: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise SettingsError(f"the number of workers must be at least 1, got {self.workers}")

    @property
    def needs_gpu(self) -> bool:
        """Whether the jobs compute on a GPU."""
        return self.device.startswith("cuda")


@dataclass(frozen=True)
class ExecutorKind:
    """One row of the table of executors.

    Attributes:
        make: an executor from its settings; SettingsError for what it cannot do here.
        options: names that ``ExecutorSettings.options`` may have; one that ends in ``*`` stands for all that begin so.
    """

    summary: str
    make: Callable[[ExecutorSettings], Executor]
    options: tuple[str, ...] = ()


EXECUTORS: Registry[ExecutorKind] = Registry("executor", ExecutorKind)


def make_executor(name: str, settings: ExecutorSettings) -> Executor:
    """The executor called ``name``; SettingsError with suggestions where there is none, or for an option it has not."""
    kind = EXECUTORS.get(name)
    for option in settings.options:
        if not any(option == known or (known.endswith("*") and option.startswith(known[:-1])) for known in kind.options):
            there = f"it has {', '.join(kind.options)}" if kind.options else "it has none"
            raise SettingsError(f"the executor {name!r} has no option {option!r}; {there}")
    return kind.make(settings)


def events_of(job: Job, *, in_worker: bool = False) -> Iterator[Event]:
    """Run a job here and say what happens; what every worker of every executor does.

    Args:
        in_worker: this process is there for this job, so that ``job.timeout`` may end it.
    """
    if in_worker:
        yield Event(job.key, "begun")
    limit = job.timeout if in_worker else None
    try:
        values = iter(job.function(**job.arguments))
        while True:
            with ended_after(limit):
                value = next(values, _NO_MORE)
            if value is _NO_MORE:
                break
            yield Event(job.key, "value", value)
    except Stopped:
        yield Event(job.key, "stopped")
    except SSAError as error:
        yield Event(job.key, "failed", str(error))
    except Exception as error:
        yield Event(job.key, "failed", f"{type(error).__name__}: {error}".splitlines()[0])
    else:
        yield Event(job.key, "done")


_NO_MORE: Any = object()


class Tries:
    """A job's way through workers that may die: what it has given so far, and what is left to do.

    Feed it every event of a worker (:meth:`heard`), and :meth:`lost` when the worker is gone.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._given = 0  # results and losses so far
        self._to_skip = 0  # results that a new start of a job in one piece gives again
        self._started = 1  # starts of the present piece
        self._starved = 0  # ends of the present piece for want of memory
        self._since: float | None = None  # the last that was heard of the present worker

    def heard(self, event: Event) -> Event | None:
        """The event to pass on; None for a result that was passed on before, and for what only the driver needs."""
        self._since = time.monotonic()
        if event.kind == "begun":
            return None
        if event.kind == "value":
            if self._to_skip:
                self._to_skip -= 1
                return None
            self._given += 1
            self._started, self._starved = 1, 0
        return event

    def late(self, delay: float) -> bool:
        """Whether a worker that is gone was ended by ``job.timeout``, told from when it was last heard of.

        Args:
            delay: seconds by which its word may have come later than its end is seen.
        """
        limit = self.job.timeout
        return limit is not None and self._since is not None and time.monotonic() - self._since >= limit - delay

    def lost(self, reason: str, starved: bool = False, late: bool = False) -> tuple[list[Event], Job | None]:
        """What to tell now that the worker is gone, and the job to start in another one, None if that was the end.

        Args:
            starved: the worker may have been ended because it took too much memory.
            late: it was ended because it took longer than its job may.
        """
        key, events = self.job.key, []
        if stop_requested():
            return [Event(key, "stopped")], None
        self._since = None
        if late and self.job.timeout is not None:
            reason = f"took longer than {duration(self.job.timeout)}, the time that a cell may take"
        self._starved += starved and not late
        if not self.job.each:
            if late or self._started >= self.job.attempts:
                return [Event(key, "failed", reason)], None
            self._started += 1
            self._to_skip = self._given
            return [], self._again({})
        everything = list(self.job.arguments[self.job.each])
        if self._given < len(everything) and (late or self._started >= self.job.attempts):
            events.append(Event(key, "lost", reason))
            self._given += 1
            self._started, self._starved = 0, 0
        left = everything[self._given :]
        if not left:
            return [*events, Event(key, "done")], None
        self._started += 1
        return events, self._again({self.job.each: left})

    def _again(self, changed: Mapping[str, Any]) -> Job:
        counted = {self.job.starved: self._starved} if self.job.starved and self._starved else {}
        return replace(self.job, arguments={**self.job.arguments, **changed, **counted})
