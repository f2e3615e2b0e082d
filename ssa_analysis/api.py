"""Scores from Python: of a file, a module or an encoder, as a data frame.

>>> import ssa_analysis
>>> frame = ssa_analysis.score(net, data="cifar10", measures=["shift"], normalise="cifar10")  # doctest: +SKIP
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ssa_analysis.checkpoints.finding import find_checkpoints
from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.options import load_options
from ssa_analysis.checkpoints.own_model import OwnModel, as_encoder
from ssa_analysis.data.datasets import Data, load_data
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.base import forget
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.running.measuring import run_measure
from ssa_analysis.running.plan import default_measures, measure_settings
from ssa_analysis.running.store import SCORE_COLUMNS
from ssa_analysis.scores import Score
from ssa_analysis.version import __version__

Target = str | Path | nn.Module


class ScoreFrame(pd.DataFrame):
    """A data frame of scores that prints shortly, in notebooks too; all columns are there.

    ``attrs["failures"]`` says what could not be measured, and why.
    """

    @property
    def _constructor(self) -> type[ScoreFrame]:
        return ScoreFrame

    @property
    def _constructor_sliced(self) -> type[pd.Series]:
        return pd.Series

    def short(self) -> pd.DataFrame:
        """One row a score: checkpoint, name, value with its error or interval, unit."""
        if not set(SCORE_COLUMNS) <= set(self.columns):
            return pd.DataFrame(self)
        shown = {"checkpoint": self["checkpoint"], "measure": self["measure"], "score": self["name"]}
        return pd.DataFrame({**shown, "value": [_with_error(row) for row in self.itertuples()], "unit": self["unit"]})

    def __repr__(self) -> str:
        return self.short().to_string(index=False)

    def _repr_html_(self) -> str:
        return self.short().to_html(index=False)


def score(
    target: Target | Sequence[Target] | Mapping[str, Target],
    data: str | Path | Data,
    measures: Sequence[str] | None = None,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    normalise: str | None = None,
    layout: str | None = None,
    recipe: Sequence[str] = (),
    embedding: str = "projector",
    views: str = "own",
    loss: str = "contrastive",
    tau: float | None = None,
    seed: int = 0,
    device: str | None = None,
    keep_failures: bool = False,
) -> ScoreFrame:
    """Measure checkpoints or modules and return their scores, a row each, with the columns of a store's frame.

    Args:
        target: a path, a glob or a folder; a ``torch.nn.Module``, which is copied and left as it is; an
            :class:`~ssa_analysis.Encoder`; several of them, or a dictionary of names and one for each.
        data: images: a data set's name, a path, or :class:`~ssa_analysis.Data`.
        measures: names; default: those that ``ssa-analyze score`` runs.
        settings: of measures, by name, as ``{"curvature": {"top": 5}}``.
        normalise: of a plain module's images, needed there: ``imagenet``, ``cifar10``, ..., or ``m,m,m/s,s,s``.
        layout, recipe, embedding: how files are to be read, see ``ssa-analyze score --help``.
        views, loss, tau: settings of several measures. seed: of every random choice.
        device: default: where a module is; ``cuda`` for files where there is one, else ``cpu``.
        keep_failures: what a measure cannot do becomes a row without a value, and its reason stands in
            ``frame.attrs["failures"]``; otherwise it is raised.

    Raises:
        SettingsError: an unknown measure, setting, or a plain module without ``normalise``. CheckpointError, DataError:
        of files. MeasureError: of a measure, unless ``keep_failures``.
    """
    images = data if isinstance(data, Data) else load_data(str(data))
    names = list(measures) if measures is not None else default_measures()
    if isinstance(measures, str):
        raise SettingsError(f"measures is a list of names; write [{measures!r}]")
    chosen = measure_settings(names, seed, {"views": views, "loss": loss, "tau": tau}, settings or {})
    options = load_options(None, layout, [*recipe, *([f"normalisation={normalise}"] if normalise else [])], embedding)
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    for label, one in _named(target).items():
        encoder, about = _encoder(one, normalise, embedding, options, device)
        about |= {"checkpoint": label, "data": images.name}
        for name, setting in chosen.items():
            found = run_measure(MEASURES.get(name), setting, encoder, images)
            if found.error is not None and not keep_failures:
                raise found.error
            failures += [f"{label} {name}: {found.reason}"] if found.error is not None else []
            scores = found.scores if found.error is None else [Score(name, "", float("nan"), converged=False)]
            rows += [_row(s.with_context(label, setting.to_dict(), found.seconds), about, seed) for s in scores]
        forget(encoder)
    frame = ScoreFrame(pd.DataFrame(rows, columns=list(SCORE_COLUMNS)))
    frame.attrs["failures"] = failures
    return frame


def _named(target: Any) -> dict[str, Target]:
    """A name for each of what is to be measured."""
    if isinstance(target, Mapping):
        return dict(target)
    if isinstance(target, nn.Module):
        return {type(target).__name__: target}
    if isinstance(target, str | Path):
        return {str(path): path for path in find_checkpoints([str(target)])}
    if not isinstance(target, Sequence):
        raise SettingsError(f"cannot measure a {type(target).__name__}: give a path, a torch.nn.Module or an Encoder")
    found: dict[str, Target] = {}
    for one in target:
        for name, part in _named(one).items():
            number = next(n for n in range(len(found) + 1) if (name if not n else f"{name} {n + 1}") not in found)
            found[name if not number else f"{name} {number + 1}"] = part
    return found


def _encoder(one: Any, normalise: str | None, embedding: str, options: Any, device: str | None) -> tuple[Encoder, dict[str, Any]]:
    """An encoder in evaluation mode that may be changed, and what is known of it."""
    if isinstance(one, str | Path):
        loaded = load_checkpoint(one, options)
        about = {"path": str(one), "sha256": loaded.report.sha256, "method": loaded.report.method}
        return loaded.encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), about
    if not isinstance(one, nn.Module):
        raise SettingsError(f"cannot measure a {type(one).__name__}: give a path, a torch.nn.Module or an Encoder")
    one = getattr(one, "_orig_mod", one)  # of torch.compile
    one = one.module if isinstance(one, nn.DataParallel | nn.parallel.DistributedDataParallel) else one
    if not isinstance(one, Encoder) and normalise is None:
        raise SettingsError("a plain module does not say how its images are normalised: pass normalise='imagenet', say")
    where = next((p.device for p in one.parameters()), torch.device("cpu"))
    encoder, _ = as_encoder(copy.deepcopy(one), OwnModel("module", type(one).__name__, normalise, ""))
    if embedding == "features":
        encoder.projector = nn.Identity()
    encoder.float().requires_grad_().eval()
    return encoder.to(device or where), {"path": "", "sha256": "", "method": type(one).__name__}


def _row(score: Score, about: Mapping[str, Any], seed: int) -> dict[str, Any]:
    known = {name: getattr(score, name) for name in ("measure", "name", "value", "stderr", "low", "high", "unit", "converged")}
    rest = {"seconds": score.seconds, "settings": dict(score.settings), "arrays": dict(score.arrays), "seed": seed}
    return {
        **known,
        **rest,
        "code_version": __version__,
        "environment": "",
        "epoch": float("nan"),
        "run": "",
        "training": {},
        **about,
    }


def _with_error(row: Any) -> str:
    text = f"{row.value:.4g}"
    if row.stderr is not None and row.stderr == row.stderr and row.stderr:
        return f"{text} ± {row.stderr:.2g}"
    if row.low is not None and row.low == row.low:
        return f"{text} [{row.low:.4g}, {row.high:.4g}]"
    return text
