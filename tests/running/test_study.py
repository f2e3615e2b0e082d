"""Studies: the grid of a file, what cannot be, what is left to do, and eight workers for one."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ssa_analysis.errors import SettingsError
from ssa_analysis.running.estimate import estimate
from ssa_analysis.running.executors import InProcessExecutor, ProcessExecutor
from ssa_analysis.running.plan import Cell, CellResult, loaded_data
from ssa_analysis.running.scoring import run_cells
from ssa_analysis.running.store import Store
from ssa_analysis.running.study import Study, expand_grid, read_study, study_from_dict
from ssa_analysis.running.study_run import StudyFolder, is_trained, missing_runs, score_missing, study_cells, train_missing
from ssa_analysis.scores import Score

STUDIES = Path(__file__).resolve().parents[2] / "studies"
BASE = {"arch": "convnet", "projector": [16, 8], "rho": 0.1}


def names(grid: list[dict[str, Any]], seeds: tuple[int, ...] = (0,), **train: Any) -> list[str]:
    return [run.name for run in expand_grid({**BASE, **train}, grid, seeds)]


def test_a_block_is_every_combination_of_its_axes() -> None:
    found = names([{"method": ["simclr", "ssa-clr"], "lr": [0.1, 0.2], "tau": 0.3}], (0, 7))
    assert found == [
        f"{method}-lr{lr}-tau0.3-s{seed}" for method in ("simclr", "ssa-clr") for lr in (0.1, 0.2) for seed in (0, 7)
    ]
    (run, *_) = expand_grid(BASE, [{"method": "ssa-clr", "lr": 0.2, "alpha": 0.5}], [3])
    assert (run.settings.lr, run.settings.fourier.alpha, run.settings.seed, run.settings.rho) == (0.2, 0.5, 3, 0.1)


def test_what_a_method_does_not_use_makes_no_further_run() -> None:
    grid = [{"method": ["simclr", "simclr-sam", "simclr-fourier"], "rho": [0.05, 0.2], "alpha": [0.5, 1.0]}]
    assert names(grid) == [
        "simclr-s0", "simclr-sam-rho0.05-s0", "simclr-sam-rho0.2-s0", "simclr-fourier-alpha0.5-s0", "simclr-fourier-alpha1.0-s0",
    ]  # fmt: skip
    runs = expand_grid(BASE, grid, [0])
    assert len({run.configuration for run in runs}) == 5


def test_a_later_block_adds_only_what_is_new() -> None:
    grid = [{"method": ["simclr", "ssa-clr"]}, {"method": "ssa-clr", "rho": [0.1, 0.5]}]
    assert names(grid) == ["simclr-s0", "ssa-clr-s0", "ssa-clr-rho0.5-s0"]


def test_a_projector_is_a_value_and_a_list_of_them_an_axis() -> None:
    assert names([{"projector": [[16, 8], [32, 8]]}]) == ["simclr-projector16-8-s0", "simclr-projector32-8-s0"]
    assert names([{"projector": [16, 8]}]) == ["simclr-projector16-8-s0"]


GOOD: dict[str, Any] = {"data": {"name": "digits"}, "train": dict(BASE), "grid": [{"method": ["simclr"]}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grids": []}, r"unknown table 'grids'; did you mean grid\?"),
        ({"data": {}}, "needs the name of a data set"),
        ({"data": {"name": "digits", "subset": "many"}}, "data.subset must be of type int, got 'many'"),
        ({"data": {"name": "digits", "sub": 3}}, "unknown setting of .data. 'sub'; did you mean subset"),
        ({"train": {"lr": "high"}}, "lr must be of type float, got 'high'"),
        ({"train": {"epochs": 2.5}}, "epochs must be of type int, got 2.5"),
        ({"train": {"window": True}}, "window must be of type int . None, got True"),
        ({"train": {"learning_rate": 0.1}}, "unknown training setting 'learning_rate'"),
        ({"train": {"record": ["shift"]}}, "needs train.record_every"),
        ({"train": {"record_every": -1}}, "must be a whole number"),
        ({"grid": {"method": "simclr"}}, "must be tables"),
        ({"grid": [{"method": []}]}, "method has no values"),
        ({"grid": [{"method": "simcrl"}]}, "unknown method 'simcrl'; did you mean simclr"),
        ({"grid": [{"seed": [0, 1]}]}, "seeds are named once"),
        ({"grid": [{"rho": -1.0, "method": "ssa-clr"}]}, "rho must be positive"),
        ({"seeds": []}, "name at least one"),
        ({"seeds": [0.5]}, "must be a whole number"),
        ({"score": {"measures": "shift"}}, "must be a list of names"),
        ({"score": {"measures": ["shft"]}}, "unknown measure 'shft'; did you mean shift"),
        ({"score": {"set": {"shift": {"pears": 3}}}}, "unknown setting of shift 'pears'; did you mean pairs"),
        ({"score": {"set": {"shift": 3}}}, "must hold a table"),
        ({"link": {"targets": "a.b"}}, "unknown setting of .link. 'targets'; did you mean target"),
        ({"link": {"target": "accuracy"}}, "are named measure.name"),
        ({"transfer": {"name": "digits"}}, "must be tables"),
        ({"score": []}, "must be a table"),
    ],
)
def test_what_cannot_be_is_refused_by_its_place(changes: dict[str, Any], message: str) -> None:
    assert study_from_dict(GOOD).runs
    with pytest.raises(SettingsError, match=message):
        study_from_dict({**GOOD, **changes})


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("name = ")
    with pytest.raises(SettingsError, match=r"a\.toml: is no TOML \(Invalid value"):
        read_study(tmp_path / "a.toml")
    with pytest.raises(SettingsError, match=r"b\.toml: cannot be read \(No such file or directory\)"):
        read_study(tmp_path / "b.toml")


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda p: p.stem)
def test_the_studies_of_the_repository_can_be_read(path: Path) -> None:
    study = read_study(path)
    assert study.name == path.stem
    if path.stem == "digits":
        assert len(study.runs) >= 48
        seeds = pd.Series([run.configuration for run in study.runs]).value_counts()
        assert set(seeds) == {3}


def test_an_estimate_grows_with_the_work() -> None:
    study = read_study(STUDIES / "smoke.toml")
    data = loaded_data(study.data)
    plans = [(1, {"shift": {}})]
    one = estimate(study.runs[:2], data, plans, device="cpu", workers=1)
    long = [type(run)(run.name, type(run.settings)(**{**vars(run.settings), "epochs": 200})) for run in study.runs[:2]]
    many = estimate(long, data, plans, device="cpu", workers=1)
    assert 20 < many.training / one.training < 500
    assert one.disk > 4 * 1000
    assert one.scoring > 0
    assert estimate([], data, [], device="cpu", workers=1).seconds == 0


@pytest.fixture(scope="module")
def finished(smoke_study: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, StudyFolder]:
    folder = tmp_path_factory.mktemp("finished") / "smoke"
    shutil.copytree(smoke_study.copy, folder)
    return read_study(STUDIES / "smoke.toml"), StudyFolder(folder)


def test_only_a_run_at_its_last_epoch_is_trained(finished: tuple[Study, StudyFolder], tmp_path: Path) -> None:
    study, folder = finished
    run = study.runs[0]
    path = folder.checkpoint(run)
    assert is_trained(path, run.settings)
    assert not is_trained(path, dataclasses.replace(run.settings, lr=0.3))
    assert not is_trained(tmp_path / "none.pt", run.settings)
    payload = torch.load(path, weights_only=True)
    payload["training"]["epoch"] -= 1
    torch.save(payload, tmp_path / "half.pt")
    assert not is_trained(tmp_path / "half.pt", run.settings)


def test_a_finished_study_has_nothing_left_to_do(finished: tuple[Study, StudyFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are the scores of all its cells taken into memory."""
    monkeypatch.setattr(Store, "scores_of", None)
    study, folder = finished
    assert missing_runs(study, folder) == []
    with Store(folder.store) as store:
        computed: list[CellResult] = []
        score_missing(study_cells(study, folder), store, InProcessExecutor(), on_result=computed.append)
    assert computed == []


def test_a_run_that_diverges_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    study = study_from_dict(
        {
            "data": {"name": "digits", "subset": 300}, "score": {"measures": ["downstream"]},
            "train": {**BASE, "width": 4, "batch": 32, "epochs": 2, "warmup": 0, "knn_every": 0}, "grid": [{"lr": [1e30, 0.1]}],
        }
    )  # fmt: skip
    problems = train_missing(study, StudyFolder(tmp_path), study.runs, InProcessExecutor())
    assert list(problems) == ["simclr-lr1e+30-s0"]
    assert "diverged" in problems["simclr-lr1e+30-s0"]
    (spec_and_cells,) = study_cells(study, StudyFolder(tmp_path))
    assert [Path(cell.path).parent.name for cell in spec_and_cells[1]] == ["simclr-lr0.1-s0"]


def test_transfer_sets_are_probed(finished: tuple[Study, StudyFolder], tmp_path: Path) -> None:
    study, folder = finished
    both = dataclasses.replace(study, transfer=(dataclasses.replace(study.data, subset=400),))
    plans = study_cells(both, folder)
    assert [spec.subset for spec, _ in plans] == [300, 400]
    assert {cell.measure for cell in plans[1][1]} == {"downstream"}
    assert len(plans[1][1]) == len(study.runs)


def pretend(cells: list[Cell], spec: Any, device: str, scratch: Any) -> Iterator[CellResult]:
    """What stands for measuring where 200 cells must be quick."""
    for cell in cells:
        number = int(cell.sha256[:8], 16) / 2**32
        yield CellResult(cell, [Score(cell.measure, "value", number, checkpoint=cell.path)])


@pytest.mark.usefixtures("forked_workers")
def test_eight_workers_give_the_store_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred cells of fifty checkpoints: the same cells, each once, with the same numbers."""
    import hashlib

    from ssa_analysis.running import scoring

    monkeypatch.setattr(scoring, "run_checkpoint", pretend)
    hashes = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(50)]
    cells = [
        Cell(f"runs/{n}/last.pt", sha256, measure, {"seed": 0}, "digits", "f" * 16, "0.1.0/1")
        for n, sha256 in enumerate(hashes)
        for measure in ("curvature", "flatness", "shift", "downstream")
    ]
    frames = []
    for name, executor in (("one", InProcessExecutor()), ("eight", ProcessExecutor(8))):
        with Store(tmp_path / f"{name}.db") as store:
            told: list[str] = []
            summary = run_cells(cells, None, executor=executor, store=store, on_result=lambda r: told.append(r.cell.key))  # type: ignore[arg-type] # noqa: B023
            assert (summary.computed, len(told), len(set(told))) == (200, 200, 200)
            assert not summary.failures
            columns = ["sha256", "measure", "name", "value"]
            frames.append(store.frame()[columns].sort_values(columns[:2], ignore_index=True))
    pd.testing.assert_frame_equal(*frames)
