"""Where jobs run. A job is a function that yields results; only the driver sees them, and only it writes the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ssa_analysis.errors import SettingsError, SSAError
from ssa_analysis.registry import Registry


@dataclass(frozen=True)
class Job:
    """``function(**arguments)`` must be importable by name, picklable in its arguments, and yield its results.

    Attributes:
        each: name of the argument that is a list of which each element gives one result, in order. A worker that dies
            at one element then costs that element alone. Empty: the job is one piece.
        attempts: how often a piece may be begun, where its worker dies (killed, out of memory, a node lost). An error
            that the function raises is an answer, and is not tried again.
    """

    key: str
    function: Callable[..., Iterator[Any]]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    each: str = ""
    attempts: int = 1


@dataclass(frozen=True)
class Event:
    """``kind`` is ``value`` (one yielded result), ``lost`` (one element of ``Job.each`` was given up; ``value`` says why),
    ``failed`` (``value`` is the message) or ``done``."""

    key: str
    kind: str
    value: Any = None


class Executor(Protocol):
    """Runs jobs and yields their events in the order they happen."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """Every job ends in exactly one ``done`` or ``failed``; closing the iterator ends what still runs."""
        ...


@dataclass(frozen=True)
class ExecutorSettings:
    """What every executor is made from.

    Attributes:
        workers: jobs at a time; None leaves it to the executor.
        device: that the jobs compute on, ``cpu`` or ``cuda``: with the latter each job needs a GPU.
        options: an executor's own, by name (``--executor-option``).
    """

    workers: int | None = None
    device: str = "cpu"
    options: Mapping[str, str] = field(default_factory=dict)

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


def events_of(job: Job) -> Iterator[Event]:
    """Run a job here and say what happens; what every worker of every executor does."""
    try:
        for value in job.function(**job.arguments):
            yield Event(job.key, "value", value)
    except SSAError as error:
        yield Event(job.key, "failed", str(error))
    except Exception as error:
        yield Event(job.key, "failed", f"{type(error).__name__}: {error}".splitlines()[0])
    else:
        yield Event(job.key, "done")


class Tries:
    """A job's way through workers that may die: what it has given so far, and what is left to do.

    Feed it every event of a worker (:meth:`heard`), and :meth:`lost` when the worker is gone.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._given = 0  # results and losses so far
        self._to_skip = 0  # results that a new start of a job in one piece gives again
        self._started = 1  # starts of the present piece

    def heard(self, event: Event) -> Event | None:
        """The event to pass on; None for a result that was passed on before."""
        if event.kind == "value":
            if self._to_skip:
                self._to_skip -= 1
                return None
            self._given += 1
            self._started = 1
        return event

    def lost(self, reason: str) -> tuple[list[Event], Job | None]:
        """What to tell now that the worker is gone, and the job to start in another one, None if that was the end."""
        key, events = self.job.key, []
        if not self.job.each:
            if self._started >= self.job.attempts:
                return [Event(key, "failed", reason)], None
            self._started += 1
            self._to_skip = self._given
            return [], self.job
        everything = list(self.job.arguments[self.job.each])
        if self._given < len(everything) and self._started >= self.job.attempts:
            events.append(Event(key, "lost", reason))
            self._given += 1
            self._started = 0
        left = everything[self._given :]
        if not left:
            return [*events, Event(key, "done")], None
        self._started += 1
        return events, replace(self.job, arguments={**self.job.arguments, self.job.each: left})
