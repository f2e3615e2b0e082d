"""Where the slices of the landscape lead: random directions, eigenvectors, another checkpoint."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.errors import MeasureError
from ssa_analysis.measures.base import run_context
from ssa_analysis.measures.loss_field import Buffers
from ssa_analysis.measures.partial_points import tensors_hash
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.directions import Direction, filter_normalised_direction
from ssa_analysis.numerics.hessian import CurvatureOperator, unflatten
from ssa_analysis.numerics.lanczos import eigenpairs, krylov_space, random_vector
from ssa_analysis.numerics.seeding import derive_seed, generator


def random_direction(parameters: Sequence[Tensor], seed: int, number: int) -> list[Tensor]:
    """Filter-normalised random direction ``number`` of a seed."""
    return filter_normalised_direction(parameters, generator(seed, "direction", number))


@dataclass(frozen=True)
class EigenDirections:
    """Top eigenpairs of the Hessian; see :class:`ssa_analysis.numerics.lanczos.Eigenpairs` for the errors."""

    values: np.ndarray  # (k,)
    vectors: Tensor  # (k, n) unit rows; the entry of largest magnitude is positive
    residuals: np.ndarray  # (k,)
    errors: np.ndarray  # (k,)
    converged: np.ndarray  # (k,) bool

    @property
    def sha256(self) -> str:
        """Of the vectors' bits."""
        return tensors_hash({"vectors": self.vectors})

    def direction(self, number: int, parameters: Sequence[Tensor]) -> Direction:
        """One eigenvector cut into the shapes of the parameters."""
        return unflatten(self.vectors[number], parameters)


def eigen_directions(
    operator: CurvatureOperator, count: int, tolerance: float, max_products: int, seed: int, belongs_to: Mapping[str, Any]
) -> EigenDirections:
    """The ``count`` largest eigenpairs by Lanczos, kept in the scratch folder of the run where there is one.

    Args:
        belongs_to: plain values that decide them; kept ones that belong to something else are not used.
    """
    context = run_context()
    path = context.scratch / "eigenvectors.pt" if context.scratch is not None else None
    header = json.dumps(dict(belongs_to), sort_keys=True)
    kept = operator.ranks.from_first(_kept(path, header, operator.device))  # all ranks must compute the same products
    if kept is not None:
        return EigenDirections(**{**kept, "vectors": kept["vectors"].to(operator.device)})
    count = min(count, operator.size)
    start = random_vector(operator.size, derive_seed(seed, "krylov") % 2**60, operator.device, operator.dtype)
    krylov = krylov_space(operator.matvec, start, top=count, tolerance=tolerance, max_products=max_products, max_vectors=60)
    operator.release()  # kept graphs would not be those of the moved weights
    pairs = eigenpairs(krylov, "largest", count, tolerance)
    vectors = pairs.vectors / pairs.vectors.norm(dim=1, keepdim=True)
    strongest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    vectors = vectors * torch.where(strongest < 0, -1.0, 1.0)
    found = EigenDirections(pairs.values, vectors, pairs.residuals, pairs.errors, pairs.converged)
    if path is not None:
        with suppress(OSError):  # only a resumed run would miss it
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f"{path.name}.{os.getpid()}")
            numbers = {k: torch.from_numpy(np.asarray(getattr(found, k))) for k in ("values", "residuals", "errors", "converged")}
            torch.save({"belongs_to": header, "vectors": vectors.cpu(), **numbers}, fresh)
            os.replace(fresh, path)
    return found


def _kept(path: Path | None, header: str, device: torch.device) -> dict[str, Any] | None:
    """Fields of the eigenpairs in a file, if there is one and it belongs to this header."""
    if path is not None and path.is_file():
        with suppress(Exception):  # damaged bytes raise anything; the vectors are computed again
            kept = torch.load(path, map_location=device, weights_only=True)
            if kept["belongs_to"] == header:
                numbers = {k: kept[k].cpu().numpy() for k in ("values", "residuals", "errors", "converged")}
                return {"vectors": kept["vectors"], **numbers}
    return None


@dataclass(frozen=True)
class OtherCheckpoint:
    """The way from an encoder to another one: offset 1 is the other."""

    direction: Direction
    length: float  # l2
    buffers: Buffers | None


def difference_to(path: Path, encoder: Encoder, operator: CurvatureOperator, with_buffers: bool) -> OtherCheckpoint:
    """Difference between another checkpoint's weights and the encoder's.

    Only the operator's weights move, so that offset 1 is the other checkpoint where the scope is ``all``.

    Args:
        with_buffers: BatchNorm's running statistics move too, those of layers that move.

    Raises:
        CheckpointError: the file cannot be loaded.
        MeasureError: another architecture or input normalisation, or a probe that stands in for a classifier.
    """
    other = load_checkpoint(path, run_context().options).encoder.to(encoder.device)
    check_same_architecture(path, encoder, other)
    theirs = dict(other.named_parameters())
    absent = [name for name in operator.names if name not in theirs]
    if absent:
        raise MeasureError(
            f"{path}: has no {absent[0]!r}: the probe that stands in for a classifier belongs to one checkpoint; "
            "take scope=backbone, or the contrastive loss"
        )
    with torch.no_grad():
        direction = [theirs[name] - p for name, p in zip(operator.names, operator.parameters, strict=True)]
        length = math.sqrt(sum(float(d.double().square().sum()) for d in direction))
        mine, its = _moving_statistics(encoder, operator.names), _moving_statistics(other, operator.names)
        steps = [b - a for a, b in zip(mine, its, strict=True)]
    return OtherCheckpoint(direction, length, Buffers("other", mine, steps) if with_buffers and mine else None)


def _moving_statistics(encoder: Encoder, names: Sequence[str]) -> list[Tensor]:
    """Running means and variances of the BatchNorm layers whose weights move, or, without weights, whose part does."""
    parts = {name.split(".")[0] for name in names}
    found: list[Tensor] = []
    for name, module in encoder.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        own = [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)]
        if any(key in names for key in own) or (not own and name.split(".")[0] in parts):
            found += [b for b in (module.running_mean, module.running_var) if b is not None]
    return found


def check_same_architecture(path: Path, encoder: Encoder, other: Encoder) -> None:
    """MeasureError unless both have the same modules, tensors and input normalisation."""
    mine, theirs = encoder.state_dict(), other.state_dict()
    for name in [*mine, *theirs]:
        here, there = (tuple(state[name].shape) if name in state else None for state in (mine, theirs))
        if here != there:
            what = ("is absent" if shape is None else f"has shape {shape}" for shape in (there, here))
            raise MeasureError(
                f"{path}: another architecture than this checkpoint's: {name!r} {next(what)} there and {next(what)} here; "
                "a path leads only between checkpoints of one architecture"
            )
    if repr(encoder) != repr(other):
        raise MeasureError(f"{path}: another architecture than this checkpoint's: the same weights in other modules")
    if not (torch.equal(encoder.mean, other.mean) and torch.equal(encoder.std, other.std)):
        raise MeasureError(f"{path}: its images are normalised otherwise than this checkpoint's; the path would mix the two")
