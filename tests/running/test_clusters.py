"""Ray and submitit for real: two simulated nodes of which one is killed, and SLURM's jobs as local processes."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.running import scoring
from ssa_analysis.running.executors import (
    Event,
    Executor,
    ExecutorSettings,
    InProcessExecutor,
    Job,
    ProcessExecutor,
    RayExecutor,
    SlurmExecutor,
    make_executor,
)
from ssa_analysis.running.plan import Cell, CellResult
from ssa_analysis.running.scoring import run_cells
from ssa_analysis.running.store import Store
from ssa_analysis.scores import Score
from ssa_analysis.stopping import gentle_interrupts, request_stop

# Jobs stand at the top of the module: a worker finds them by name.


def squares(numbers: list[int], pause: float = 0.0) -> Iterator[int]:
    for number in numbers:
        time.sleep(pause)
        yield number**2


def explains_itself() -> Iterator[int]:
    yield 1
    raise MeasureError("too few images")


def sends_what_cannot_be_sent() -> Iterator[Any]:
    yield threading.Lock()


def dies_at(numbers: list[int], deadly: int, once: str = "") -> Iterator[int]:
    for number in numbers:
        if number == deadly and not (once and Path(once).exists()):
            if once:
                Path(once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield number**2


def sleeps_at(numbers: list[int], sleepy: int) -> Iterator[int]:
    for number in numbers:
        time.sleep(600 if number == sleepy else 0)
        yield number**2


def pretended(cells: list[Cell], spec: Any, device: str, scratch: Any) -> Iterator[CellResult]:
    """What stands for measuring: a number of the checkpoint's own, and the node it came from."""
    import ray

    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    for cell in cells:
        time.sleep(0.3 if node else 0)
        number = int(cell.sha256[:8], 16) / 2**32
        yield CellResult(cell, [Score(cell.measure, "value", number, settings={"node": node}, checkpoint=cell.path)])


def values(events: list[Event], key: str) -> list[Any]:
    return [e.value for e in events if e.key == key and e.kind == "value"]


def ends(events: list[Event]) -> Counter[str]:
    return Counter(e.key for e in events if e.kind in ("done", "failed"))


def stopped_at_the_first_value(executor: Executor) -> list[tuple[str, str]]:
    """Keys and kinds of the events of two jobs that are at work, and a third one that waits for its turn."""
    numbers = {"numbers": [1, 2, 3], "pause": 1.0}
    jobs = [Job("in pieces", squares, numbers, "numbers"), Job("whole", squares, numbers), Job("waits", squares, numbers)]
    events = []
    with gentle_interrupts(lambda: None):
        for event in executor.run(jobs):
            events.append((event.key, event.kind))
            request_stop()
    return events


SIMPLE = [
    Job("some", squares, {"numbers": [0, 1, 2, 3]}),
    Job("none", squares, {"numbers": []}),
    Job("explains", explains_itself),
]
HANGS = Job("hangs", sleeps_at, {"numbers": [1, 2, 3], "sleepy": 2}, "numbers", attempts=3, timeout=2.0)
LATE = [("value", 1), ("lost", "took longer than 2.0 s, the time that a cell may take"), ("value", 9), ("done", None)]


@pytest.fixture(scope="module")
def package_for_workers() -> Iterator[None]:
    """Workers of a cluster find this module, and the package, by the path."""
    before = os.environ.get("PYTHONPATH")
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = here if not before else f"{here}{os.pathsep}{before}"
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("each", ["numbers", ""])
def test_a_worker_that_dies_once_is_begun_again(each: str, tmp_path: Path) -> None:
    arguments = {"numbers": [1, 2, 3, 4], "deadly": 3, "once": str(tmp_path / "died")}
    events = list(ProcessExecutor(2).run([Job("a", dies_at, arguments, each, attempts=2), *SIMPLE]))
    assert values(events, "a") == [1, 4, 9, 16]
    assert ends(events) == {"a": 1, "some": 1, "none": 1, "explains": 1}
    assert not [e for e in events if e.kind == "lost"]


@pytest.mark.usefixtures("forked_workers")
def test_what_kills_every_worker_is_lost_alone() -> None:
    job = Job("a", dies_at, {"numbers": [1, 2, 3, 4], "deadly": 3}, "numbers", attempts=2)
    events = list(ProcessExecutor(1).run([job]))
    lost = ("lost", "the worker process ended (killed)")
    assert [(e.kind, e.value) for e in events] == [("value", 1), ("value", 4), lost, ("value", 16), ("done", None)]


@pytest.mark.usefixtures("forked_workers")
def test_the_last_element_may_be_the_deadly_one() -> None:
    job = Job("a", dies_at, {"numbers": [1, 2], "deadly": 2}, "numbers", attempts=1)
    assert [e.kind for e in ProcessExecutor(1).run([job])] == ["value", "lost", "done"]


@pytest.mark.usefixtures("forked_workers")
def test_a_job_in_one_piece_fails_when_its_attempts_are_used_up() -> None:
    events = list(ProcessExecutor(1).run([Job("a", dies_at, {"numbers": [1, 2], "deadly": 2}, attempts=3)]))
    assert [e.kind for e in events] == ["value", "failed"]


class TestRay:
    @pytest.fixture(autouse=True)
    def ray(self, package_for_workers: None) -> Any:
        return pytest.importorskip("ray", reason="Ray is not installed")

    def test_a_local_cluster_gives_the_events_of_one_process(self) -> None:
        jobs = [*SIMPLE, Job("unsendable", sends_what_cannot_be_sent), HANGS]
        events = list(RayExecutor(workers=2).run(jobs))
        alone = list(InProcessExecutor().run(SIMPLE))
        for job in SIMPLE:
            assert [e for e in events if e.key == job.key] == [e for e in alone if e.key == job.key]
        (failed,) = [e for e in events if e.key == "unsendable"]
        assert failed.kind == "failed"
        assert [(e.kind, e.value) for e in events if e.key == "hangs"] == LATE

    def test_a_node_is_killed_in_mid_study_and_the_store_is_that_of_one_worker(
        self, ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two nodes; once both have given scores, one is killed. Every cell is in the store, and came exactly once; and what the
        other node then has at work ends where a stop is asked for."""
        from ray.cluster_utils import Cluster

        monkeypatch.setattr(scoring, "run_checkpoint", pretended)
        hashes = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(8)]
        cells = [
            Cell(f"runs/{n}/last.pt", sha256, measure, {"seed": 0}, "digits", "f" * 16, "0.1.0/1")
            for n, sha256 in enumerate(hashes)
            for measure in ("curvature", "flatness", "shift", "downstream", "representation")
        ]
        places: dict[str, int] = {}
        told: list[str] = []
        killed = ""

        def tell(result: CellResult) -> None:
            nonlocal killed
            told.append(result.cell.key)
            (score,) = result.scores
            places[score.settings["node"]] = places.get(score.settings["node"], 0) + 1
            if not killed and len(places) == 2:
                killed = nodes[0].node_id
                cluster.remove_node(nodes[0], allow_graceful=False)

        plain = {"include_dashboard": False, "include_log_monitor": False}  # processes that nobody asks here
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **plain})
        try:
            nodes = [cluster.add_node(num_cpus=1, **plain) for _ in range(2)]
            ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
            with Store(tmp_path / "ray.db") as store:
                summary = run_cells(cells, None, executor=RayExecutor(workers=2), store=store, on_result=tell)  # type: ignore[arg-type]
                frame = store.frame()
            stopped = stopped_at_the_first_value(RayExecutor(workers=2))
        finally:
            ray.shutdown()
            cluster.shutdown()
        assert killed in places, "the node that was killed had worked"
        assert (summary.computed, summary.failures) == (40, [])
        assert sorted(told) == sorted(cell.key for cell in cells)
        with Store(tmp_path / "one.db") as store:
            run_cells(cells, None, executor=InProcessExecutor(), store=store)  # type: ignore[arg-type]
            alone = store.frame()
        columns = ["sha256", "measure", "name", "value"]
        pd.testing.assert_frame_equal(*(f[columns].sort_values(columns, ignore_index=True) for f in (frame, alone)))
        assert sorted(key for key, kind in stopped if kind == "stopped") == ["in pieces", "whole"]
        assert {kind for _, kind in stopped} == {"value", "stopped"}
        assert "waits" not in dict(stopped)

    def test_what_cannot_be_is_said(self) -> None:
        with pytest.raises(SettingsError, match="no Ray cluster at 'localhost:1'"):
            list(RayExecutor("localhost:1").run(SIMPLE))
        with pytest.raises(SettingsError, match="is HOST:PORT, ray://HOST:PORT or auto, got 'nowhere'"):
            list(RayExecutor("nowhere").run(SIMPLE))
        with pytest.raises(SettingsError, match="must be numbers"):
            make_executor("ray", ExecutorSettings(options={"cpus": "many"}))
        with pytest.raises(SettingsError, match="has no option 'adress'; it has address, cpus, gpus"):
            make_executor("ray", ExecutorSettings(options={"adress": "x"}))

    def test_gpus_are_asked_for_where_the_jobs_need_them(self) -> None:
        wanted = [make_executor("ray", ExecutorSettings(device=device)) for device in ("cpu", "cuda")]
        assert [executor.gpus for executor in wanted] == [0.0, 1.0]  # type: ignore[attr-defined]


class TestSlurm:
    @pytest.fixture(autouse=True)
    def submitit(self, package_for_workers: None) -> Any:
        return pytest.importorskip("submitit", reason="submitit is not installed")

    def test_local_jobs_give_the_events_of_one_process(self, tmp_path: Path) -> None:
        jobs = [*SIMPLE, Job("unsendable", sends_what_cannot_be_sent), HANGS]
        events = list(SlurmExecutor(tmp_path / "jobs", 2, "local", poll=0.1).run(jobs))
        alone = list(InProcessExecutor().run(SIMPLE))
        for job in SIMPLE:
            assert [e for e in events if e.key == job.key] == [e for e in alone if e.key == job.key]
        assert [e.kind for e in events if e.key == "unsendable"] == ["failed"]
        assert [(e.kind, e.value) for e in events if e.key == "hangs"] == LATE
        assert not list((tmp_path / "jobs").glob("results-*"))

    def test_a_job_that_is_killed_is_submitted_again(self, tmp_path: Path) -> None:
        arguments = {"numbers": [1, 2, 3, 4], "deadly": 3, "once": str(tmp_path / "died")}
        executor = SlurmExecutor(tmp_path / "jobs", None, "local", poll=0.1)
        events = list(executor.run([Job("a", dies_at, arguments, "numbers", attempts=2)]))
        assert [(e.kind, e.value) for e in events] == [("value", 1), ("value", 4), ("value", 9), ("value", 16), ("done", None)]

    def test_closing_the_run_cancels_the_jobs(self, tmp_path: Path) -> None:
        run = SlurmExecutor(tmp_path / "jobs", None, "local", poll=0.1).run(
            [Job("a", squares, {"numbers": [1, 2, 3], "pause": 2.0})]
        )
        assert next(run).value == 1
        run.close()
        assert not list((tmp_path / "jobs").glob("results-*"))

    def test_a_stop_ends_what_is_at_work(self, tmp_path: Path) -> None:
        events = stopped_at_the_first_value(SlurmExecutor(tmp_path / "jobs", 2, "local", poll=0.1))
        assert sorted(key for key, kind in events if kind == "stopped") == ["in pieces", "whole"]
        assert {kind for _, kind in events} == {"value", "stopped"}
        assert "waits" not in dict(events)

    def test_options_go_to_submitit(self) -> None:
        options = {"folder": "jobs", "cluster": "local", "timeout_min": "5", "slurm_partition": "gpu"}
        executor = make_executor("slurm", ExecutorSettings(8, "cuda", options))
        assert isinstance(executor, SlurmExecutor)
        assert executor.parameters == {"timeout_min": 5, "slurm_partition": "gpu", "gpus_per_node": 1}
        assert (executor.workers, executor.cluster, executor.folder) == (8, "local", Path("jobs").absolute())

    def test_without_slurm_it_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="the executor 'slurm' cannot be used here"):
            list(SlurmExecutor(tmp_path / "jobs").run(SIMPLE))
