"""The four methods and the settings of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ssa_analysis.data.fourier import FourierSettings
from ssa_analysis.errors import SettingsError
from ssa_analysis.numerics.contrastive import check_temperature
from ssa_analysis.registry import check_fields, unknown_name


@dataclass(frozen=True)
class Method:
    """What a method adds to SimCLR."""

    label: str  # as papers write it
    summary: str
    sharpness_aware: bool
    fourier: bool


METHODS: dict[str, Method] = {
    "simclr": Method("SimCLR", "SimCLR (Chen et al. 2020)", False, False),
    "simclr-sam": Method("SimCLR + SAM", "SimCLR + sharpness-aware minimisation", True, False),
    "simclr-fourier": Method("SimCLR + Fourier", "SimCLR + Fourier amplitude augmentation", False, True),
    "ssa-clr": Method("SSA-CLR", "SSA-CLR: sharpness-aware and Fourier", True, True),
}


def method_row(name: str) -> Method:
    """The method called ``name``; SettingsError with suggestions otherwise."""
    if name not in METHODS:
        raise unknown_name("method", name, list(METHODS))
    return METHODS[name]


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the weights of a run, apart from the data.

    Attributes:
        tau, beta, negatives: of the loss; ``beta=None`` is the number of negatives (NT-Xent), ``negatives=None`` all.
        batch: pairs a step. lr: peak learning rate, not scaled by the batch. warmup: epochs.
        rho, adaptive: of SAM or ASAM; used by the sharpness-aware methods only.
        fourier: of the amplitude augmentation; used by the Fourier methods only.
        views: name of the view recipe; None means the data set's own. strength: factor of all its augmentations.
        accumulate: parts that a batch is cut into, one after the other, each with negatives of its own; their gradients
            are averaged before a step is taken (and before SAM ascends).
        amp: ``off`` or ``bf16`` (autocast).
        knn_every: epochs between online kNN evaluations on the probe split; 0 never.
    """

    method: str = "simclr"
    arch: str = "resnet18"
    width: int | None = None
    stem: str = "cifar"
    projector: tuple[int, ...] = (512, 128)
    epochs: int = 100
    batch: int = 256
    optimizer: str = "sgd"
    lr: float = 0.06
    weight_decay: float = 5e-4
    warmup: int = 5
    tau: float = 0.5
    beta: float | None = None
    negatives: int | None = None
    rho: float = 0.05
    adaptive: bool = False
    fourier: FourierSettings = FourierSettings()
    views: str | None = None
    strength: float = 1.0
    accumulate: int = 1
    amp: str = "off"
    knn_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        method_row(self.method)
        check_temperature(self.tau, self.beta)
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise SettingsError(f"a batch of {self.batch} cannot be cut into {self.accumulate} equal parts")
        if self.batch // self.accumulate < 2:
            raise SettingsError("a contrastive batch, or each part of it, needs at least 2 pairs")
        if not self.strength >= 0:
            raise SettingsError(f"strength must not be negative, got {self.strength}")
        for name in ("lr", "rho"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} must be positive, got {getattr(self, name)}")
        if self.amp not in ("off", "bf16"):
            raise SettingsError(f"amp must be off or bf16, got {self.amp!r}")
        if not self.projector or min(self.projector) < 1:
            raise SettingsError("the projector needs at least one layer of positive size")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for checkpoints and stores."""
        return {**asdict(self), "projector": list(self.projector)}


SHARPNESS_KEYS = {"rho", "adaptive"}
FOURIER_KEYS = {f.name for f in fields(FourierSettings)}


def settings_from_flat(values: Mapping[str, Any]) -> TrainSettings:
    """Settings from a flat table, as on the command line and in a study: ``alpha``, ``window``, ... beside ``lr``, ``tau``.

    Raises:
        SettingsError: an unknown name, with suggestions, or a value that cannot be.
    """
    known = [*(f.name for f in fields(TrainSettings) if f.name != "fourier"), *sorted(FOURIER_KEYS)]
    for name in values:
        if name not in known:
            raise unknown_name("training setting", name, known)
    own = {name: value for name, value in values.items() if name not in FOURIER_KEYS}
    return settings_from_dict({**own, "fourier": {k: v for k, v in values.items() if k in FOURIER_KEYS}})


NOT_VARIED = ("method", "seed", "knn_every")  # they say nothing of their own about a configuration


def hyperparameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that decide its weights, flat, without the seed; what its method does not use is zero.

    So the four methods are told apart by ``rho`` and ``alpha``, and runs that differ in an unused setting are the same.

    Args:
        settings: as in a checkpoint (``TrainSettings.to_dict``); settings that were not there yet have their defaults.
    """
    flat = {**TrainSettings().to_dict(), **settings}
    method = METHODS.get(str(flat["method"]))
    fourier = {**asdict(FourierSettings()), **(flat.pop("fourier") or {})}
    if method is not None and not method.sharpness_aware:
        flat |= {"rho": 0.0, "adaptive": False}
    if method is not None and not method.fourier:
        fourier = asdict(FourierSettings(alpha=0.0))
    flat["projector"] = "-".join(str(size) for size in flat["projector"])
    return {name: value for name, value in {**flat, **fourier}.items() if name not in NOT_VARIED}


_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


def _check_types(values: Mapping[str, Any], row: type) -> None:
    """SettingsError for a value that its field of the dataclass ``row`` cannot hold; the others check themselves."""
    annotations = {f.name: str(f.type) for f in fields(row)}
    for name, value in values.items():
        kind, _, optional = annotations[name].partition(" | ")
        wanted = _TYPES.get(kind)
        if wanted is None or (optional and value is None):
            continue
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
            raise SettingsError(f"{name} must be of type {annotations[name]}, got {value!r}")


def settings_from_dict(values: Mapping[str, Any]) -> TrainSettings:
    """Inverse of ``TrainSettings.to_dict``; SettingsError for unknown keys or values of the wrong type."""
    check_fields("training setting", values, TrainSettings)
    _check_types(values, TrainSettings)
    prepared = dict(values)
    try:
        if "projector" in prepared:
            prepared["projector"] = tuple(int(v) for v in prepared["projector"])
        if isinstance(prepared.get("fourier"), Mapping):
            check_fields("Fourier setting", prepared["fourier"], FourierSettings)
            _check_types(prepared["fourier"], FourierSettings)
            prepared["fourier"] = FourierSettings(**prepared["fourier"])
        return TrainSettings(**prepared)
    except TypeError as error:
        raise SettingsError(f"a training setting has the wrong type: {error}") from error
