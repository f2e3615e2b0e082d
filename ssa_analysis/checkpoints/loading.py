"""Checkpoint file -> Encoder with every tensor accounted for, or an error."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssa_analysis.checkpoints.containers import describe
from ssa_analysis.checkpoints.finding import find_checkpoints
from ssa_analysis.checkpoints.folders import content_hash, read_checkpoint, said_beside
from ssa_analysis.checkpoints.layouts import LAYOUTS, Layout, Recognised, find, recognise
from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.checkpoints.own_model import OwnModel, recognise_own
from ssa_analysis.checkpoints.reading import file_hash, first_line
from ssa_analysis.errors import CheckpointError, SSAError
from ssa_analysis.models.encoder import Encoder

OWN_LAYOUT = "own model"


@dataclass(frozen=True)
class LoadReport:
    """What was found in a file and what became of it."""

    path: str
    sha256: str
    layout: str
    arch: str
    tensors: int
    parameters: int
    has_projector: bool
    has_classifier: bool
    left_over: dict[str, str]
    assumptions: list[str]
    training: dict[str, Any]
    places: dict[str, str] = field(default_factory=dict)
    certainty: str = ""
    image_size: int | None = None

    @property
    def method(self) -> str:
        """The training method; where the file does not say, the layout's name or that of the user's architecture."""
        unknown = self.arch if self.layout == OWN_LAYOUT else self.layout
        return str(self.training.get("settings", {}).get("method", unknown))


@dataclass(frozen=True)
class LoadedCheckpoint:
    """An encoder in evaluation mode on the CPU, and the report of how it was loaded."""

    encoder: Encoder
    report: LoadReport


def load_checkpoint(path: str | Path, options: LoadOptions | None = None, *, finite: bool = True) -> LoadedCheckpoint:
    """Read, recognise, build and fill an encoder.

    Args:
        options: an architecture, a layout or a recipe, where the user says it; by default the file is recognised from its
            names. See :func:`~ssa_analysis.checkpoints.options.load_options`.
        finite: whether weights that are not finite are refused.

    Raises:
        CheckpointError: unreadable, refused, unknown layout, keys or shapes that do not fit, weights not finite.
    """
    path = _one_file(Path(path))
    payload = read_checkpoint(path)
    sha256 = content_hash(path)
    options = options or LoadOptions()
    sure = ""
    if options.model is not None:
        name, found = OWN_LAYOUT, _own_model(path, options.model, payload)
    else:
        name, sure, found = _find_layout(path, payload, options)
    _fill(path, found, finite)
    projector, assumptions = found.encoder.projector is not None, list(found.assumptions)
    if options.embedding == "features":
        found.encoder.projector = nn.Identity()
        beside = "; its projector is set aside" if projector else ""
        assumptions.append(f"embedding: the features themselves{beside} (as you say)")
    report = LoadReport(
        path=str(path),
        sha256=sha256,
        layout=name,
        arch=found.arch,
        tensors=len(found.tensors),
        parameters=sum(p.numel() for p in found.encoder.parameters()),
        has_projector=projector,
        has_classifier=found.encoder.classifier is not None,
        left_over=found.left_over,
        assumptions=assumptions,
        training=found.training,
        places=found.places,
        certainty=sure,
        image_size=found.image_size,
    )
    return LoadedCheckpoint(found.encoder.eval(), report)


def _one_file(path: Path) -> Path:
    """The file itself, or the one that a folder stands for."""
    try:
        if not path.is_dir():
            return path
    except OSError:  # a name too long, a folder above that may not be entered: reading says so
        return path
    files = find_checkpoints([str(path)])
    if len(files) > 1:
        raise CheckpointError(f"{path}: the folder holds {len(files)} checkpoints, first {files[0].name}; name one of them")
    return files[0]


def _find_layout(path: Path, payload: Any, options: LoadOptions) -> tuple[str, str, Recognised]:
    """Name of the layout, how sure it is, and what it makes of the file."""
    changes, named = dict(options.recipe), options.row()
    try:
        return _first_layout(path, payload, named, changes)
    except re.error as error:
        raise CheckpointError(f"{path}: the patterns of the layout {options.layout} do not go together ({error})") from error
    except CheckpointError as error:
        raise error if str(error).startswith(f"{path}: ") else CheckpointError(f"{path}: {error}") from error


def _first_layout(
    path: Path, payload: Any, named: tuple[str, Layout] | None, changes: dict[str, str]
) -> tuple[str, str, Recognised]:
    rows = sorted(LAYOUTS, key=lambda row: row[1].certainty == "guess")  # what is but a guess after every plug-in
    for name, layout in rows if named is None else [named]:
        sure = layout.certainty if named is None else "named"
        if layout.matches is not None and layout.recognise is not None:
            if layout.matches(payload):
                if changes:
                    raise CheckpointError(f"{path}: says its recipe itself ({name}); --recipe cannot change it")
                return name, sure, _recognise(path, name, partial(layout.recognise, payload))
        elif (found := find(layout, payload, named is not None)) is not None:
            build = partial(recognise, layout, payload, found, changes, said_beside(path))
            return name, sure, _recognise(path, name, build)
    if named is not None:
        raise CheckpointError(f"{path}: is not of the layout {named[0]} ({_describe(payload)})")
    hint = "describe it with --layout FILE.toml, or bring the architecture with --model path/to/file.py:function"
    raise CheckpointError(f"{path}: {_describe(payload)}: none of the {len(LAYOUTS.names())} known layouts; {hint}")


def _own_model(path: Path, model: OwnModel, payload: Any) -> Recognised:
    if file_hash(Path(model.path)) != model.sha256:
        raise CheckpointError(f"{model.path} has changed since the run began")
    try:
        return recognise_own(model, payload)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _recognise(path: Path, layout: str, build: Callable[[], Recognised]) -> Recognised:
    try:
        found = build()
    except SSAError as error:
        raise CheckpointError(f"{path}: looks like {layout}, but {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError, MemoryError) as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"{path}: looks like {layout}, but is damaged or of another version ({what})") from error
    return found


def _describe(payload: Any) -> str:
    if not isinstance(payload, dict):
        return f"holds a {type(payload).__name__}, not a state dict"
    keys = [f"{key!r:.60}" if isinstance(key, str | int) else describe(key) for key in itertools.islice(payload, 4)]
    return f"unknown layout (first keys: {', '.join(keys) or 'none'})"


def batchnorm_counters(module: nn.Module) -> set[str]:
    """Keys that old files may lack without harm: BatchNorm's step counters, which evaluation never reads."""
    return {key for key in module.state_dict() if key.endswith("num_batches_tracked")}


def _fill(path: Path, found: Recognised, finite: bool) -> None:
    """Copy the tensors into the encoder; every key of the encoder must be met, and every tensor must be placed."""
    expected = found.encoder.state_dict()
    optional = batchnorm_counters(found.encoder)
    missing = [k for k in expected if k not in found.tensors and k not in optional]
    unknown = [k for k in found.tensors if k not in expected]
    if missing or unknown:
        parts = []
        if missing:
            parts.append(f"{len(missing)} tensors are missing, first {missing[0]!r}")
        if unknown:
            parts.append(f"{len(unknown)} have no place, first {unknown[0]!r}")
        raise CheckpointError(f"{path}: does not fit {found.arch}: {'; '.join(parts)}")
    for key, tensor in found.tensors.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: {key!r} is a {describe(tensor)}, not a dense tensor")
        plain = tensor.layout == torch.strided and not tensor.is_meta
        if not plain or (expected[key].is_floating_point() and not tensor.is_floating_point()):
            what = f"{tensor.dtype} tensor, {'meta' if tensor.is_meta else tensor.layout}"
            raise CheckpointError(f"{path}: {key!r} is a {what}; weights must be dense floating-point numbers")
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{path}: {key!r} has shape {tuple(tensor.shape)}, {found.arch} expects {tuple(expected[key].shape)}"
            )
        if finite and tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {key!r} holds NaN or infinite weights; the training run has diverged")
    found.encoder.load_state_dict(found.tensors, strict=False)
