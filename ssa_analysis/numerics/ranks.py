"""Processes that share the rows of a batch: one by default, those of a ``torchrun`` job where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ssa_analysis.errors import MeasureError


@dataclass(frozen=True)
class Ranks:
    """``size`` processes, of which this is number ``rank``. All of them must make the same calls in the same order."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Those of the default process group, or this process alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def rows(self, count: int) -> slice:
        """This rank's share of ``count`` rows; MeasureError where there are fewer rows than ranks."""
        if count < self.size:
            raise MeasureError(f"a batch of {count} inputs cannot be shared by {self.size} processes; use fewer processes")
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """``(count, ...)``: the rows of all ranks in their order, from this rank's ``rows``."""
        if self.size == 1:
            return rows
        longest = -(-count // self.size)
        padded = torch.zeros(longest, *rows.shape[1:], dtype=rows.dtype, device=rows.device)
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        shares = [Ranks(rank, self.size).rows(count) for rank in range(self.size)]
        return torch.cat([part[: share.stop - share.start] for part, share in zip(parts, shares, strict=True)])

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def from_first(self, value: Any) -> Any:
        """The first rank's ``value``, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]
