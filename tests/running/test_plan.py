"""Planning: names and settings are checked before anything runs, and the key of a cell follows from them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.checkpoints.own_model import parse_model
from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import CheckpointError, SettingsError
from ssa_analysis.measures import MEASURES
from ssa_analysis.running.environment import environment, environment_id
from ssa_analysis.running.plan import Cell, DataSpec, default_measures, loaded_data, make_cells
from ssa_analysis.version import __version__


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


def plan(
    files: list[Path], data: Data, measures: tuple[str, ...] = ("downstream",), seed: int = 0, shared=None, **overrides
) -> list[Cell]:
    return make_cells(files, data, measures, seed, shared or {}, overrides)


def test_cells_stand_in_the_order_of_checkpoints_then_measures(files: list[Path], digits: Data) -> None:
    cells = plan(files, digits, ("shift", "downstream", "shift"))
    a, b = map(str, files)
    assert [(c.path, c.measure) for c in cells] == [(a, "shift"), (a, "downstream"), (b, "shift"), (b, "downstream")]
    assert cells[0].sha256 == hashlib.sha256(b"a.pt").hexdigest()
    assert {(c.data_name, c.data_fingerprint) for c in cells} == {("digits", digits.fingerprint)}


def test_all_settings_are_written_out_with_their_defaults(files: list[Path], digits: Data) -> None:
    cell = plan(files, digits, seed=5)[0]
    assert cell.settings == {
        "seed": 5,
        "views": "own",
        "tau": None,
        "beta": None,
        "neighbours": 200,
        "temperature": 0.1,
        "draws": 5,
    }
    assert cell.seed == 5


def test_a_setting_named_with_its_default_is_the_same_cell(files: list[Path], digits: Data) -> None:
    assert plan(files, digits, downstream={"neighbours": "200"})[0].key == plan(files, digits)[0].key


def test_overrides_win_over_shared_settings_and_the_seed(files: list[Path], digits: Data) -> None:
    shared = {"tau": 0.5, "views": "simclr"}
    cells = plan(files[:1], digits, ("downstream", "shift"), 1, shared, shift={"tau": "0.2", "seed": "9"})
    by_measure = {cell.measure: cell.settings for cell in cells}
    assert (by_measure["shift"]["tau"], by_measure["shift"]["seed"], by_measure["shift"]["views"]) == (0.2, 9, "simclr")
    assert (by_measure["downstream"]["tau"], by_measure["downstream"]["seed"]) == (0.5, 1)


def test_text_from_the_command_line_becomes_the_type_of_the_default(files: list[Path], digits: Data) -> None:
    settings = plan(
        files, digits, ("curvature",), curvature={"top": "3", "tolerance": "1e-2", "tau": "none", "backend": "pyhessian"}
    )[0].settings
    assert [settings[k] for k in ("top", "tolerance", "tau", "backend")] == [3, 0.01, None, "pyhessian"]
    assert type(settings["top"]) is int


@pytest.mark.parametrize(
    ("measures", "overrides", "message"),
    [
        (("downstrem",), {}, r"unknown measure 'downstrem'; did you mean downstream\?"),
        (("downstream",), {"curvatur": {"top": 3}}, r"unknown measure 'curvatur'; did you mean curvature\?"),
        (("zzz",), {}, r"unknown measure 'zzz'; known: curvature, .*downstream"),
        (("downstream",), {"downstream": {"neighbors": 3}}, r"setting of downstream 'neighbors'; did you mean neighbours\?"),
        (("downstream",), {"downstream": {"neighbours": "many"}}, r"neighbours of downstream must be of type int, got 'many'"),
        (("downstream",), {"downstream": {"neighbours": "2.5"}}, r"neighbours of downstream must be of type int, got '2.5'"),
        (("downstream",), {"downstream": {"tau": "hot"}}, r"tau of downstream must be of type float, got 'hot'"),
        ((), {}, "no measures were named"),
    ],
)
def test_what_is_wrong_with_names_and_settings(
    files: list[Path], digits: Data, measures: tuple[str, ...], overrides: dict[str, dict[str, object]], message: str
) -> None:
    with pytest.raises(SettingsError, match=message) as error:
        plan(files, digits, measures, **overrides)
    assert error.value.is_usage


def test_a_file_that_is_not_there(tmp_path: Path, digits: Data) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pt: cannot be read"):
        plan([tmp_path / "gone.pt"], digits)


def test_a_raised_revision_of_a_measure_is_another_cell(files: list[Path], digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan(files, digits)[0]
    monkeypatch.setitem(MEASURES._entries, "downstream", replace(MEASURES.get("downstream"), revision=99))
    after = plan(files, digits)[0]
    assert after.code_version == f"{__version__}/99"
    assert after.key != before.key


def test_the_bounds_are_known_but_not_run_by_default() -> None:
    names = default_measures()
    assert "bounds" in MEASURES
    assert "bounds" not in names
    assert set(names) == {"curvature", "flatness", "landscape", "shift", "robustness", "downstream", "representation"}


def test_data_is_loaded_once_for_a_spec() -> None:
    spec = DataSpec("digits", subset=60)
    assert loaded_data(spec) is loaded_data(DataSpec("digits", subset=60))
    assert len(loaded_data(spec).labels) == 60


def test_the_environment_says_what_the_numbers_hang_on() -> None:
    values = environment()
    assert values["ssa_analysis"] == __version__
    for name in ("torch", "numpy", "scipy", "scikit-learn", "kornia"):
        assert values["packages"][name][0].isdigit()
    assert {"python", "platform", "processor", "cores", "gpu", "git_commit"} <= set(values)
    assert environment_id(values) == environment_id(dict(reversed(values.items())))
    assert environment_id({**values, "cores": -1}) != environment_id(values)


def test_the_key_belongs_to_content_function_and_normalisation_of_a_users_architecture(
    files: list[Path], digits: Data, tmp_path: Path
) -> None:
    def key(code: str = "A", function: str = "build", normalise: str | None = "half", name: str = "net.py") -> str:
        (tmp_path / name).write_text(code)
        model = parse_model(f"{tmp_path / name}:{function}", normalise)
        return make_cells(files[:1], digits, ["downstream"], 0, {}, {}, LoadOptions(model))[0].key

    keys = [
        plan(files[:1], digits)[0].key, key(), key("B"), key(function="other"), key(normalise="none"), key(normalise=None),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key(name="moved.py") == key()  # where the file lies does not matter
