"""One contact sheet for each recipe, and which checkpoints it is of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ssa_analysis.reports import html as module
from ssa_analysis.reports.figures import FIGURES
from ssa_analysis.reports.html import write_report
from ssa_analysis.reports.sheets import MOST, view_sheets

from ssa_analysis.data.datasets import Data
from ssa_analysis.data.fourier import FourierSettings
from ssa_analysis.data.sheet import view_tiles
from ssa_analysis.data.views import named_recipe
from ssa_analysis.running.store import Store
from ssa_analysis.training.loop import training_recipe
from ssa_analysis.training.settings import TrainSettings


def table(reports: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"sha256": [str(i) for i in range(len(reports))], "report": reports})


def trained(**settings: Any) -> dict[str, Any]:
    return {"training": {"settings": TrainSettings(**settings).to_dict()}}


def test_checkpoints_of_one_recipe_share_a_sheet_the_most_common_first(digits: Data) -> None:
    reports = [
        trained(method="ssa-clr"),
        trained(),
        trained(lr=0.5),
        {},
        trained(method="ssa-clr", fourier=FourierSettings(alpha=0.5)),
    ]
    sheets = list(view_sheets(table(reports), digits))
    assert [sheet.checkpoints for sheet in sheets] == [
        ("1", "2", "3"),
        ("0",),
        ("4",),
    ]  # what the file does not say is the data's
    assert [sheet.title.split(", ")[-1] for sheet in sheets] == ["no Fourier", "α 1", "α 0.5"]
    assert sheets[0].title == "crops from 50%, jitter 0.4/0.4/0/0, rotate 15, no Fourier"


def test_a_sheet_shows_held_out_images_by_its_recipe(digits: Data) -> None:
    (sheet,) = view_sheets(table([trained(method="ssa-clr", strength=0.5)]), digits)
    picked = digits.index_of("held-out")[:64]
    recipe = training_recipe(TrainSettings(method="ssa-clr", strength=0.5), digits)
    expected = view_tiles(digits.images[picked], recipe, labels=digits.labels[picked])
    assert all((a == b).all() for a, b in zip(sheet.tiles["pixels"], expected["pixels"], strict=True))


@pytest.mark.parametrize(
    "report", [None, {"training": {}}, {"training": {"settings": {"method": "nobody's"}}}, {"training": {"settings": {"x": 1}}}]
)
def test_settings_that_cannot_be_read_are_the_data_s_own(report: Any, digits: Data) -> None:
    (sheet,) = view_sheets(table([report]), digits)
    (own,) = view_sheets(table([{}]), digits)
    assert sheet.title == own.title
    assert named_recipe(digits.recipe).fourier is None


def test_not_more_sheets_than_one_looks_at(digits: Data) -> None:
    assert len(list(view_sheets(table([trained(strength=0.1 * (i + 1)) for i in range(MOST + 3)]), digits))) == MOST


def test_the_page_of_a_checkpoint_names_its_sheet(
    store: Store, tmp_path: Path, digits: Data, fill_store: Callable[..., None], scores_for: Callable[[int], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "FIGURES", [entry for entry in FIGURES if entry.name == "eigenvalues"])
    seen: dict[str, str] = {}

    def keep(*arguments: Any) -> dict[str, Any]:
        seen.update(arguments[-1])
        return {}

    monkeypatch.setattr(module, "make_cards", keep)
    fill_store(store, "a", "simclr", scores_for(0)[:1])
    page = write_report(store, tmp_path / "report", images=digits)
    assert seen == {store.checkpoints()["sha256"].iloc[0]: "views_sheet"}
    assert 'id="views_sheet"' in page.read_text()
    assert (tmp_path / "report" / "figures" / "views_sheet.pdf").exists()
