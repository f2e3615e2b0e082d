"""Matrix-free Hessian of a loss over a fixed set of batches.

The Hessian of a contrastive loss depends on the negatives, so the operator is defined for *fixed* batches: a list
of closures, each the loss of one batch whose views and negatives never change. The operator is the Hessian of
their mean. Products are exact (double backward; Pearlmutter 1994), in the precision of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ssa_analysis.errors import MeasureError

BatchLoss = Callable[[], Tensor]


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors into one ``(n,)`` vector."""
    return torch.cat([t.reshape(-1) for t in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Cut an ``(n,)`` vector into tensors of the shapes and dtypes of ``like``."""
    pieces = vector.split([t.numel() for t in like])
    return [piece.view_as(t).to(t.dtype) for piece, t in zip(pieces, like, strict=True)]


@contextmanager
def perturbed(parameters: Sequence[Tensor], offset: Tensor) -> Iterator[None]:
    """Add the ``(n,)`` vector ``offset`` to the parameters inside the block; restore the very same bits after it."""
    saved = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, piece in zip(parameters, unflatten(offset, parameters), strict=True):
            p.add_(piece)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, saved, strict=True):
                p.copy_(old)


class HessianOperator:
    """Hessian of the mean of ``batch_losses`` with respect to ``parameters``.

    Args:
        batch_losses: closures without randomness; each returns a scalar that depends on ``parameters``.
        parameters: tensors with ``requires_grad``; n is their total size.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> operator = HessianOperator([lambda: (w ** 2).sum() + w[0] * w[1]], [w])
        >>> operator.matvec(torch.tensor([1.0, 0.0])).tolist()
        [2.0, 1.0]
    """

    def __init__(self, batch_losses: Sequence[BatchLoss], parameters: Sequence[Tensor]) -> None:
        if not batch_losses or not parameters:
            raise MeasureError("the Hessian needs at least one batch and one parameter")
        self.batch_losses = list(batch_losses)
        self.parameters = list(parameters)
        self.size = sum(p.numel() for p in self.parameters)
        self.products = 0

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.parameters[0].device

    def loss(self) -> float:
        """The mean loss over the batches, at the present parameters."""
        with torch.no_grad():
            return sum(float(batch()) for batch in self.batch_losses) / len(self.batch_losses)

    def _batch_gradient(self, batch: BatchLoss, create_graph: bool) -> list[Tensor]:
        grads = torch.autograd.grad(
            batch(), self.parameters, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
        return list(grads)

    def gradient(self) -> Tensor:
        """``(n,)`` gradient of the mean loss."""
        total = torch.zeros(self.size, device=self.device, dtype=self.parameters[0].dtype)
        for batch in self.batch_losses:
            total += flatten(self._batch_gradient(batch, create_graph=False))
        return total / len(self.batch_losses)

    def matvec(self, vector: Tensor) -> Tensor:
        """``(n,)`` product of the Hessian with an ``(n,)`` vector, in the dtype of the vector."""
        pieces = unflatten(vector, self.parameters)
        total = torch.zeros(self.size, device=self.device, dtype=self.parameters[0].dtype)
        for batch in self.batch_losses:
            grads = self._batch_gradient(batch, create_graph=True)
            connected = [(g, v) for g, v in zip(grads, pieces, strict=True) if g.requires_grad]
            if connected:  # a loss linear in all parameters has no graph left: its Hessian is zero
                outputs, vectors = zip(*connected, strict=True)
                product = torch.autograd.grad(
                    outputs, self.parameters, grad_outputs=vectors, allow_unused=True, materialize_grads=True
                )
                total += flatten(product)
        self.products += 1
        return (total / len(self.batch_losses)).to(vector.dtype)

    def check_determinism(self, tolerance: float = 1e-5) -> float:
        """Two passes over the batches must agree before any product is trusted.

        Returns:
            The relative difference of the two gradients.

        Raises:
            MeasureError: loss or gradient is not finite, or the passes differ by more than ``tolerance``.
        """
        losses, gradients = zip(*[(self.loss(), self.gradient()) for _ in range(2)], strict=True)
        first, second = gradients
        if not (torch.isfinite(first).all() and all(torch.isfinite(torch.tensor(losses)))):
            raise MeasureError("the loss or its gradient is not finite on the fixed batches: no curvature can be given")
        difference = float((first - second).norm() / first.norm().clamp_min(1e-30))
        if abs(losses[0] - losses[1]) > tolerance * max(1.0, abs(losses[0])) or difference > tolerance:
            raise MeasureError(
                f"two passes over the same batches differ (loss {losses[0]:.8g} and {losses[1]:.8g}, gradient by "
                f"{difference:.1e} relative): is dropout on, or a random layer in the network?"
            )
        return difference
