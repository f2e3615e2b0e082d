"""What all measures share: their table, their common settings, and embeddings that are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.data.datasets import Data
from ssa_analysis.data.pairs import practical_pairs
from ssa_analysis.data.views import ViewRecipe, Views, named_recipe
from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.models.encoder import Encoder, in_batches
from ssa_analysis.numerics.contrastive import check_temperature
from ssa_analysis.numerics.seeding import derive_seed
from ssa_analysis.registry import Registry, check_fields
from ssa_analysis.scores import Score

DEFAULT_TAU = 0.5
UNIT = 1e-3  # how far from one the norm of an embedding may be


@dataclass(frozen=True)
class MeasureSettings:
    """Common settings.

    Attributes:
        seed: of every random choice.
        views: ``own`` (those the checkpoint was trained with; the data set's recipe where the file does not say) or
            the name of a recipe, for the practical pairs.
        tau, beta: of the contrastive loss; None means those of the checkpoint's training, else 0.5 and K.
    """

    seed: int = 0
    views: str = "own"
    tau: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        if self.views != "own":
            named_recipe(self.views)
        check_temperature(DEFAULT_TAU if self.tau is None else self.tau, self.beta)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for stores and hashes."""
        return asdict(self)


MeasureFunction = Callable[[Encoder, Data, Any], list[Score]]


@dataclass(frozen=True)
class Measure:
    """One row of the table of measures.

    Attributes:
        revision: raised whenever the numbers of this measure change; part of the key of stored scores.
        by_default: whether ``score`` runs it when no measures are named.
        apart: settings whose values give scores of other names; a store keeps one cell for each of them.
    """

    name: str
    summary: str
    settings: type[MeasureSettings]
    function: MeasureFunction
    revision: int = 1
    by_default: bool = True
    apart: tuple[str, ...] = ()

    def variant(self, settings: Mapping[str, Any]) -> tuple[Any, ...]:
        """Values of the settings in ``apart``; cells written before there was such a setting have its default."""
        defaults = {f.name: f.default for f in fields(self.settings)}
        return tuple(settings.get(name, defaults[name]) for name in self.apart)

    def make_settings(self, values: Mapping[str, Any]) -> MeasureSettings:
        """Settings from plain values; SettingsError for unknown names, with suggestions, or wrong types."""
        check_fields(f"setting of {self.name}", values, self.settings)
        defaults = {f.name: f.default for f in fields(self.settings)}
        prepared = {k: _coerce(self.name, k, v, defaults[k]) for k, v in values.items()}
        return self.settings(**prepared)


def _coerce(measure: str, key: str, value: Any, default: Any) -> Any:
    """Bring a value to the type of the default; text such as '3' or '1e-3' comes from the command line."""
    if isinstance(value, str) and not isinstance(default, str):
        if value.lower() in ("none", "null"):
            return None
        kind: type = float if default is None else type(default)
    else:
        kind = type(default)
    if value is None or (default is None and isinstance(value, int | float)):
        return value
    try:
        if kind is bool:
            if str(value).lower() not in ("true", "false", "1", "0"):
                raise ValueError("not true or false")
            return str(value).lower() in ("true", "1")
        if kind is int and float(value) != int(float(value)):
            raise ValueError("not a whole number")
        return kind(float(value)) if kind is int else kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise SettingsError(f"setting {key} of {measure} must be of type {kind.__name__}, got {value!r}") from error


MEASURES: Registry[Measure] = Registry("measure", Measure)


def measure(
    name: str,
    summary: str,
    settings: type[MeasureSettings],
    *,
    revision: int = 1,
    by_default: bool = True,
    apart: tuple[str, ...] = (),
) -> Callable[[MeasureFunction], MeasureFunction]:
    """Decorator that registers a function ``(encoder, data, settings) -> list[Score]`` as a measure."""

    def register(function: MeasureFunction) -> MeasureFunction:
        MEASURES.add(name, Measure(name, summary, settings, function, revision, by_default, apart))
        return function

    return register


@dataclass(frozen=True)
class RunContext:
    """Where a measure runs, for measures that take long.

    Attributes:
        scratch: folder of its own, kept from one run of the same cell to the next until its scores are stored; it may
            not exist yet. None where nothing is kept.
        label: names the checkpoint in progress lines.
        options: what the user says of how files are to be read, for measures that load another one.
    """

    scratch: Path | None = None
    label: str = "the checkpoint"
    options: LoadOptions = LoadOptions()


NO_RUN = RunContext()
_run_context: ContextVar[RunContext] = ContextVar("run_context", default=NO_RUN)


def run_context() -> RunContext:
    """The context that the measure was called in; without scratch folder outside of a scoring run."""
    return _run_context.get()


@contextmanager
def running_in(context: RunContext) -> Iterator[None]:
    """Set the context of the measures called inside the block."""
    token = _run_context.set(context)
    try:
        yield
    finally:
        _run_context.reset(token)


def resolve_recipe(encoder: Encoder, data: Data, views: str) -> ViewRecipe:
    """The recipe that a ``views`` setting stands for."""
    if views != "own":
        return named_recipe(views)
    return encoder.recipe if encoder.recipe is not None else named_recipe(data.recipe)


def make_views(encoder: Encoder, data: Data, views: str) -> Views:
    """Views of the data's size from the recipe that a ``views`` setting stands for."""
    return Views(resolve_recipe(encoder, data, views), data.image_size)


def loss_parameters(encoder: Encoder, settings: MeasureSettings) -> tuple[float, float | None]:
    """``tau`` and ``beta`` (None: the number of negatives): from the settings, else the checkpoint, else 0.5 and K."""
    tau = settings.tau if settings.tau is not None else encoder.loss.get("tau") or DEFAULT_TAU
    beta = settings.beta if settings.beta is not None else encoder.loss.get("beta")
    return float(tau), None if beta is None else float(beta)


_cache: WeakKeyDictionary[Encoder, dict[tuple[Any, ...], Any]] = WeakKeyDictionary()


def remembered(encoder: Encoder, key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
    """``compute()`` once for each encoder and key; forgotten together with the encoder.

    Measures that move the weights restore the same bits, so what is remembered stays true.
    """
    store = _cache.setdefault(encoder, {})
    if key not in store:
        store[key] = compute()
    return store[key]


def forget(encoder: Encoder) -> None:
    """Drop what is remembered of an encoder whose weights are about to change, or have changed."""
    _cache.pop(encoder, None)


def finite_features(h: Tensor, of: str) -> Tensor:
    """``h (n, feature_dim)``; MeasureError where it holds NaN or infinity, of which every measure would make some number."""
    broken = int((~torch.isfinite(h).all(dim=1)).sum())
    if broken:
        raise MeasureError(f"the features of {broken} of {len(h)} {of} hold NaN or infinity: nothing can be measured on them")
    return h


def unit_embeddings(z: Tensor, of: str) -> Tensor:
    """``z (n, d)``; MeasureError unless its rows are finite unit vectors: a projector's output of zero has no direction."""
    broken = int((~torch.isfinite(z).all(dim=1)).sum())
    if broken:
        raise MeasureError(f"the embeddings of {broken} of {len(z)} {of} hold NaN or infinity: nothing can be measured on them")
    norms = z.norm(dim=1)
    off = int(((norms - 1).abs() > UNIT).sum())
    if off:
        raise MeasureError(
            f"the projector's output does not have unit norm on {off} of {len(z)} {of} (norms {norms.min():.3g} to "
            f"{norms.max():.3g}): the loss and the theory are about unit vectors, and an output of zero has no direction"
        )
    return z


def require_images(data: Data, split: str, least: int, what: str) -> None:
    """MeasureError where a split holds fewer than ``least`` images."""
    count = len(data.index_of(split))
    if count < least:
        has = f"{count} image{'' if count == 1 else 's'}"
        raise MeasureError(f"{data.name}: the {split} split holds {has}, and {what} needs at least {least}")


def split_features(encoder: Encoder, data: Data, split: str) -> Tensor:
    """``(n, feature_dim)`` features h of a split's images as they are, on the CPU."""

    def compute() -> Tensor:
        require_images(data, split, 1, "this measure")
        return finite_features(in_batches(encoder.features, data.images_of(split), encoder.device), f"{split} images")

    return remembered(encoder, ("features", data.fingerprint, split), compute)  # type: ignore[no-any-return]


def split_embeddings(encoder: Encoder, data: Data, split: str) -> Tensor:
    """``(n, d)`` embedding z of a split's images as they are, unit rows, on the CPU."""

    def compute() -> Tensor:
        z = in_batches(encoder.embed_features, split_features(encoder, data, split), encoder.device)
        return unit_embeddings(z, f"{split} images")

    return remembered(encoder, ("embeddings", data.fingerprint, split), compute)  # type: ignore[no-any-return]


def on_views(
    encoder: Encoder, data: Data, split: str, recipe: ViewRecipe, seed: int, function: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """``function`` of two views of every image of a split: one practical pair an image, ``(n, ...)`` each, on the CPU.

    The same seed and recipe give the same views to every function.
    """
    require_images(data, split, 1, "this measure")
    views = Views(recipe, data.image_size)
    images, labels = data.images_of(split), data.labels_if_any(split)
    first: list[Tensor] = []
    second: list[Tensor] = []
    features = split_features(encoder, data, split) if views.needs_features else None
    for number, index in enumerate(torch.arange(len(images)).split(256)):
        pair_seed = derive_seed(seed, "practical", split, number)
        near = features[index] if features is not None else None
        known = labels[index] if labels is not None else None
        for part, view in zip((first, second), practical_pairs(images[index], views, pair_seed, known, near), strict=True):
            part.append(in_batches(function, view, encoder.device))
    return torch.cat(first), torch.cat(second)


def practical_features(encoder: Encoder, data: Data, split: str, settings: MeasureSettings) -> tuple[Tensor, Tensor]:
    """Features ``(n, feature_dim)`` of two views of every image of a split."""
    recipe = resolve_recipe(encoder, data, settings.views)

    def compute() -> tuple[Tensor, Tensor]:
        first, second = on_views(encoder, data, split, recipe, settings.seed, encoder.features)
        return finite_features(first, f"{split} views"), finite_features(second, f"{split} views")

    key = ("practical features", data.fingerprint, split, repr(recipe), settings.seed)
    return remembered(encoder, key, compute)  # type: ignore[no-any-return]


def practical_embeddings(encoder: Encoder, data: Data, split: str, settings: MeasureSettings) -> tuple[Tensor, Tensor]:
    """Embeddings ``(n, d)`` of two views of every image of a split: one practical pair an image."""
    recipe = resolve_recipe(encoder, data, settings.views)

    def compute() -> tuple[Tensor, Tensor]:
        both = practical_features(encoder, data, split, settings)
        first, second = (in_batches(encoder.embed_features, h, encoder.device) for h in both)
        return unit_embeddings(first, f"{split} views"), unit_embeddings(second, f"{split} views")

    key = ("practical", data.fingerprint, split, repr(recipe), settings.seed)
    return remembered(encoder, key, compute)  # type: ignore[no-any-return]
