"""Several processes that train one encoder: gathered negatives, synchronised BatchNorm, averaged gradients.

With them a step on R ranks is the step of one process with the whole batch: every anchor sees the negatives of all ranks,
BatchNorm normalises by the statistics of the whole batch, and the gradient is that of the mean over all anchors.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.ranks import Ranks


class _Gathered(torch.autograd.Function):
    """Rows of all ranks; backward, what all ranks want of one's own rows."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        context.count = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        whole = gradient.contiguous().clone()
        dist.all_reduce(whole)
        start = dist.get_rank() * context.count
        return whole[start : start + context.count]


class _Summed(torch.autograd.Function):
    """The sum over ranks; its gradient is summed alike."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def gathered(rows: Tensor) -> Tensor:
    """``(R n, ...)`` rows of all ranks in their order, from the ``(n, ...)`` of each; gradients flow back to all of them."""
    if Ranks.current().size == 1:
        return rows
    return _Gathered.apply(rows)  # type: ignore[no-any-return]


class RankBatchNorm(_BatchNorm):
    """BatchNorm over the batches of all ranks, which must be of one size; torch's own does it on GPUs alone."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        """As BatchNorm1d and BatchNorm2d; in evaluation mode exactly so."""
        if not self.training:
            return super().forward(x)
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _Summed.apply(x.float().sum(dims)) / count
        centred = x.float() - mean.view(shape)
        variance = _Summed.apply(centred.square().sum(dims)) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach().to(self.running_mean), momentum)
                self.running_var.lerp_((variance.detach() * count / (count - 1)).to(self.running_var), momentum)
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        result: Tensor = normalised.to(x.dtype)
        return result


def synchronise_batchnorm(module: nn.Module, device: torch.device) -> None:
    """Replace every BatchNorm inside ``module`` by one over all ranks; weights, statistics and key names stay."""
    for name, child in module.named_children():
        if not isinstance(child, _BatchNorm):
            synchronise_batchnorm(child, device)
            continue
        kind = nn.SyncBatchNorm if device.type == "cuda" else RankBatchNorm
        new = kind(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
        new.weight, new.bias = child.weight, child.bias
        new.running_mean, new.running_var = child.running_mean, child.running_var
        new.num_batches_tracked = child.num_batches_tracked
        new.training = child.training
        setattr(module, name, new)


class Replica:
    """An encoder as this process trains it: alone, or as one of several ranks.

    Args:
        compiled: run its forward pass through ``torch.compile``.

    ``embed`` maps views to the embedding of this rank's rows; ``unsynchronised()`` is a block in which gradients are
    summed up here and not yet averaged over the ranks.
    """

    def __init__(self, encoder: Encoder, device: torch.device, compiled: bool = False) -> None:
        self.encoder, self.ranks = encoder, Ranks.current()
        module: nn.Module = encoder
        self._ddp: DistributedDataParallel | None = None
        if self.ranks.size > 1:
            synchronise_batchnorm(encoder, device)
            ids = [device.index] if device.type == "cuda" and device.index is not None else None
            self._ddp = DistributedDataParallel(encoder, device_ids=ids, broadcast_buffers=False)
            module = self._ddp
        self.embed: Callable[[Tensor], Tensor] = torch.compile(module) if compiled else module

    def unsynchronised(self) -> AbstractContextManager[Any]:
        """Gradients inside the block stay on this rank."""
        return self._ddp.no_sync() if self._ddp is not None else nullcontext()

    def share(self, index: Tensor, parts: int) -> Tensor:
        """This rank's rows of a batch that is cut into ``parts``: its share of every part."""
        return index.view(parts, self.ranks.size, -1)[:, self.ranks.rank].reshape(-1)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over ranks."""
        return self.ranks.sum(tensor.clone()) / self.ranks.size
