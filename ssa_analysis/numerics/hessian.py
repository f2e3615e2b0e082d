"""Matrix-free Hessian and Gauss-Newton operators of a loss over a fixed set of batches.

The Hessian of a contrastive loss depends on the negatives, so the operator is defined for *fixed* batches: inputs whose
views and negatives never change. The operator is that of the mean of their losses. Products are exact.

A batch has two stages: a network, which treats its inputs one by one (BatchNorm in evaluation mode), and a loss of all
its outputs together. That makes chunking exact although the loss couples the batch. With outputs ``Z``, ``G`` the
gradient of the loss at Z and ``J`` the Jacobian of Z,

    H v = J^T (d2L/dZ2) J v + d/dw <J^T G, v>   with G held fixed,

and each term is a sum over chunks, or over the processes of a ``torchrun`` job that share a batch's rows. One double
backward through ``<J^T G, v>`` gives both ``J v`` (the derivative with respect to G) and the second term.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.numerics.graph_memory import SavedBytes
from ssa_analysis.numerics.ranks import Ranks
from ssa_analysis.registry import unknown_name

Network = Callable[[Tensor], Tensor]
KINDS = ("hessian", "gauss-newton")
DEFAULT_MEMORY = 2 * 2**30  # bytes
PROBE_INPUTS = 8  # the memory of a graph is measured on this many inputs
SLICE_WEIGHTS = 14  # times the weights' own bytes, that a slice has of graph at least
SLICE_BYTES = 2**27  # of graph, that go through a network at once on a CPU: what is larger falls out of its caches


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


@dataclass(frozen=True)
class Loss:
    """The second stage: outputs ``(k, d)`` -> logits -> scalar.

    ``scalar`` must be convex in the logits: the Gauss-Newton operator, ``J_s^T (d2L/ds2) J_s`` with s the logits, is
    then positive semi-definite. For a contrastive loss the logits are the similarities.
    """

    logits: Callable[[Tensor], Tensor]
    scalar: Callable[[Tensor], Tensor]

    def __call__(self, outputs: Tensor) -> Tensor:
        """The loss of a batch's outputs."""
        return self.scalar(self.logits(outputs))


@dataclass(frozen=True)
class Batch:
    """A fixed batch: ``inputs (k, ...)`` of the network and the loss of its outputs."""

    inputs: Tensor
    loss: Loss


def _grad(
    outputs: Sequence[Tensor] | Tensor,
    inputs: Sequence[Tensor],
    vectors: Sequence[Tensor] | Tensor | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> list[Tensor]:
    """Gradients with zeros where an input has no part in the outputs."""
    found = torch.autograd.grad(
        outputs, list(inputs), vectors, retain_graph, create_graph, allow_unused=True, materialize_grads=True
    )
    return list(found) if create_graph else [g.detach() for g in found]  # the zeros of torch 2.4 require a gradient


def _directional(gradients: Sequence[Tensor], vectors: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """``d/d(inputs) <gradients, vectors>``, keeping the graph."""
    used = [(g, v) for g, v in zip(gradients, vectors, strict=True) if g.requires_grad]
    if not used:  # a loss linear in everything has no graph left: its second derivatives are zero
        return [torch.zeros_like(t) for t in inputs]
    outputs, cotangents = zip(*used, strict=True)
    return _grad(outputs, inputs, cotangents, retain_graph=True)


def twice_differentiable(network: Network) -> Network:
    """The network with the plain attention kernel: the fused ones have no second derivative."""

    def run(inputs: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return network(inputs)

    return run


def _pixels_last(images: Tensor) -> Tensor:
    """Images with their channels side by side in memory: on CPUs convolutions and their first derivatives are quicker so.

    Second derivatives are slower, and GPUs are indifferent in float32.
    """
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 and not images.is_cuda else images


@dataclass(frozen=True)
class _Part:
    """Some rows of a batch on their way through the network: outputs, and ``J^T leaf``, differentiable in both."""

    rows: slice  # within this process's share
    outputs: Tensor
    leaf: Tensor
    gradients: list[Tensor]


class CurvatureOperator:
    """Hessian (or Gauss-Newton) operator of the mean loss of fixed batches with respect to ``parameters``.

    Args:
        network: maps inputs ``(k, ...)`` to outputs ``(k, d)``, row by row, without randomness.
        batches: fixed; the operator is the mean of theirs.
        parameters: tensors with ``requires_grad``; n is their total size.
        names: of the parameters; their numbers by default.
        kind: ``hessian`` or ``gauss-newton``.
        memory: bytes that graphs may take (what autograd saves, and the gradients that are kept). Where the graphs of
            all batches fit, they are built once and every product costs one double backward; where one batch fits, its
            graph is rebuilt for each product; else the batch goes through in chunks that fit. The operator is the same,
            up to rounding. A product's own temporaries come on top: about half of the graph that it goes through.
        ranks: the processes that share every batch's rows; all hold the same weights and batches, make the same calls
            and get the same results. By default those of the process group, if there is one.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> loss = Loss(lambda z: z, lambda s: s.square().mean())
        >>> operator = CurvatureOperator(lambda x: x * w, [Batch(torch.ones(3, 2), loss)], [w])
        >>> operator.matvec(torch.tensor([1.0, 0.0])).tolist()
        [1.0, 0.0]
    """

    def __init__(
        self,
        network: Network,
        batches: Sequence[Batch],
        parameters: Sequence[Tensor],
        *,
        names: Sequence[str] | None = None,
        kind: str = "hessian",
        memory: float = DEFAULT_MEMORY,
        ranks: Ranks | None = None,
    ) -> None:
        if not batches or not parameters:
            raise MeasureError("the curvature needs at least one batch and one parameter")
        if kind not in KINDS:
            raise unknown_name("kind of curvature", kind, list(KINDS))
        if not memory > 0:
            raise SettingsError(f"the memory for graphs must be positive, got {memory}")
        self.network, self.batches, self.parameters = twice_differentiable(network), list(batches), list(parameters)
        self.names = list(names) if names is not None else [str(i) for i in range(len(self.parameters))]
        self.kind, self.memory = kind, memory
        self.ranks = ranks if ranks is not None else Ranks.current()
        self._shares: list[slice] = [self.ranks.rows(len(batch.inputs)) for batch in self.batches]
        self.size = sum(p.numel() for p in self.parameters)
        self.products = 0
        self.on_work: Callable[[], None] = lambda: None  # called after every loss, gradient and product
        self._kept: list[list[Tensor]] | None = None
        self._kept_parts: list[tuple[Tensor, list[_Part]]] | None = None

    def sibling(
        self,
        *,
        batches: Sequence[Batch] | None = None,
        parameters: Sequence[Tensor] | None = None,
        names: Sequence[str] | None = None,
        kind: str | None = None,
        memory: float | None = None,
    ) -> CurvatureOperator:
        """An operator of the same network with other batches, parameters or kind; what is not given stays."""
        other = CurvatureOperator(
            self.network,
            self.batches if batches is None else batches,
            self.parameters if parameters is None else parameters,
            names=names if parameters is not None else self.names,
            kind=kind or self.kind,
            memory=memory or self.memory,
            ranks=self.ranks,
        )
        other.on_work = self.on_work
        if parameters is None:  # what one input takes has been measured
            other.bytes_per_input = self.bytes_per_input
        return other

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.parameters[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the products."""
        return self.parameters[0].dtype

    @cached_property
    def bytes_per_input(self) -> float:
        """What autograd saves of one input for a second derivative, measured on a few."""
        sample = self.batches[0].inputs[:PROBE_INPUTS]
        half = len(sample) // 2
        whole = self._saved_bytes(sample)
        if not half:
            return max(1.0, whole)
        # of the difference, so that frozen weights and other constants do not count
        return max(1.0, (whole - self._saved_bytes(sample[:half])) / (len(sample) - half))

    def _saved_bytes(self, sample: Tensor) -> int:
        counter = SavedBytes([*self.parameters, sample])
        with torch.enable_grad(), counter.watch():
            outputs = self.network(sample)
            _grad(outputs, self.parameters, torch.zeros_like(outputs).requires_grad_(), create_graph=True)
        return counter.total

    @cached_property
    def plan(self) -> str:
        """``kept``, ``rebuilt`` or ``chunked``: which of the three ways the memory allows; the same on every rank."""
        sizes = [-(-len(batch.inputs) // self.ranks.size) for batch in self.batches]  # of the largest share
        gradients = len(sizes) * sum(p.nbytes for p in self.parameters)
        if sum(sizes) * self.bytes_per_input + gradients <= self.memory:
            return "kept"
        return "rebuilt" if max(sizes) * self.bytes_per_input <= self.memory else "chunked"

    @property
    def two_stage(self) -> bool:
        """Whether the network and the loss are differentiated apart: for chunks, several processes, or Gauss-Newton."""
        return self.plan == "chunked" or self.kind == "gauss-newton" or self.ranks.size > 1

    @cached_property
    def chunk(self) -> int:
        """Inputs that go through the network at once where the plan is ``chunked``, and for plain gradients."""
        largest: int = max(share.stop - share.start for share in self._shares)
        return max(1, min(largest, int(self.memory / self.bytes_per_input)))

    @cached_property
    def slice_length(self) -> int:
        """Inputs that go through the network at once inside a graph.

        On CPUs, where a whole batch would push every layer's output through the main memory: a product with a width-16
        ResNet-18 and 1024 inputs takes less than half of the time in slices. But each slice reads and writes all weights,
        so that it should not be small beside them. GPUs have the batch whole.
        """
        if self.device.type != "cpu":
            return 2**60
        weights = self.size * self.parameters[0].element_size()
        return max(4, min(64, int(max(SLICE_BYTES, SLICE_WEIGHTS * weights) / self.bytes_per_input)))

    def _through(self, inputs: Tensor) -> Tensor:
        """The network's outputs for inputs ``(k, ...)``, slice by slice, in one graph."""
        parts = inputs.split(self.slice_length)
        return self.network(inputs) if len(parts) == 1 else torch.cat([self.network(part) for part in parts])

    def _mine(self, batch: Batch) -> Tensor:
        """This process's rows of a batch's inputs."""
        return batch.inputs[self.ranks.rows(len(batch.inputs))]

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs of a batch, without a graph."""
        with torch.no_grad():
            mine = torch.cat([self._through(_pixels_last(part)) for part in self._mine(batch).split(self.chunk)])
            return self.ranks.gather(mine, len(batch.inputs))

    def loss(self) -> float:
        """The mean loss over the batches, at the present parameters."""
        with torch.no_grad():
            total = sum(float(batch.loss(self.outputs(batch))) for batch in self.batches)
        self.on_work()
        return total / len(self.batches)

    def _loss_gradient(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs ``(k, d)`` of a batch, as a leaf, and the gradient of its loss with respect to them."""
        outputs = self.outputs(batch).requires_grad_()
        return outputs, _grad(batch.loss(outputs), [outputs])[0]

    def gradient(self) -> Tensor:
        """``(n,)`` gradient of the mean loss."""
        total = torch.zeros(self.size, device=self.device, dtype=self.dtype)
        for batch in self.batches:
            _, cotangent = self._loss_gradient(batch)
            mine = cotangent[self.ranks.rows(len(cotangent))]
            for part, rows in zip(self._mine(batch).split(self.chunk), mine.split(self.chunk), strict=True):
                total += flatten(_grad(self._through(_pixels_last(part)), self.parameters, rows))
        self.on_work()
        return self.ranks.sum(total) / len(self.batches)

    def matvec(self, vector: Tensor) -> Tensor:
        """``(n,)`` product with an ``(n,)`` vector, in the dtype of the vector."""
        return self.matmat(vector[None])[0]

    def matmat(self, vectors: Tensor) -> Tensor:
        """``(b, n)`` products with the rows of ``(b, n)``; they share every graph that has to be rebuilt."""
        pieces = [unflatten(vector, self.parameters) for vector in vectors]
        total = torch.zeros(len(vectors), self.size, device=self.device, dtype=self.dtype)
        for number, batch in enumerate(self.batches):
            if self.two_stage:
                self._add_two_stage(number, batch, pieces, total)
                continue
            gradients = self._whole_graphs()[number] if self.plan == "kept" else self._whole_graph(batch)
            for i, piece in enumerate(pieces):
                total[i] += flatten(_directional(gradients, piece, self.parameters))
            del gradients  # or it would live on while the next batch's graph is built
        self.products += len(vectors)
        for _ in vectors:
            self.on_work()
        products = self.ranks.sum(total) / len(self.batches)
        if not bool(torch.isfinite(products).all()):
            raise MeasureError("a product with the curvature is not finite: the loss bends too sharply for this precision")
        return products.to(vectors.dtype)

    def release(self) -> None:
        """Drop kept graphs: needed after the parameters have changed, and to give the memory back."""
        self._kept = self._kept_parts = None

    def _whole_graph(self, batch: Batch) -> list[Tensor]:
        """The gradient of a batch's loss, differentiable."""
        return _grad(batch.loss(self._through(batch.inputs)), self.parameters, create_graph=True)

    def _whole_graphs(self) -> list[list[Tensor]]:
        """Those of all batches, kept from product to product."""
        if self._kept is None:
            self._kept = [self._whole_graph(batch) for batch in self.batches]
        return self._kept

    def _parts(self, batch: Batch, cotangent: Tensor) -> Iterator[_Part]:
        """This process's rows of a batch, chunk by chunk, each with its graph."""
        mine = cotangent[self.ranks.rows(len(cotangent))]
        start = 0
        for inputs, rows in zip(self._mine(batch).split(self.chunk), mine.split(self.chunk), strict=True):
            yield self._part(slice(start, start + len(inputs)), inputs, rows)
            start += len(inputs)

    def _part(self, where: slice, inputs: Tensor, rows: Tensor) -> _Part:
        leaf = rows.detach().clone().requires_grad_()
        outputs = self._through(inputs)
        return _Part(where, outputs, leaf, _grad(outputs, self.parameters, leaf, create_graph=True))

    def _staged(self, number: int, batch: Batch) -> tuple[Tensor, Iterable[_Part]]:
        """All outputs of a batch, and this process's parts of it."""
        if self.plan == "kept":
            if self._kept_parts is None:
                pairs = [(each, *self._loss_gradient(each)) for each in self.batches]
                self._kept_parts = [(outputs, list(self._parts(each, gradient))) for each, outputs, gradient in pairs]
            return self._kept_parts[number]
        outputs, cotangent = self._loss_gradient(batch)
        return outputs, self._parts(batch, cotangent)

    def _add_two_stage(self, number: int, batch: Batch, pieces: list[list[Tensor]], total: Tensor) -> None:
        """Products that are exact although no chunk and no process sees the others' rows.

        First pass: ``J v`` of every chunk, and the second derivative of the network. Second pass: the curvature of
        the loss at all outputs, pulled back; through the same graphs where the memory holds them, else through new ones.
        """
        outputs, parts = self._staged(number, batch)
        share = self.ranks.rows(len(outputs))
        pushed = torch.zeros(len(pieces), share.stop - share.start, *outputs.shape[1:], device=self.device, dtype=self.dtype)
        held: list[Tensor] = []
        for part in parts:
            for i, piece in enumerate(pieces):
                wanted = [part.leaf] if self.kind == "gauss-newton" else [part.leaf, *self.parameters]
                push, *second = _directional(part.gradients, piece, wanted)
                pushed[i, part.rows] = push
                if second:
                    total[i] += flatten(second)
            if self.plan != "chunked":
                held.append(part.outputs)
            del part  # or it would live on while the next chunk's graph is built
        everywhere = [self.ranks.gather(push, len(outputs)) for push in pushed]
        curved = [self._loss_curvature(batch.loss, outputs, push)[share] for push in everywhere]
        start = 0
        for out in held or (self._through(inputs) for inputs in self._mine(batch).split(self.chunk)):
            for i, rows in enumerate(curved):
                total[i] += flatten(_grad(out, self.parameters, rows[start : start + len(out)], retain_graph=True))
            start += len(out)
            del out

    def _loss_curvature(self, loss: Loss, outputs: Tensor, push: Tensor) -> Tensor:
        """``(d2L/dZ2) U``, or its Gauss-Newton part through the logits; ``(k, d)``."""
        if self.kind == "hessian":
            gradient = _grad(loss(outputs), [outputs], create_graph=True)
            return _directional(gradient, [push], [outputs])[0]
        logits = loss.logits(outputs)
        dummy = torch.zeros_like(logits).requires_grad_()
        pulled = _grad(logits, [outputs], dummy, create_graph=True)
        moved = _directional(pulled, [push], [dummy])[0]  # the derivative of the logits along U
        leaf = logits.detach().requires_grad_()
        curved = _directional(_grad(loss.scalar(leaf), [leaf], create_graph=True), [moved], [leaf])[0]
        return _grad(logits, [outputs], curved)[0]

    def check_determinism(self, tolerance: float = 1e-5) -> float:
        """Two passes over the batches must agree before any product is trusted.

        Returns:
            The relative difference of the two gradients.

        Raises:
            MeasureError: loss or gradient is not finite, or the passes differ by more than ``tolerance``.
        """
        losses, gradients = zip(*[(self.loss(), self.gradient()) for _ in range(2)], strict=True)
        first, second = gradients
        if not (torch.isfinite(first).all() and all(math.isfinite(value) for value in losses)):
            raise MeasureError("the loss or its gradient is not finite on the fixed batches: no curvature can be given")
        difference = float((first - second).norm() / first.norm().clamp_min(1e-30))
        if abs(losses[0] - losses[1]) > tolerance * max(1.0, abs(losses[0])) or difference > tolerance:
            raise MeasureError(
                f"two passes over the same batches differ (loss {losses[0]:.8g} and {losses[1]:.8g}, gradient by "
                f"{difference:.1e} relative): is dropout on, or a random layer in the network?"
            )
        return difference
