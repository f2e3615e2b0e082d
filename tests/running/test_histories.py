"""Training curves, found beside the checkpoints of a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ssa_analysis.running.histories import COLUMNS, training_history

LOG = "epoch,step,loss,lr,knn,seconds\n1,5,5.6,0.02,,0.3\n2,10,5.2,0.05,0.41,0.3\n"
RECORDS = (
    "epoch,measure,name,value,stderr,low,high,unit,converged,seconds,error\n"
    "0,curvature,lambda_max,9.5,,9.4,9.6,nats,1,1.0,\n"
    "2,curvature,lambda_max,4.5,,4.4,4.6,nats,1,1.0,\n"
    "2,shift,,,,,,,,0.1,it broke\n"
)


def table(*paths: str) -> pd.DataFrame:
    return pd.DataFrame({"checkpoint": [Path(p).parent.name for p in paths], "path": paths, "method": "simclr"})


def run(folder: Path, log: str | None = LOG, records: str | None = RECORDS) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("log.csv", log), ("records.csv", records)):
        if text is not None:
            (folder / name).write_text(text)
    return str(folder / "last.pt")


def test_losses_accuracies_and_records(tmp_path: Path) -> None:
    history = training_history(table(run(tmp_path / "a"), run(tmp_path / "b", records=None)))
    assert list(history.columns) == list(COLUMNS)
    own = history[history["checkpoint"] == "a"]
    assert own.groupby("score")["value"].apply(list).to_dict() == {
        "curvature.lambda_max": [9.5, 4.5],
        "knn": [0.41],
        "loss": [5.6, 5.2],
    }
    sharpness = own[own["score"] == "curvature.lambda_max"]
    assert sharpness[["epoch", "low", "high"]].to_numpy().tolist() == [[0, 9.4, 9.6], [2, 4.4, 4.6]]
    assert set(history.loc[history["checkpoint"] == "b", "score"]) == {"loss", "knn"}
    assert own["low"][own["score"] == "loss"].isna().all()


def test_paths_that_lead_nowhere_are_looked_for_beside_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "study" / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    assert training_history(table("runs/a/last.pt")).empty
    assert len(training_history(table("runs/a/last.pt"), tmp_path / "study")) == 5


@pytest.mark.parametrize(
    "content", ["", "epoch\n1\n", "a,b\n1\n2,3,4\n", "\x00\x01", "epoch,loss\nx,y\n", 'epoch,loss\n"1,2\n', "epoch,loss\n1,nan\n"]
)
def test_files_that_say_nothing_are_passed_over(content: str, tmp_path: Path) -> None:
    assert training_history(table(run(tmp_path / "a", content, content))).empty


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = run(tmp_path / "a", None, None)
    (tmp_path / "a" / "log.csv").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "a" / "records.csv").mkdir()
    assert training_history(table(path)).empty


def test_of_two_checkpoints_of_a_run_the_last_stands_for_it(tmp_path: Path) -> None:
    path = run(tmp_path / "a")
    both = table(str(Path(path).with_name("epoch1.pt")), path)
    both["checkpoint"] = ["a/epoch1", "a"]
    assert set(training_history(both)["checkpoint"]) == {"a"}


def test_checkpoints_kept_along_the_way_have_the_curves_of_their_run(tmp_path: Path) -> None:
    run(tmp_path / "a")
    assert set(training_history(table(str(tmp_path / "a" / "epochs" / "epoch-0010.pt")))["score"]) > {"loss"}


def test_no_runs_at_all() -> None:
    assert training_history(table("nowhere/last.pt")).empty
    assert list(training_history(table()).columns) == list(COLUMNS)
    assert not np.isfinite(training_history(table())["value"].to_numpy(float)).any()


def test_a_path_that_no_file_system_has_leads_nowhere(tmp_path: Path) -> None:
    assert training_history(table(f"runs/{'x' * 300}/last.pt", run(tmp_path / "a")), tmp_path)[
        "checkpoint"
    ].unique().tolist() == ["a"]
