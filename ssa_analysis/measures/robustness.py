"""What corruptions do to the frozen features: errors of probe and neighbours, mCE, and the turn of the embedding."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ssa_analysis.data.corruptions import COMMON, CORRUPTIONS, FAMILIES, SEVERITIES, STAND_INS
from ssa_analysis.data.corruptions.frost import load_frost_textures
from ssa_analysis.data.corruptions.sources import CorruptedTwins, Regenerated, open_corruptions
from ssa_analysis.data.datasets import Data, subsample
from ssa_analysis.data.further_sets import load_further_set
from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.measures.base import MeasureSettings, finite_features, measure
from ssa_analysis.measures.corrupted_pass import (
    CorruptedPass,
    Predictor,
    Reader,
    angle_reader,
    class_predictors,
    error_reader,
    read_corrupted,
)
from ssa_analysis.measures.corruption_baseline import Baseline, load_baseline
from ssa_analysis.measures.probing import NEIGHBOURS, TEMPERATURE
from ssa_analysis.models.encoder import Encoder, in_batches
from ssa_analysis.numerics.resampling import mean_interval
from ssa_analysis.numerics.seeding import derive_seed
from ssa_analysis.paths import expanded
from ssa_analysis.registry import unknown_name
from ssa_analysis.scores import Score

PREFIXES = {"probe": "", "knn": "knn_"}  # of the scores of each predictor


@dataclass(frozen=True)
class RobustnessSettings(MeasureSettings):
    """Settings of the robustness.

    Attributes:
        images: at most this many held-out images, 0 for all. batch: corrupted at a time.
        corruptions: folder of official files (CIFAR-10-C, CIFAR-100-C, ImageNet-C); empty: regenerated here.
        frost_textures: folder of the five official frost textures, for what is regenerated; empty: a procedural texture.
        test_sets: further test sets, paths separated as the system separates them (``:``, on Windows ``;``).
        baseline: ``alexnet`` or a file of errors, for mCE and relative mCE; empty: neither.
        only: corruptions to look at, separated by commas; empty: all nineteen.
        neighbours, temperature: of the weighted kNN.
    """

    images: int = 500
    batch: int = 256
    corruptions: str = ""
    frost_textures: str = ""
    test_sets: str = ""
    baseline: str = ""
    only: str = ""
    neighbours: int = NEIGHBOURS
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images < 0 or self.images == 1 or self.batch < 1 or self.neighbours < 1 or not self.temperature > 0:
            raise SettingsError(
                "robustness needs 2 or more images (0: all), 1 or more for batch and neighbours, and a temperature above 0"
            )
        if self.corruptions and self.frost_textures:
            raise SettingsError("frost textures are for regenerated corruptions; official files hold their own frost")
        for name in self.wanted:
            if name not in (*CORRUPTIONS, *STAND_INS.values()):
                raise unknown_name("corruption", name, list(CORRUPTIONS))

    @property
    def wanted(self) -> tuple[str, ...]:
        """The corruptions in ``only``."""
        return tuple(dict.fromkeys(name.strip() for name in self.only.split(",") if name.strip()))


def corrupted_twins(data: Data, settings: RobustnessSettings) -> tuple[CorruptedTwins, tuple[str, ...]]:
    """The corrupted images that the settings name, and which of their corruptions are wanted."""
    twins = _open(data, settings)
    return twins, _names(twins, settings)


def _open(data: Data, settings: RobustnessSettings) -> CorruptedTwins:
    if settings.corruptions:
        return open_corruptions(expanded(settings.corruptions), data)
    folder = settings.frost_textures
    return Regenerated(data, settings.seed, load_frost_textures(expanded(folder)) if folder else None)


def _names(twins: CorruptedTwins, settings: RobustnessSettings) -> tuple[str, ...]:
    if not settings.wanted:
        return twins.names
    absent = [name for name in settings.wanted if name not in twins.names]
    if absent:
        hint = "; frost needs --frost-textures" if absent == ["frost"] else ""
        raise SettingsError(f"{twins.origin}: no {', '.join(absent)}{hint}")
    return settings.wanted


def stand_in(name: str, names: tuple[str, ...]) -> str | None:
    """``name``, or what stands for it, if it is among ``names``."""
    return next((n for n in (name, STAND_INS.get(name, name)) if n in names), None)


def present(wanted: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the corruptions that are among ``names``, themselves or by what stands for them."""
    found = (stand_in(name, names) for name in wanted)
    return tuple(name for name in found if name is not None)


@measure(
    "robustness",
    f"errors of probe and neighbours, turn of the embedding under {len(CORRUPTIONS)} corruptions at {len(SEVERITIES)} severities",
    RobustnessSettings,
    revision=3,
)
def robustness(encoder: Encoder, data: Data, settings: RobustnessSettings) -> list[Score]:
    """Scores of the frozen features under corruptions; shares of images, and degrees.

    With labels, of the probe: ``mean_error`` (plain mean over the 15 common corruptions and 5 severities, which papers on
    CIFAR-10-C call mCE) and ``mean_accuracy``, ``clean_error``, ``error_increase``, ``error_FAMILY`` (noise, blur, weather,
    digital), ``error_CORRUPTION`` (the 4 extra ones too, which are in no mean); with a baseline ``mce`` and ``relative_mce``
    (Hendrycks and Dietterich 2019; 1 is the baseline). The same of the nearest neighbours as ``knn_...``, without those of
    single corruptions, which are in the arrays. With a projector, labels or not: ``mean_angle``, ``angle_FAMILY`` and
    ``angle_CORRUPTION`` between the embeddings of an image and its twin. Of each further test set: ``error_on_NAME``,
    ``knn_error_on_NAME``.

    Standard errors are over images: all corruptions of an image are averaged before.

    Raises:
        MeasureError: neither labels nor projector. DataError: files that are missing or do not belong to the data.
        SettingsError: mCE without all of the common corruptions.
    """
    twins, names = corrupted_twins(data, settings)
    averaged = present(COMMON, names) or names
    baseline = load_baseline(settings.baseline, len(data.class_names)) if settings.baseline else None
    if baseline is not None:
        if len(averaged) < len(COMMON):
            raise SettingsError(f"mCE is over all {len(COMMON)} common corruptions; there are {len(averaged)} of them")
        baseline.require(averaged)
    predictors: dict[str, Predictor] = {}
    if data.labelled:
        data.require_classes(2)
        predictors = class_predictors(encoder, data, settings.seed, settings.neighbours, settings.temperature)
    elif settings.test_sets:
        data.require_labels()
    readers: dict[str, Reader] = {name: error_reader(predict, data) for name, predict in predictors.items()}
    if encoder.projector is not None and twins.same_frame:
        readers["angle"] = angle_reader(encoder, data)
    if not readers:
        lacking = "no projector" if encoder.projector is None else f"another frame than the images of {twins.origin}"
        raise MeasureError(f"robustness needs labels, or an embedding to compare; here are no labels and {lacking}")
    at = twins.known
    chosen = subsample(
        data.labels_of("held-out")[at], settings.images or len(at), derive_seed(settings.seed, "robustness") % 2**32
    )
    at = at[chosen]
    if len(at) < 2:
        raise MeasureError(f"robustness needs at least 2 held-out images with corrupted twins, got {len(at)}")
    result = read_corrupted(encoder, data, twins, names, at, readers, settings.batch)
    about = {"corrupted_images": twins.origin, "mark": twins.mark, "images": len(at), "count": len(averaged), **twins.about}
    if len(averaged) < len(COMMON):
        about["missing"] = [name for name in COMMON if stand_in(name, names) is None]
    scores: list[Score] = []
    for reader in predictors:
        scores += _errors(reader, result, averaged, about, baseline)
    if "angle" in readers:
        scores += _angles(result, averaged, about)
    return scores + list(_further(encoder, data, settings, predictors))


def _score(name: str, values: np.ndarray, unit: str, about: Mapping[str, object], **arrays: object) -> Score:
    """The mean over images ``(k,)`` with its standard error."""
    interval = mean_interval(values)
    return Score.estimate(
        "robustness", name, interval.value, interval.stderr, unit, settings={"error": "standard error", **about}, arrays=arrays
    )


def _families(names: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for family, members in FAMILIES.items():
        there = present(members, names)
        if there:
            yield family, there


def _table(result: CorruptedPass, reader: str) -> dict[str, object]:
    """What a figure needs: means over images and their standard errors ``(corruptions, 5)``."""
    values = result.values[reader].astype(np.float64)
    return {
        "corruption": list(result.names), "severity": list(SEVERITIES), "value": values.mean(2).tolist(),
        "stderr": (values.std(2, ddof=1) / np.sqrt(values.shape[2])).tolist(), "clean": float(result.clean[reader].mean()),
    }  # fmt: skip


def _errors(
    reader: str, result: CorruptedPass, averaged: tuple[str, ...], about: Mapping[str, object], baseline: Baseline | None
) -> Iterator[Score]:
    """The errors of one predictor, and what follows from them."""
    prefix = PREFIXES[reader]

    def mean(names: tuple[str, ...]) -> np.ndarray:
        return result.image_means(reader, names)

    clean = result.clean[reader]
    yield _score(f"{prefix}mean_error", mean(averaged), "share", about, **_table(result, reader))
    yield _score(f"{prefix}mean_accuracy", 1 - mean(averaged), "share", about)
    yield _score(f"{prefix}clean_error", clean, "share", {"images": len(clean)})
    yield _score(f"{prefix}error_increase", mean(averaged) - clean, "share", about)
    if baseline is not None:
        yield from _relative_to(baseline, prefix, {name: mean((name,)) for name in averaged}, clean, about)
    for family, names in _families(result.names):
        yield _score(f"{prefix}error_{family}", mean(names), "share", about)
    if not prefix:
        for name in result.names:
            yield _score(f"error_{name}", mean((name,)), "share", about)


def _relative_to(
    baseline: Baseline, prefix: str, errors: Mapping[str, np.ndarray], clean: np.ndarray, about: Mapping[str, object]
) -> Iterator[Score]:
    """mCE, the mean of the corruptions' errors over the baseline's; and the same of the increases over the clean errors."""
    about = {**about, "baseline": baseline.name}
    shares = [values / baseline.errors[name] for name, values in errors.items()]
    lacking = baseline.no_increase(tuple(errors))
    yield _score(f"{prefix}mce", np.mean(shares, axis=0), "of the baseline", {**about, **lacking})
    if lacking or baseline.clean is None:
        return
    increases = [(values - clean) / (baseline.errors[name] - baseline.clean) for name, values in errors.items()]
    yield _score(f"{prefix}relative_mce", np.mean(increases, axis=0), "of the baseline", about)


def _angles(result: CorruptedPass, averaged: tuple[str, ...], about: Mapping[str, object]) -> Iterator[Score]:
    def mean(names: tuple[str, ...]) -> np.ndarray:
        return result.image_means("angle", names)

    yield _score("mean_angle", mean(averaged), "degrees", about, **_table(result, "angle"))
    for family, names in _families(result.names):
        yield _score(f"angle_{family}", mean(names), "degrees", about)
    for name in result.names:
        yield _score(f"angle_{name}", mean((name,)), "degrees", about)


def _further(encoder: Encoder, data: Data, settings: RobustnessSettings, predictors: Mapping[str, Predictor]) -> Iterator[Score]:
    """Errors on further test sets of the same classes."""
    for text in filter(None, settings.test_sets.split(os.pathsep)):
        path = expanded(text)
        test_set = load_further_set(path, data)
        h = finite_features(in_batches(encoder.features, test_set.images, encoder.device), f"images of {path}")
        name = re.sub(r"\W", "_", test_set.name)
        for reader, predict in predictors.items():
            wrong = (predict(h) != test_set.labels).double().numpy()
            yield _score(f"{PREFIXES[reader]}error_on_{name}", wrong, "share", {"images": len(h), "file": str(path)})
