"""Degenerate encoders, images and settings, and what may come of a measure that meets them."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssa_analysis import theory as _theory  # noqa: F401  (registers the bounds as a measure)
from ssa_analysis.data.datasets import SPLITS, Data, load_data
from ssa_analysis.errors import SSAError
from ssa_analysis.measures import MEASURES
from ssa_analysis.models.backbones import build_backbone
from ssa_analysis.models.encoder import Encoder, Projector
from ssa_analysis.running.measuring import Measured, run_measure
from ssa_analysis.scores import Score

CLASSES = 4
PER_CLASS = 24  # images of a class in each split
SLOWEST = 60.0  # seconds, beyond which a measure with settings as small as these hangs

_FIXED: dict[str, Any] = {"pairs": 16, "batch": 16}
_CURVATURE = {
    **_FIXED, "top": 3, "max_products": 20, "max_vectors": 20, "trace_probes": 4, "density_probes": 2, "density_steps": 4,
}  # fmt: skip
_FLATNESS = {**_FIXED, "steps": 3, "restarts": 2, "draws": 3, "probes": 3}
_LANDSCAPE = {**_FIXED, "points": 3, "grid": 3, "directions": 2}
_SHIFT = {"permutations": 19, "projections": 4, "groups": 4, "batch": 16}

SMALL: dict[str, tuple[str, Mapping[str, Any]]] = {
    "curvature": ("curvature", _CURVATURE),
    "curvature, supervised": ("curvature", {**_CURVATURE, "loss": "supervised"}),
    "curvature, gauss-newton": ("curvature", {**_CURVATURE, "kind": "gauss-newton"}),
    "downstream": ("downstream", {"draws": 2}),
    "flatness": ("flatness", _FLATNESS),
    "flatness, supervised": ("flatness", {**_FLATNESS, "loss": "supervised"}),
    "landscape": ("landscape", _LANDSCAPE),
    "landscape, eigenvectors": ("landscape", {**_LANDSCAPE, "along": "eigenvectors", "max_products": 10}),
    "representation": ("representation", {"bootstrap": 5}),
    "robustness": ("robustness", {"images": 12, "only": "gaussian_noise,contrast"}),
    "shift": ("shift", _SHIFT),
    "shift, features": ("shift", {**_SHIFT, "space": "features"}),
    "shift, pixels": ("shift", {**_SHIFT, "space": "pixels"}),
    "shift, recipes": ("shift", {**_SHIFT, "against": "none"}),
    "views": ("views", {"groups": 4, "images": 32, "strengths": "0.5"}),
    "bounds": ("bounds", {"bootstrap": 4, "transport": 16, "block": 4, "noise_block": 4, "scales": 2, "draws": 4}),
}
"""Every registered measure, some in several ways, with settings that take a fraction of a second."""


def plain_encoder(seed: int = 0) -> Encoder:
    """A convnet of width 4 with a projector to 8 dimensions, its weights as they are initialised, and kept as such."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(build_backbone("convnet", 4), Projector((16, 16, 8)), (0.5,) * 3, (0.5,) * 3, loss={"tau": 0.5})
    encoder.initial = {name: value.clone() for name, value in encoder.state_dict().items()}
    with torch.no_grad():
        for p in encoder.parameters():  # as training would, it leaves the initialisation
            p += 0.05 * p.abs().mean() * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    return encoder.eval()


def plain_data() -> Data:
    """Digits of four classes, 24 images of a class in each split."""
    whole = load_data("digits")
    places: dict[str, Tensor] = {}
    for split in SPLITS:
        index = whole.splits[split]
        labels = whole.labels[index]
        places[split] = torch.cat([index[labels == label][:PER_CLASS] for label in range(CLASSES)])
    return with_splits(whole, places, "plain")


def with_splits(data: Data, places: Mapping[str, Tensor], name: str) -> Data:
    """The images at these places, in these splits."""
    index = torch.cat(list(places.values()))
    ends = torch.tensor([len(place) for place in places.values()]).cumsum(0).tolist()
    splits = {s: torch.arange(end - len(p), end) for (s, p), end in zip(places.items(), ends, strict=True)}
    labels = data.labels[index]
    classes = data.class_names[: int(labels.max()) + 1] if len(labels) and data.labelled else ()
    return dataclasses.replace(
        data, images=data.images[index], labels=labels, class_names=classes, splits=splits, fingerprint=name, provenance=None,
        recipe="digits",
    )  # fmt: skip


def first_of_class(data: Data, counts: Sequence[int], name: str) -> Data:
    """``counts[c]`` images of class c in each split."""
    places = {}
    for split in SPLITS:
        index = data.splits[split]
        places[split] = torch.cat([index[data.labels[index] == c][:count] for c, count in enumerate(counts)])
    return with_splits(data, places, name)


def with_images(data: Data, images: Tensor, name: str) -> Data:
    """The same labels and splits of other images."""
    return dataclasses.replace(data, images=images, fingerprint=name)


@dataclass(frozen=True)
class Case:
    """One degenerate input: what is changed of the plain encoder, images and settings.

    Attributes:
        settings: of every measure that has a setting of that name.
    """

    name: str
    encoder: Callable[[Encoder], None] = lambda encoder: None
    data: Callable[[Data], Data] = lambda data: data
    settings: Mapping[str, Any] = field(default_factory=dict)


@torch.no_grad()
def fill_weights(encoder: Encoder, value: float) -> None:
    """Every weight becomes ``value``."""
    for p in encoder.parameters():
        p.fill_(value)


@torch.no_grad()
def scale_weights(encoder: Encoder, factor: float) -> None:
    """Every weight times ``factor``."""
    for p in encoder.parameters():
        p.mul_(factor)


@torch.no_grad()
def one_weight(encoder: Encoder, value: float) -> None:
    """The first weight of the first layer becomes ``value``."""
    next(encoder.parameters()).view(-1)[0] = value


@torch.no_grad()
def dead_relus(encoder: Encoder) -> None:
    """The last ReLU of the backbone never lets anything through: features are zero for every image."""
    encoder.backbone.blocks[-2].bias.fill_(-1e4)


@torch.no_grad()
def scale_features(encoder: Encoder, factor: float) -> None:
    """Features times ``factor``; the projector's first layer divided by it, so that the embedding stays."""
    assert encoder.projector is not None
    norm = encoder.backbone.blocks[-2]
    norm.weight.mul_(factor)
    norm.bias.mul_(factor)
    encoder.projector[0].weight.div_(factor)


@torch.no_grad()
def constant_embedding(encoder: Encoder) -> None:
    """The projector's last layer knows only its bias: one embedding for all images, while features differ."""
    assert encoder.projector is not None
    encoder.projector[-1].weight.zero_()
    encoder.projector[-1].bias.fill_(1.0)


def no_projector(encoder: Encoder) -> None:
    """A file without one."""
    encoder.projector = None


def constant_images(data: Data) -> Data:
    """Every image has a level of grey of its own, the same at all of its pixels."""
    levels = (torch.arange(len(data.images)) * 7 % 256).to(torch.uint8)
    return with_images(data, levels[:, None, None, None].expand_as(data.images).contiguous(), "constant")


def twice(data: Data) -> Data:
    """Every image stands next to its copy."""
    places = {s: index[: len(index) // 2].repeat_interleave(2) for s, index in data.splits.items()}
    return with_splits(data, places, "twice")


def empty(split: str) -> Callable[[Data], Data]:
    """No image in ``split``."""
    return lambda data: dataclasses.replace(
        data, splits={**data.splits, split: torch.empty(0, dtype=torch.long)}, fingerprint=f"empty {split}"
    )


def few(*counts: int) -> Callable[[Data], Data]:
    """So many images of each class in each split."""
    return lambda data: first_of_class(data, counts, f"few {counts}")


def without_labels(count: int | None = None) -> Callable[[Data], Data]:
    """Images without labels; ``count`` of them in each split."""
    return lambda data: dataclasses.replace(
        with_splits(data, {s: index[:count] for s, index in data.splits.items()}, f"no labels {count}"),
        class_names=(), labels=torch.zeros(sum(len(index[:count]) for index in data.splits.values()), dtype=torch.long),
    )  # fmt: skip


def _sizes(size: float) -> dict[str, float]:
    """Every radius and every noise of this size."""
    names = ("rho", "adaptive_rho", "sigma", "adaptive_sigma", "span", "scale_max")
    return {**dict.fromkeys(names, size), "scale_min": size / 10}


CASES: tuple[Case, ...] = (
    Case("nothing is wrong"),
    Case("a weight is NaN", lambda e: one_weight(e, math.nan)),
    Case("a weight is infinite", lambda e: one_weight(e, math.inf)),
    Case("all weights are zero", lambda e: fill_weights(e, 0.0)),
    Case("dead ReLUs: features are zero", dead_relus),
    Case("one embedding for all images", constant_embedding),
    Case("weights x 1e20", lambda e: scale_weights(e, 1e20)),
    Case("weights x 1e-30", lambda e: scale_weights(e, 1e-30)),
    Case("no projector", no_projector),
    Case("one class", data=few(2 * PER_CLASS)),
    Case("no labels", data=without_labels()),
    Case("all images the same", data=lambda d: with_images(d, d.images[:1].expand_as(d.images).contiguous(), "same")),
    Case("every image twice", data=twice),
    Case("images of one grey", data=constant_images),
    Case("1 image, no labels", data=without_labels(1)),
    Case("2 images, no labels", data=without_labels(2)),
    Case("3 images, no labels", data=without_labels(3)),
    Case("1 image a class", data=few(1, 1, 1, 1)),
    Case("2 images a class", data=few(2, 2, 2, 2)),
    Case("3 images a class", data=few(3, 3, 3, 3)),
    Case("1 image of 1 class", data=few(1)),
    Case("a class with one image", data=few(PER_CLASS, PER_CLASS, 1)),
    Case("no held-out images", data=empty("held-out")),
    Case("no probe images", data=empty("probe")),
    Case("no training images", data=empty("train")),
    Case("no held-out images, no labels", data=lambda d: without_labels()(empty("held-out")(d))),
    Case("no probe images, no labels", data=lambda d: without_labels()(empty("probe")(d))),
    Case("features x 1e15", lambda e: scale_features(e, 1e15)),
    Case("features x 1e-15", lambda e: scale_features(e, 1e-15)),
    Case("1 pair", settings={"pairs": 1, "batch": 1, "images": 1, "transport": 1, "block": 1}),
    Case("one block of noise", settings={"noise_block": PER_CLASS * CLASSES, "block": PER_CLASS * CLASSES}),
    Case("2 pairs", settings={"pairs": 2, "batch": 2, "images": 2, "transport": 2, "block": 2, "noise_block": 2}),
    Case("3 pairs", settings={"pairs": 3, "batch": 3, "images": 3, "transport": 3, "block": 3, "noise_block": 3}),
    Case(
        "more than there is",
        settings={
            "top": 10**6, "bottom": 10**6, "max_vectors": 10**6, "max_products": 12, "density_steps": 30, "directions": 9,
            "neighbours": 10**9, "groups": 10**6, "transport": 10**6, "negatives": 10**9, "block": 10**6, "m": 0,
        },
    ),
    Case(
        "as little as can be",
        settings={
            "top": 1, "max_vectors": 1, "max_products": 1, "trace_probes": 1, "density_probes": 1, "density_steps": 1,
            "steps": 1, "restarts": 1, "draws": 2, "probes": 2, "points": 3, "directions": 1, "neighbours": 1, "bootstrap": 1,
            "groups": 2, "permutations": 19, "projections": 1, "scales": 1,
        },
    ),
    Case("none at all", settings={"top": 0, "max_products": 0, "trace_probes": 0, "density_probes": 0, "density_steps": 0,
         "neighbours": 0, "bootstrap": 0, "groups": 0, "projections": 0, "scales": 0, "pairs": 0, "images": 0, "grid": 0}),
    Case("tau 1e-6", settings={"tau": 1e-6}),
    Case("tau 1e6", settings={"tau": 1e6}),
    Case("tau 0", settings={"tau": 0.0}),
    Case("tau NaN", settings={"tau": math.nan}),
    Case("kNN temperature 1e-6", settings={"temperature": 1e-6}),
    Case("kNN temperature 0", settings={"temperature": 0.0}),
    Case("beta 1e30", settings={"beta": 1e30}),
    Case("beta 1e-30", settings={"beta": 1e-30}),
    Case("radii and noises 1e10", settings=_sizes(1e10)),
    Case("radii and noises 1e-10", settings=_sizes(1e-10)),
)  # fmt: skip


def settings_of(row: str, case: Case) -> dict[str, Any] | None:
    """The settings of a row of ``SMALL`` in a case; None where the case is one of settings that this measure does not have."""
    name, small = SMALL[row]
    known = {f.name for f in dataclasses.fields(MEASURES.get(name).settings)}
    changed = {key: value for key, value in case.settings.items() if key in known}
    if row == "shift, pixels":
        changed.pop("groups", None)  # a jackknife over every image in 768 dimensions takes minutes
    return None if case.settings and not changed else {**small, **changed}


def measured(row: str, case: Case, data: Data) -> Measured:
    """What the measure of a row makes of a case; a warning is an error."""
    encoder = plain_encoder()
    case.encoder(encoder)
    settings = settings_of(row, case)
    assert settings is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", r"torch.(is|get|set)_autocast", DeprecationWarning)  # raised inside torch 2.4
        return run_measure(MEASURES.get(SMALL[row][0]), settings, encoder, case.data(data))


def what_is_wrong(score: Score) -> str:
    """Why a score is neither right-looking nor marked; empty where nothing is."""
    if score.settings.get("verdict") == "violated":
        return f"{score.name}: a theorem is violated"
    numbers = {"value": score.value, "stderr": score.stderr, "low": score.low, "high": score.high}
    if score.converged and not score.settings.get("undefined"):
        broken = [key for key, number in numbers.items() if number is not None and not math.isfinite(number)]
        if broken:
            return f"{score.name}: {', '.join(f'{key} is {numbers[key]}' for key in broken)}, as if it were known"
    low, high, slack = score.low, score.high, 1e-9 * max(1.0, abs(score.value))
    if score.settings.get("error") == "bootstrap interval":  # percentiles of draws, which need not lie around the value
        return ""
    if (low is not None and low > score.value + slack) or (high is not None and high < score.value - slack):
        return f"{score.name}: {score.value} lies outside of [{low}, {high}]"
    if score.stderr is not None and score.stderr < 0:
        return f"{score.name}: a negative standard error {score.stderr}"
    return ""


def verdict(found: Measured) -> tuple[str, list[str]]:
    """``scores``, ``scores, some undefined`` or ``said why not``, and what should not have been."""
    problems = []
    if found.seconds > SLOWEST:
        problems.append(f"took {found.seconds:.0f} s")
    if found.error is not None:
        line = str(found.error)
        if not isinstance(found.error, SSAError):
            problems.append(f"{type(found.error).__name__}: {line.splitlines()[0] if line else ''}")
        elif len(line) < 20 or "\n" in line:
            problems.append(f"says too little, or more than a line: {line!r}")
        return "said why not", problems
    problems += [wrong for wrong in map(what_is_wrong, found.scores) if wrong]
    if not found.scores:
        problems.append("neither a score nor a reason")
    unsure = any(not s.converged or s.settings.get("undefined") for s in found.scores)
    return "scores, some marked as unknown" if unsure else "scores", problems
