"""Whether a file has the weights of the architecture that it names, found out before any is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ssa_analysis.errors import CheckpointError

FEW = 10_000_000  # weights that may be missing: what does not fit is then named one by one


def check_size(build: Callable[[], nn.Module], tensors: Iterable[Any]) -> None:
    """CheckpointError where ``build`` makes a module of many more weights than the tensors have: a few bytes can name a network
    that no machine holds. Nothing is made here: the module is built without storage."""
    with torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in build().parameters())
    there = sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))
    if wanted > there + FEW:
        raise CheckpointError(f"the architecture that it names has {wanted:,} weights, and the file {there:,}")
