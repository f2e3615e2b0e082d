"""A study: a grid of training runs, what is measured on them, and what is asked of the scores; read from a TOML file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ssa_analysis.errors import SettingsError
from ssa_analysis.linking.hypotheses import HypothesisSettings
from ssa_analysis.measures import MEASURES
from ssa_analysis.registry import check_fields, unknown_name
from ssa_analysis.running.plan import DataSpec, default_measures
from ssa_analysis.texts import one_line
from ssa_analysis.toml_files import read_toml
from ssa_analysis.training.settings import (
    FOURIER_KEYS,
    SHARPNESS_KEYS,
    TrainSettings,
    hyperparameters,
    method_row,
    settings_from_flat,
)

MOST_RUNS = 100_000
LONGEST_NAME = 200  # bytes; file systems allow 255
TABLES = ("name", "seeds", "data", "transfer", "train", "grid", "score", "link")


@dataclass(frozen=True)
class Run:
    """One checkpoint of a study: its name, which is that of its folder, and the settings of its training."""

    name: str
    settings: TrainSettings

    @property
    def configuration(self) -> tuple[tuple[str, Any], ...]:
        """What decides its weights apart from the seed; runs of the same configuration are repetitions."""
        return tuple(sorted(hyperparameters(self.settings.to_dict()).items()))


@dataclass(frozen=True)
class Study:
    """A study, ready to run.

    Attributes:
        transfer: further data sets on which all checkpoints are probed.
        record, record_every: measures that are taken during the training, every so many epochs; 0 none.
        measures, overrides, seed: as of ``ssa-analyze score``.
        hypotheses: the target of the links, and the scores that stand for sharpness and shift.
    """

    name: str
    data: DataSpec
    runs: tuple[Run, ...]
    transfer: tuple[DataSpec, ...] = ()
    measures: tuple[str, ...] = ()
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 0
    record: tuple[str, ...] = ()
    record_every: int = 0
    hypotheses: HypothesisSettings = field(default_factory=HypothesisSettings)

    @property
    def configurations(self) -> int:
        """How many different configurations the runs have."""
        return len({run.configuration for run in self.runs})


def read_study(path: str | Path) -> Study:
    """Read a study's TOML file.

    Raises:
        SettingsError: no such file, no TOML, or a table, name or value that cannot be, named with its place.
    """
    path = Path(path)
    content = read_toml(path)
    try:
        return study_from_dict(content, path.stem)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def study_from_dict(content: Mapping[str, Any], name: str = "study") -> Study:
    """A study from the content of its file; ``name`` where it gives none. SettingsError as of :func:`read_study`."""
    for key in content:
        if key not in TABLES:
            raise unknown_name("table", key, list(TABLES))
    data = _data_spec("data", _table(content, "data"))
    transfer = content.get("transfer", [])
    if not isinstance(transfer, list) or not all(isinstance(item, dict) for item in transfer):
        raise SettingsError("transfer must be tables [[transfer]], one for each data set")
    score = _table(content, "score")
    _only("score", score, ("measures", "seed", "set"))
    train = dict(_table(content, "train"))
    record, record_every = _strings("train.record", train.pop("record", [])), train.pop("record_every", 0)
    if not isinstance(record_every, int) or isinstance(record_every, bool) or record_every < 0:
        raise SettingsError(f"train.record_every must be a whole number, got {record_every!r}")
    if record and not record_every:
        raise SettingsError("train.record needs train.record_every, the number of epochs between two records")
    measures = _strings("score.measures", score.get("measures", default_measures()))
    overrides = score.get("set", {})
    if not isinstance(overrides, dict) or not all(isinstance(item, dict) for item in overrides.values()):
        raise SettingsError("score.set must hold a table of settings for each measure")
    for measure in (*measures, *record):
        MEASURES.get(measure)
    for measure, settings in overrides.items():
        MEASURES.get(measure).make_settings(settings)
    link = _table(content, "link")
    check_fields("setting of [link]", link, HypothesisSettings)
    for key, value in link.items():
        if key in ("draws", "permutations", "seed"):
            _whole(f"link.{key}", value)
        elif key in ("sharpness", "shift"):
            _strings(f"link.{key}", value)
    try:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in link.items()}
        hypotheses = HypothesisSettings(**values)
    except TypeError as error:
        raise SettingsError(f"a setting of [link] has the wrong type: {error}") from error
    grid = content.get("grid", [{}])
    if not isinstance(grid, list) or not grid or not all(isinstance(block, dict) for block in grid):
        raise SettingsError("grid must be tables [[grid]], one for each block of runs")
    return Study(
        _folder_name("name", content.get("name", name)),
        data,
        expand_grid(train, grid, _seeds(content.get("seeds", [0]))),
        tuple(_data_spec("transfer", item) for item in transfer),
        measures,
        overrides,
        _whole("score.seed", score.get("seed", 0)),
        record,
        record_every,
        hypotheses,
    )


def expand_grid(train: Mapping[str, Any], grid: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> tuple[Run, ...]:
    """All runs of a grid, block by block.

    Args:
        train: settings of all runs. grid: blocks; a list is an axis (for ``projector``: a list of lists), and a block
            stands for every combination of its axes. seeds: of every configuration.

    Settings that a method does not use are set to their defaults; of runs that are then the same, one is left.
    """
    runs: dict[str, Run] = {}
    seen: set[tuple[Any, ...]] = set()
    for block in grid:
        axes: dict[str, list[Any]] = {key: value if _is_axis(key, value) else [value] for key, value in block.items()}
        for key, values in axes.items():
            if not values:
                raise SettingsError(f"grid: {key} has no values")
        if math.prod(map(len, axes.values())) * len(seeds) > MOST_RUNS:
            raise SettingsError(f"grid: more than {MOST_RUNS:,} runs")
        for point in itertools.product(*axes.values()):
            chosen = dict(zip(axes, point, strict=True))
            if "seed" in chosen:
                raise SettingsError("grid: seeds are named once, for all runs: seeds = [0, 1, 2]")
            for seed in seeds:
                settings = _canonical(settings_from_flat({**train, **chosen, "seed": seed}))
                name = _folder_name("a run's name", _run_name(settings, chosen))
                run = Run(name, settings)
                identity = (run.configuration, seed)
                if identity in seen:
                    continue
                seen.add(identity)
                if name in runs:
                    raise SettingsError(f"grid: two different runs would be called {name!r}; name what differs in both blocks")
                runs[name] = run
    return tuple(runs.values())


def _is_axis(key: str, value: Any) -> bool:
    return isinstance(value, list) and (key != "projector" or all(isinstance(item, list) for item in value))


def _canonical(settings: TrainSettings) -> TrainSettings:
    """The settings with what the method does not use at its default."""
    method, default = method_row(settings.method), TrainSettings()
    if not method.sharpness_aware:
        settings = replace(settings, rho=default.rho, adaptive=default.adaptive)
    return settings if method.fourier else replace(settings, fourier=default.fourier)


def _run_name(settings: TrainSettings, chosen: Mapping[str, Any]) -> str:
    """The method, what the grid varies of it, and the seed, such as ``ssa-clr-lr0.1-tau0.5-s0``: fit for a folder."""
    method, parts = method_row(settings.method), [settings.method]
    unused = (set() if method.sharpness_aware else SHARPNESS_KEYS) | (set() if method.fourier else FOURIER_KEYS)
    for key, value in chosen.items():
        if key != "method" and key not in unused:
            text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
            parts.append(f"{key.replace('_', '')}{text}".replace("/", "."))
    return "-".join([*parts, f"s{settings.seed}"])


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise SettingsError(f"{name} must be a table [{name}]")
    return table


def _only(where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise unknown_name(f"setting of [{where}]", key, list(known))


def _strings(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SettingsError(f"{where} must be a list of names, got {value!r}")
    return tuple(value)


def _whole(where: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 63:
        raise SettingsError(f"{where} must be a whole number, got {value!r:.80}")
    return value


def _folder_name(where: str, value: Any) -> str:
    """A name that is to be a folder's: it leads nowhere else, and shows as it is."""
    if not isinstance(value, str) or not value.strip() or set(value) & set("/\\") or value in (".", ".."):
        raise SettingsError(f"{where} is to be a folder's name, without slashes, got {value!r:.80}")
    if len(value.encode(errors="replace")) > LONGEST_NAME or one_line(value) != value:
        raise SettingsError(f"{where} has more than {LONGEST_NAME} bytes or signs that do not show: {value!r:.80}")
    return value


def _seeds(value: Any) -> list[int]:
    if isinstance(value, int) and value > MOST_RUNS:
        raise SettingsError(f"seeds: more than {MOST_RUNS:,}")
    seeds = value if isinstance(value, list) else list(range(_whole("seeds", value)))
    if not seeds:
        raise SettingsError("seeds: name at least one")
    return list(dict.fromkeys(_whole("seeds", seed) for seed in seeds))


def _data_spec(where: str, table: Mapping[str, Any]) -> DataSpec:
    _only(where, table, [f.name for f in fields(DataSpec)])
    if not isinstance(table.get("name"), str):
        raise SettingsError(f'[{where}] needs the name of a data set: name = "digits"')
    for key, value in table.items():
        kind: type = {"name": str, "root": str, "download": bool}.get(key, int)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise SettingsError(f"{where}.{key} must be of type {kind.__name__}, got {value!r}")
    return DataSpec(**table)
