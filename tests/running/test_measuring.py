"""Running one measure: the arithmetic that it gets, and what is left of one that fails."""

from __future__ import annotations

import weakref

import pytest
import torch

from ssa_analysis.data.datasets import Data
from ssa_analysis.measures.base import Measure, MeasureSettings
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.running.measuring import run_measure
from ssa_analysis.scores import Score


def test_a_measure_computes_float32_as_float32(encoder: Encoder, digits: Data) -> None:
    """Not as TF32, which is what torch lets the convolutions of a GPU be by default."""
    seen: list[object] = []

    def look(encoder: Encoder, data: Data, settings: MeasureSettings) -> list[Score]:
        seen.extend([torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.deterministic])
        return []

    before = torch.backends.cudnn.allow_tf32
    assert run_measure(Measure("look", "", MeasureSettings, look), MeasureSettings(), encoder, digits).error is None
    assert seen == [False, False, True]
    assert torch.backends.cudnn.allow_tf32 == before


def test_what_a_failed_measure_held_is_freed_although_its_error_is_kept(encoder: Encoder, digits: Data) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def fail(encoder: Encoder, data: Data, settings: MeasureSettings) -> list[Score]:
        graph = torch.zeros(3)
        held.append(weakref.ref(graph))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    found = run_measure(Measure("fail", "", MeasureSettings, fail), MeasureSettings(), encoder, digits)
    assert found.reason.startswith("the device ran out of memory")
    assert held[0]() is None
    with pytest.raises(torch.cuda.OutOfMemoryError):
        raise found.error or AssertionError
