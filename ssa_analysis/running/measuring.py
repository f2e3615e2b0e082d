"""One measure of one encoder: its scores, or why there are none. A measure that breaks takes nobody with it."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import MeasureError, SSAError
from ssa_analysis.measures.base import Measure, MeasureSettings
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.precision import full_precision
from ssa_analysis.scores import JSON_FIELDS, Score


@dataclass(frozen=True)
class Measured:
    """Scores and seconds of a measure, or the error that it ended with."""

    scores: list[Score] = field(default_factory=list)
    seconds: float = 0.0
    error: Exception | None = None

    @property
    def unexpected(self) -> bool:
        """Whether the error is of the machine or of a plug-in, and not one that a measure says."""
        return self.error is not None and not isinstance(self.error, SSAError)

    @property
    def out_of_memory(self) -> bool:
        """Whether there was not enough memory, the device's or the machine's."""
        text = str(self.error)
        return isinstance(self.error, torch.cuda.OutOfMemoryError | MemoryError) or (
            isinstance(self.error, RuntimeError) and "can't allocate memory" in text
        )

    @property
    def reason(self) -> str:
        """The error in a line; empty where there is none."""
        if self.out_of_memory:
            whose = "device" if isinstance(self.error, torch.cuda.OutOfMemoryError) else "machine"
            return f"the {whose} ran out of memory; lower the measure's memory, pairs or batch"
        if self.unexpected:
            return f"{type(self.error).__name__}: {self.error}".splitlines()[0]
        return "" if self.error is None else str(self.error)


def run_measure(row: Measure, settings: MeasureSettings | Mapping[str, Any], encoder: Encoder, data: Data) -> Measured:
    """Run a measure in full precision and check what it returns; what it raises is part of the result."""
    started = time.perf_counter()
    try:
        made = settings if isinstance(settings, MeasureSettings) else row.make_settings(settings)
        with full_precision():
            scores = row.function(encoder, data, made)
        check_storable(scores)
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # they hold graphs, for which the next measure has a use
        return Measured(seconds=time.perf_counter() - started, error=error)
    return Measured(scores, time.perf_counter() - started)


def check_storable(scores: Sequence[Score]) -> None:
    """MeasureError unless every score can be stored and read back: plain numbers, one score a name.

    Our own measures keep to this; a plug-in's may not, and should learn it from its own cell.
    """
    names = [score.name for score in scores]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise MeasureError(f"the measure returned two scores called {twice[0]!r}")
    for score in scores:
        try:
            # as they are: the store does not make plain numbers of others
            plain = [getattr(score, key) for key in JSON_FIELDS if key != "settings"]
            json.dumps([*plain, dict(score.settings), dict(score.arrays)])
        except TypeError as error:
            raise MeasureError(f"the score {score.name!r} holds something that cannot be stored ({error})") from error
