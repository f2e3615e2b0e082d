"""Ray and submitit for real: two simulated nodes of which one is killed, and SLURM's jobs as local processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.running.executors import (
    Event,
    ExecutorSettings,
    InProcessExecutor,
    Job,
    ProcessExecutor,
    RayExecutor,
    SlurmExecutor,
    make_executor,
)

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


def with_its_place(numbers: list[int], pause: float) -> Iterator[tuple[int, str]]:
    import ray

    for number in numbers:
        time.sleep(pause)
        yield number, ray.get_runtime_context().get_node_id()


def values(events: list[Event], key: str) -> list[Any]:
    return [e.value for e in events if e.key == key and e.kind == "value"]


def ends(events: list[Event]) -> Counter[str]:
    return Counter(e.key for e in events if e.kind in ("done", "failed"))


SIMPLE = [
    Job("some", squares, {"numbers": [0, 1, 2, 3]}),
    Job("none", squares, {"numbers": []}),
    Job("explains", explains_itself),
]


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


@pytest.mark.parametrize("each", ["numbers", ""])
def test_a_worker_that_dies_once_is_begun_again(each: str, tmp_path: Path) -> None:
    arguments = {"numbers": [1, 2, 3, 4], "deadly": 3, "once": str(tmp_path / "died")}
    events = list(ProcessExecutor(2).run([Job("a", dies_at, arguments, each, attempts=2), *SIMPLE]))
    assert values(events, "a") == [1, 4, 9, 16]
    assert ends(events) == {"a": 1, "some": 1, "none": 1, "explains": 1}
    assert not [e for e in events if e.kind == "lost"]


def test_what_kills_every_worker_is_lost_alone() -> None:
    job = Job("a", dies_at, {"numbers": [1, 2, 3, 4], "deadly": 3}, "numbers", attempts=2)
    events = list(ProcessExecutor(1).run([job]))
    lost = ("lost", "the worker process ended (killed, perhaps for memory)")
    assert [(e.kind, e.value) for e in events] == [("value", 1), ("value", 4), lost, ("value", 16), ("done", None)]


def test_the_last_element_may_be_the_deadly_one() -> None:
    job = Job("a", dies_at, {"numbers": [1, 2], "deadly": 2}, "numbers", attempts=1)
    assert [e.kind for e in ProcessExecutor(1).run([job])] == ["value", "lost", "done"]


def test_a_job_in_one_piece_fails_when_its_attempts_are_used_up() -> None:
    events = list(ProcessExecutor(1).run([Job("a", dies_at, {"numbers": [1, 2], "deadly": 2}, attempts=3)]))
    assert [e.kind for e in events] == ["value", "failed"]


class TestRay:
    @pytest.fixture(autouse=True)
    def ray(self, package_for_workers: None) -> Any:
        return pytest.importorskip("ray", reason="Ray is not installed")

    def test_a_local_cluster_gives_the_events_of_one_process(self) -> None:
        jobs = [*SIMPLE, Job("unsendable", sends_what_cannot_be_sent)]
        events = list(RayExecutor(workers=2).run(jobs))
        alone = list(InProcessExecutor().run(SIMPLE))
        for job in SIMPLE:
            assert [e for e in events if e.key == job.key] == [e for e in alone if e.key == job.key]
        (failed,) = [e for e in events if e.key == "unsendable"]
        assert failed.kind == "failed"

    def test_a_node_is_killed_and_nothing_is_lost(self, ray: Any) -> None:
        """Two nodes; once both have given results, one is killed. Every element comes exactly once."""
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
            ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
            arguments = {"numbers": list(range(10)), "pause": 0.3}
            jobs = [Job(f"job{n}", with_its_place, arguments, "numbers", attempts=3) for n in range(6)]
            killed = None
            places: dict[str, int] = {}
            events = []
            for event in RayExecutor(workers=4).run(jobs):
                events.append(event)
                if event.kind == "value":
                    places[event.value[1]] = places.get(event.value[1], 0) + 1
                if killed is None and len(places) == 2:
                    killed = nodes[0].node_id
                    cluster.remove_node(nodes[0], allow_graceful=False)
            assert killed in places, "the node that was killed had worked"
            assert ends(events) == {job.key: 1 for job in jobs}
            assert all(e.kind != "failed" for e in events)
            for job in jobs:
                assert [number for number, _ in values(events, job.key)] == list(range(10))
        finally:
            ray.shutdown()
            cluster.shutdown()

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
        jobs = [*SIMPLE, Job("unsendable", sends_what_cannot_be_sent)]
        events = list(SlurmExecutor(tmp_path / "jobs", 2, "local", poll=0.1).run(jobs))
        alone = list(InProcessExecutor().run(SIMPLE))
        for job in SIMPLE:
            assert [e for e in events if e.key == job.key] == [e for e in alone if e.key == job.key]
        assert [e.kind for e in events if e.key == "unsendable"] == ["failed"]
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

    def test_options_go_to_submitit(self) -> None:
        options = {"folder": "jobs", "cluster": "local", "timeout_min": "5", "slurm_partition": "gpu"}
        executor = make_executor("slurm", ExecutorSettings(8, "cuda", options))
        assert isinstance(executor, SlurmExecutor)
        assert executor.parameters == {"timeout_min": 5, "slurm_partition": "gpu", "gpus_per_node": 1}
        assert (executor.workers, executor.cluster, executor.folder) == (8, "local", Path("jobs").absolute())

    def test_without_slurm_it_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="the executor 'slurm' cannot be used here"):
            list(SlurmExecutor(tmp_path / "jobs").run(SIMPLE))
