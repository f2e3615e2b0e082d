"""A user's own architecture: ``--model path/to/file.py:function``.

The function's file is Python and is executed; the checkpoint is only data and is not. The function is called

* without arguments, if it needs none, and returns a freshly built module whose names are those of the checkpoint, or
* with the content of the checkpoint file, if it needs one argument, and returns a module that holds the weights.

An :class:`~ssa_analysis.models.encoder.Encoder` is taken as it is. Another module is taken apart: its child ``fc``,
``linear``, ``classifier``, ``head`` or ``heads`` is the classifier and what goes into it are the features; where it has
a child ``backbone`` or ``encoder``, that is the backbone, and ``projector``, ``projection_head`` or ``projection`` the
projector.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from ssa_analysis.checkpoints.layouts import IMAGENET_MEAN, IMAGENET_STD, Recognised, unwrap
from ssa_analysis.checkpoints.reading import file_hash, first_line
from ssa_analysis.errors import CheckpointError, SettingsError
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.registry import unknown_name

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
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
    if not colon or not path.endswith(".py") or not function.isidentifier():
        raise SettingsError(f"--model {text}: write it as path/to/file.py:function")
    if not Path(path).is_file():
        raise SettingsError(f"--model {text}: there is no file {path}")
    if normalise is not None:
        parse_normalisation(normalise)
    return OwnModel(path, function, normalise, file_hash(Path(path)))


def parse_normalisation(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A name or ``m,m,m/s,s,s`` -> mean and standard deviation of each channel, for pixels in [0, 1].

    >>> parse_normalisation("0.4,0.5,0.6/0.2,0.2,0.2")
    ((0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    """
    if text in NORMALISATIONS:
        return NORMALISATIONS[text]
    if not re.search(r"\d", text):
        raise unknown_name("normalisation", text, [*NORMALISATIONS, "m,m,m/s,s,s"])
    parts: list[tuple[float, ...]] = []
    with suppress(ValueError):
        parts = [tuple(float(x) for x in part.split(",")) for part in text.split("/")]
    if [len(part) for part in parts] != [3, 3] or min(parts[1]) <= 0:
        raise SettingsError(f"normalisation {text!r}: write three means, a slash, three positive standard deviations, such as "
                            "0.49,0.48,0.45/0.25,0.24,0.26")  # fmt: skip
    return parts[0], parts[1]


def recognise_own(model: OwnModel, payload: Any) -> Recognised:
    """Call the user's function and take its module apart.

    Raises:
        CheckpointError: the function fails or returns something else, or its names are not those of the file.
        SettingsError: no such function, or a plain module without a normalisation.
    """
    function = _function(model)
    required = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) > 1:
        raise SettingsError(f"--model {model}: the function must need no argument, or one (the checkpoint's content)")
    try:
        module = function(payload) if required else function()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}, line {where.lineno}"
        raise CheckpointError(f"--model {model} failed with {type(error).__name__}: {first_line(error)} ({place})") from error
    if not isinstance(module, nn.Module):
        raise CheckpointError(f"--model {model} returned a {type(module).__name__}, not a torch.nn.Module")
    names = module.state_dict(keep_vars=True)
    encoder = as_encoder(module, model)
    arch = f"{model.function} of {Path(model.path).name}"
    if required:
        placed = [f"the weights are those that {model.function} has placed"]
        return Recognised(encoder, arch, dict(encoder.state_dict()), assumptions=placed)
    tensors, left_over = _placed(names, encoder, payload)
    return Recognised(encoder, arch, tensors, left_over)


def as_encoder(module: nn.Module, model: OwnModel) -> Encoder:
    """The module's parts as an encoder; the tensors are shared with the module."""
    if isinstance(module, Encoder):
        return module
    if model.normalise is None:
        raise SettingsError(
            f"--model {model} returns a plain module: say how its images are normalised with --normalise "
            f"({', '.join(NORMALISATIONS)}, or m,m,m/s,s,s)"
        )
    mean, std = parse_normalisation(model.normalise)
    children = dict(module.named_children())
    backbone = next((children[name] for name in _BACKBONES if name in children), None)
    classifier = next((name for name in _CLASSIFIERS if name in children), None)
    if backbone is not None:
        projector = next((children[name] for name in _PROJECTORS if name in children), None)
        head = children[classifier] if classifier else None
        return Encoder(nn.Sequential(backbone, nn.Flatten()), projector, mean, std, classifier=head)
    head = None
    if classifier is not None:
        head = children[classifier]
        setattr(module, classifier, nn.Identity())
    return Encoder(nn.Sequential(module, nn.Flatten()), None, mean, std, classifier=head)


def _function(model: OwnModel) -> Any:
    """The user's function, from his file executed as a module; files beside it can be imported by it."""
    name = f"_ssa_analysis_own_{model.sha256[:16]}"
    module: ModuleType | None = sys.modules.get(name)
    if module is None:
        spec = importlib.util.spec_from_file_location(name, model.path)
        assert spec is not None  # the name ends in .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle look their module up
        folder = str(Path(model.path).resolve().parent)
        sys.path.insert(0, folder)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            what = f"{type(error).__name__}: {first_line(error)}"
            raise CheckpointError(f"--model {model}: {model.path} cannot be run ({what})") from error
        finally:
            sys.path.remove(folder)
    function = getattr(module, model.function, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown_name(f"function in {model.path}", model.function, names)
    return function


def _placed(names: Mapping[str, Tensor], encoder: Encoder, payload: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The file's tensors by the encoder's keys, and what of the file is left over.

    Args:
        names: the module's state dict before it was taken apart. The encoder holds the very same tensors under other
            keys, which is how names find their keys. The file may put one prefix before all names.
    """
    state = unwrap(payload)
    if state is None:
        raise CheckpointError(f"it holds a {type(payload).__name__}, not a state dict")
    keys: dict[int, list[str]] = {}
    for key, tensor in encoder.state_dict(keep_vars=True).items():
        keys.setdefault(id(tensor), []).append(key)
    key_of = {name: keys[id(tensor)].pop(0) for name, tensor in names.items() if keys.get(id(tensor))}
    prefix = _prefix([name for name in names if not name.endswith("num_batches_tracked")], state)
    tensors = {key: state[prefix + name] for name, key in key_of.items() if prefix + name in state}
    left_over: dict[str, str] = {}
    for key, value in state.items():
        name = str(key).removeprefix(prefix)
        if not isinstance(value, Tensor):
            left_over[str(key)] = "not a tensor"
        elif not str(key).startswith(prefix):
            left_over[str(key)] = f"not under {prefix!r}, where the model's names are"
        elif name not in names:
            raise CheckpointError(f"it has tensors that the model has no place for, first {key!r}")
        elif name not in key_of:
            left_over[str(key)] = "part of the model, not of its features, projector or classifier"
    return tensors, left_over


def _prefix(names: list[str], state: Mapping[str, Any]) -> str:
    """What the file writes before the module's names; CheckpointError where they are not there, or there twice."""
    first = names[0]
    candidates = [str(key)[: -len(first)] for key in state if str(key).endswith(first)]
    complete = [prefix for prefix in dict.fromkeys(candidates) if all(prefix + name in state for name in names)]
    if len(complete) == 1 or "" in complete:
        return complete[0] if len(complete) == 1 else ""
    if complete:
        raise CheckpointError(f"the model's names are in the file more than once ({', '.join(map(repr, complete))})")
    best = max(dict.fromkeys(["", *candidates]), key=lambda prefix: sum(prefix + name in state for name in names))
    missing = [name for name in names if best + name not in state]
    raise CheckpointError(f"{len(missing)} of the model's {len(names)} tensors are not in the file, first {best + missing[0]!r}")
