"""A user's own architecture: ``--model path/to/file.py:function``.

The function's file is Python and is executed; the checkpoint is only data and is not. The function is called

* without arguments, if it needs none, and returns a freshly built module whose names are those of the checkpoint, or
* with the content of the checkpoint file, if it needs one argument, and returns a module that holds the weights.

An :class:`~ssa_analysis.models.encoder.Encoder` is taken as it is. Another module is taken apart:

* with a child ``projector``, ``projection_head`` or ``projection`` beside a ``backbone`` or ``encoder``, these are the
  projector and the backbone;
* else its child ``fc``, ``linear``, ``classifier``, ``head`` or ``heads`` is the classifier, and the features are what the
  module gives with the identity in the classifier's place;
* else its child ``backbone`` or ``encoder`` is the backbone; without one, the module itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ssa_analysis.checkpoints.layouts import Recognised, unwrap
from ssa_analysis.checkpoints.normalisation import NORMALISATIONS, parse_normalisation
from ssa_analysis.checkpoints.reading import file_hash, first_line
from ssa_analysis.errors import CheckpointError, MeasureError, SettingsError
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.paths import expanded, ordinary, resolved
from ssa_analysis.registry import unknown_name

_CLASSIFIERS = ("fc", "linear", "classifier", "head", "heads")
_BACKBONES = ("backbone", "encoder")
_PROJECTORS = ("projector", "projection_head", "projection")


@dataclass(frozen=True)
class OwnModel:
    """Where an architecture comes from; small enough to send to a worker.

    Attributes:
        path: of the Python file. function: its name in it.
        normalise: input normalisation of a plain module: a name of ``NORMALISATIONS`` or ``mean/std`` with three numbers
            each, separated by commas. An ``Encoder`` has its own.
        sha256: of the Python file, so that stored scores belong to one version of it.
    """

    path: str
    function: str
    normalise: str | None
    sha256: str

    def __str__(self) -> str:
        return f"{self.path}:{self.function}"


def parse_model(text: str, normalise: str | None = None) -> OwnModel:
    """``path/to/file.py:function`` -> :class:`OwnModel`; SettingsError where that cannot be.

    >>> parse_model("net.py")
    Traceback (most recent call last):
    ...
    ssa_analysis.errors.SettingsError: --model net.py: write it as path/to/file.py:function
    """
    path, colon, function = text.rpartition(":")
    path = str(expanded(path))
    if not colon or not path.endswith(".py") or not function.isidentifier():
        raise SettingsError(f"--model {text}: write it as path/to/file.py:function")
    if not ordinary(Path(path)):
        raise SettingsError(f"--model {text}: there is no file {path}")
    if normalise is not None:
        parse_normalisation(normalise)
    return OwnModel(path, function, normalise, file_hash(Path(path)))


def recognise_own(model: OwnModel, payload: Any) -> Recognised:
    """Call the user's function and take its module apart.

    Raises:
        CheckpointError: the function fails or returns something else, or its names are not those of the file.
        SettingsError: no such function, or a plain module without a normalisation.
    """
    function = _function(model)
    wants_payload = _wants_payload(model, function)
    with _neighbours(model):
        try:
            module = function(payload) if wants_payload else function()
        except (Exception, SystemExit) as error:
            raise CheckpointError(f"--model {model} failed with {_explained(error, model)}") from error
    module = _checked(module, model)
    names = module.state_dict(keep_vars=True)
    encoder, assumptions = as_encoder(module, model)
    arch = f"{model.function} of {Path(model.path).name}"
    if wants_payload:
        placed = f"the weights are those that {model.function} has placed"
        return Recognised(encoder, arch, dict(encoder.state_dict()), assumptions=[placed, *assumptions])
    tensors, left_over = _placed(names, encoder, payload)
    return Recognised(encoder, arch, tensors, left_over, assumptions)


def as_encoder(module: nn.Module, model: OwnModel) -> tuple[Encoder, list[str]]:
    """The module's parts as an encoder, and what was assumed; the tensors are shared with the module."""
    if isinstance(module, Encoder):
        ignored = "--normalise is not used: the Encoder has its own normalisation"
        return module, [ignored] if model.normalise is not None else []
    if model.normalise is None:
        raise SettingsError(
            f"--model {model} returns a plain module: say how its images are normalised with --normalise "
            f"({', '.join(NORMALISATIONS)}, or m,m,m/s,s,s)"
        )
    mean, std = parse_normalisation(model.normalise)
    children = dict(module.named_children())
    backbone = next((name for name in _BACKBONES if name in children), None)
    classifier = next((name for name in _CLASSIFIERS if name in children), None)
    projector = next((name for name in _PROJECTORS if name in children), None)
    head = children[classifier] if classifier else None
    if head is not None and not any(True for _ in head.parameters()):
        head = None  # an identity in the place of a classifier that was taken out
    if backbone is not None and (projector is not None or classifier is None):
        features, where = children[backbone], f"features: the output of {backbone}"
    else:
        projector = None
        features, where = module, "features: the module's output (no known classifier)"
        if classifier is not None:
            where = f"features: what goes into {classifier}"
            place = _Place()
            setattr(module, classifier, place)
            if head is not None and _takes_maps(head):
                head = _OnMaps(head, place)
    return Encoder(_Flat(features), children[projector] if projector else None, mean, std, classifier=head), [where]


class _Flat(nn.Sequential):
    """A module whose output becomes one row for each image."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        out = self[0](images)
        if not isinstance(out, Tensor):
            raise MeasureError(f"the model returns a {type(out).__name__} for a batch of images, not a tensor of features")
        rows: Tensor = self[1](out)
        return rows


class _Place(nn.Identity):
    """Stands where the classifier was and remembers the shape of what came there."""

    shape: tuple[int, ...] = ()

    def forward(self, h: Tensor) -> Tensor:
        self.shape = tuple(h.shape[1:])
        return h


class _OnMaps(nn.Sequential):
    """A classifier that takes feature maps (ConvNeXt's, SqueezeNet's) and gets rows: they are given their shape back."""

    def __init__(self, head: nn.Module, place: _Place) -> None:
        super().__init__(head, nn.Flatten())
        self._place = [place]  # in a list, so that it does not count as a part of the classifier

    def forward(self, h: Tensor) -> Tensor:
        rows: Tensor = self[1](self[0](h.view(len(h), *self._place[0].shape)))
        return rows


def _takes_maps(head: nn.Module) -> bool:
    """Whether the first layer with weights is one of feature maps: a convolution, or a norm over channels."""
    first = next(module for module in head.modules() if any(True for _ in module.parameters(recurse=False)))
    return isinstance(first, nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm) or type(first).__name__ == "LayerNorm2d"


_handed_out: WeakSet[nn.Module] = WeakSet()


def _checked(module: Any, model: OwnModel) -> nn.Module:
    """The bare module in single precision on the CPU; CheckpointError where it cannot hold a file's weights."""
    if not isinstance(module, nn.Module):
        raise CheckpointError(f"--model {model} returned a {type(module).__name__}, not a torch.nn.Module")
    if isinstance(module, nn.DataParallel):
        module = module.module
    module = getattr(module, "_orig_mod", module)  # of torch.compile
    assert isinstance(module, nn.Module)
    if module in _handed_out:
        raise CheckpointError(f"--model {model} returned the same module twice; let it build a new one each time")
    _handed_out.add(module)
    weights = list(module.parameters())
    if not weights:
        raise CheckpointError(f"--model {model} returned a module without weights (layers in a plain list are not seen by torch)")
    if any(isinstance(p, nn.parameter.UninitializedParameter) or p.is_meta for p in weights):
        raise CheckpointError(
            f"--model {model} returned a module whose weights have no memory yet (lazy layers or the meta device)"
        )
    return module.to("cpu", torch.float32).requires_grad_()


def _wants_payload(model: OwnModel, function: Any) -> bool:
    """Whether the function needs one argument; SettingsError where it needs more."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some functions written in C do not tell
        return False
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) > 1 or any(p.kind is p.KEYWORD_ONLY for p in required):
        raise SettingsError(f"--model {model}: the function must need no argument, or one (the checkpoint's content)")
    return bool(required)


def _explained(error: BaseException, model: OwnModel) -> str:
    """Type and message of an error of the user's code, and the last line of his file on the way there."""
    text, name = first_line(error), type(error).__name__
    what = text if text.startswith(name) else f"{name}: {text}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == model.path]
    return f"{what} ({Path(model.path).name}, line {lines[-1]})" if lines else what


@contextmanager
def _neighbours(model: OwnModel) -> Iterator[None]:
    """Inside the block, files beside the user's can be imported."""
    folder = str(resolved(Path(model.path)).parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # his code may have changed the path
            sys.path.remove(folder)


def _function(model: OwnModel) -> Any:
    """The user's function, from his file executed as a module; files beside it can be imported by it."""
    place = hashlib.sha256(f"{resolved(Path(model.path))} {model.sha256}".encode()).hexdigest()
    name = f"_ssa_analysis_own_{place[:16]}"
    module: ModuleType | None = sys.modules.get(name)
    if module is None:
        spec = importlib.util.spec_from_file_location(name, model.path)
        assert spec is not None  # the name ends in .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle look their module up
        try:
            with _neighbours(model):
                # compiled here: Python's cache of compiled files overlooks an edit within the same second
                exec(compile(Path(model.path).read_bytes(), model.path, "exec", dont_inherit=True), module.__dict__)
        except (Exception, SystemExit) as error:
            sys.modules.pop(name, None)
            raise CheckpointError(f"--model {model}: {model.path} cannot be run: {_explained(error, model)}") from error
    function = getattr(module, model.function, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown_name(f"function in {model.path}", model.function, names)
    return function


def _placed(names: Mapping[str, Any], encoder: Encoder, payload: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The file's tensors by the encoder's keys, and what of the file is left over.

    Args:
        names: the module's state dict before it was taken apart. The encoder holds the very same tensors under other
            keys, which is how names find their keys. The file may put one prefix before all names, and may name tied
            weights only once.
    """
    state = unwrap(payload)
    if state is None:
        raise CheckpointError(f"it holds a {type(payload).__name__}, not a state dict")
    groups: dict[int, list[str]] = {}
    for name, tensor in names.items():
        if isinstance(tensor, Tensor):  # a module may add values of other kinds
            groups.setdefault(id(tensor), []).append(name)
    prefix = _prefix([group for group in groups.values() if not group[0].endswith("num_batches_tracked")], state)
    tensors: dict[str, Tensor] = {}
    used: set[str] = set()
    for key, tensor in encoder.state_dict(keep_vars=True).items():
        for name in groups.get(id(tensor), []):
            value = state.get(prefix + name)
            if value is None:
                continue
            if key in tensors and not _same(tensors[key], value):
                raise CheckpointError(
                    f"{prefix + name!r} is tied to another weight in the model, but differs from it in the file"
                )
            tensors.setdefault(key, value)
            used.add(name)
    left_over: dict[str, str] = {}
    for key, value in state.items():
        name = str(key).removeprefix(prefix)
        if not isinstance(value, Tensor):
            left_over[str(key)] = "not a tensor"
        elif not str(key).startswith(prefix):
            left_over[str(key)] = f"not under {prefix!r}, where the model's names are"
        elif name not in names:
            raise CheckpointError(f"it has tensors that the model has no place for, first {key!r}")
        elif name not in used:
            left_over[str(key)] = "part of the model, not of its features, projector or classifier"
    return tensors, left_over


def _same(first: Any, second: Any) -> bool:
    """Whether two values of a file are equal tensors; what is no tensor at all is refused later."""
    both = isinstance(first, Tensor) and isinstance(second, Tensor)
    return not both or first is second or (first.shape == second.shape and torch.equal(first, second))


def _prefix(groups: list[list[str]], state: Mapping[str, Any]) -> str:
    """What the file writes before the module's names; CheckpointError where they are not there, or there twice.

    Args:
        groups: the names; tied weights have several, of which one is enough.
    """
    candidates = [""]
    for name in groups[0]:
        candidates += [str(key)[: -len(name)] for key in state if str(key).endswith(f".{name}")]

    def missing(prefix: str) -> list[str]:
        return [group[0] for group in groups if not any(prefix + name in state for name in group)]

    complete = [prefix for prefix in dict.fromkeys(candidates) if not missing(prefix)]
    if len(complete) == 1 or "" in complete:
        return complete[0] if len(complete) == 1 else ""
    if complete:
        raise CheckpointError(f"the model's names are in the file more than once ({', '.join(map(repr, complete))})")
    best = min(dict.fromkeys(candidates), key=lambda prefix: len(missing(prefix)))
    absent = missing(best)
    begins = ", ".join(repr(str(key)) for key in list(state)[:3]) or "nothing"
    raise CheckpointError(
        f"{len(absent)} of the model's {len(groups)} tensors are not in the file, first {best + absent[0]!r}; "
        f"the file begins with {begins}"
    )
