"""Fixtures for all tests: one thread (so that numbers do not depend on the machine) and a tiny trained checkpoint."""

from __future__ import annotations

import fcntl
import gc
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read by numpy and torch as they load
    os.environ.setdefault(variable, "1")

import pytest
import torch
from command_line import DRAWN, ROOT, Ended, prepare, run_cli, small
from processes import forking
from ssa_analysis.reports import html

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.data.datasets import Data, load_data
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.training.loop import train
from ssa_analysis.training.settings import TrainSettings

torch.set_num_threads(1)

NOBODY = 65534  # user id without rights
TINY = TrainSettings(arch="convnet", width=4, projector=(16, 8), epochs=3, batch=64, lr=0.1, warmup=1, knn_every=0)
# the files that take longest, which a session begins with, so that no processor waits for the last one; any others follow
LONGEST = (
    "test_clusters", "test_documents", "test_demo", "test_html", "test_spectrum_coverage", "test_simulated_world",
    "test_finite_worlds", "test_many_checkpoints", "test_families", "test_curvature_peers", "test_parallel", "test_study",
    "test_cli", "test_benchmarks", "test_shift_coverage", "test_torchrun", "test_ranks", "test_docs_build", "test_help_examples",
    "test_study_verb", "test_report_page", "test_mmd", "test_hessian_networks", "test_figures", "test_bad_input",
    "test_downstream_labels", "test_hostile_pickles", "test_flatness_coverage", "test_flatness_closed_forms", "test_hessian",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Tests are shared out in their own order; by itself ``--dist loadfile`` begins with the files that have most of them."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_finish(session: pytest.Session) -> None:
    """What the imports have made stays to the end; looking through it for garbage again and again takes its time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def digits() -> Data:
    """About 600 of the handwritten digits."""
    return load_data("digits", subset=600)


@pytest.fixture(scope="session")
def tiny_checkpoint(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convnet of width 4 after three epochs of SimCLR on ``digits``."""
    return train(TINY, digits, tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def encoder(tiny_checkpoint: Path) -> Encoder:
    """The tiny encoder, loaded afresh, so that a test may change it."""
    return load_checkpoint(tiny_checkpoint).encoder


@dataclass(frozen=True)
class FinishedStudy:
    """``studies/smoke.toml`` as ``ssa-analyze study`` leaves it, and what the command printed."""

    folder: Path  # of test_study_verb alone, which goes on in it
    copy: Path  # not to be written
    ended: Ended


@pytest.fixture(scope="session")
def smoke_study(tmp_path_factory: pytest.TempPathFactory) -> FinishedStudy:
    """Run once for all workers of the session."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke_study"
    place.mkdir(exist_ok=True)
    found = FinishedStudy(place / "smoke", place / "copy", Ended(0, b"", ""))
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "ended").exists():
            with pytest.MonkeyPatch.context() as patched:  # the reports' own tests draw all
                patched.setattr(html, "FIGURES", [entry for entry in html.FIGURES if entry.name in DRAWN])
                ended = run_cli("study", ROOT / "studies" / "smoke.toml", "--out", found.folder)
            shutil.copytree(found.folder, found.copy)
            (place / "ended").write_bytes(pickle.dumps(ended))
        return replace(found, ended=pickle.loads((place / "ended").read_bytes()))


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Executors fork their workers instead of spawning them; see ``processes``."""
    monkeypatch.setattr(multiprocessing, "get_context", forking)


@pytest.fixture
def ordinary_user() -> Callable[[], AbstractContextManager[None]]:
    """Permissions mean nothing to root, so inside the block root is nobody."""

    @contextmanager
    def block() -> Iterator[None]:
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)

    return block


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands of help and documents name; do not work in it, see ``workplace``."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patched:
        small(patched)
        prepare(folder)
    return folder


@pytest.fixture
def workplace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the test works, with measures that take seconds."""
    folder = shutil.copytree(prepared, tmp_path / "work", symlinks=True)
    small(monkeypatch)
    monkeypatch.chdir(folder)
    return folder
