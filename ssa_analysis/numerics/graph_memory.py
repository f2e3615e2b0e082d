"""The memory of autograd's graphs: what it saves for them, and how much of a stated peak is left to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ssa_analysis.errors import SettingsError
from ssa_analysis.numerics.thrift import memory_share

# a product's own memory: of the graph that it goes through as a share, and in vectors of all weights
TEMPORARIES, VECTORS = 1.2, 8
GPU_TEMPORARIES = 1.6  # with the workspaces of cuDNN's convolutions


def graph_memory(peak: float, weights: int, bytes_each: int, basis: int = 0, device: str = "cpu") -> tuple[float, int]:
    """What of a peak of ``peak`` bytes remains for graphs, and how many basis vectors to hold.

    Args:
        weights: n. bytes_each: of one number. basis: vectors ``(n,)`` that the caller would like to hold; they get a
            quarter of the memory at most. device: its type; a product of a GPU takes more beside the graph.

    Raises:
        SettingsError: not even the vectors of a product fit.
    """
    vector = weights * bytes_each
    fixed = VECTORS * vector
    if peak < 2 * fixed:
        need = 2 * fixed / 2**30
        raise SettingsError(f"{peak / 2**30:.3g} GiB of memory are too few for {weights:,} weights; give at least {need:.2g} GiB")
    peak = max(2 * fixed, peak * memory_share())
    held = min(basis, max(1, int((peak - fixed) / 4 / vector)))
    return (peak - fixed - held * vector) / (1 + (TEMPORARIES if device == "cpu" else GPU_TEMPORARIES)), held


class SavedBytes:
    """Counts the memory that autograd keeps for a graph: storages saved for backward, each once."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        self._seen = {t.untyped_storage().data_ptr() for t in known}
        self._saved: list[Tensor] = []
        self.total = 0

    def _pack(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        self._saved.append(tensor)
        return len(self._saved) - 1

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count inside the block. A graph built there is of no use after it.

        The hook must not hand its tensor back to autograd: a node that holds its own output is never freed.
        """
        with torch.autograd.graph.saved_tensors_hooks(self._pack, self._saved.__getitem__):
            yield
        self._saved.clear()
