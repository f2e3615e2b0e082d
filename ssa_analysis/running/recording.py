"""Scores during a training: what a checkpoint of every few epochs would have scored, without keeping the checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssa_analysis.data.datasets import Data
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.base import forget
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.ranks import Ranks
from ssa_analysis.running.measuring import run_measure
from ssa_analysis.scores import Score
from ssa_analysis.texts import no_formula
from ssa_analysis.training.logs import append_rows, keep_rows

COLUMNS = ("epoch", "measure", "name", "value", "stderr", "low", "high", "unit", "converged", "seconds", "error")


class Recorder:
    """Appends scores to ``folder/records.csv``, one row a score; given to ``train(..., recorder=...)``.

    Args:
        measures: names, with settings of their own in ``settings`` by measure. every: epochs between two records; the
            encoder before training and after the last epoch is recorded in any case.
        seed: of the measures; the same at every epoch, so that a curve shows the weights and not the draws.

    Raises:
        SettingsError: an unknown measure or setting.
    """

    def __init__(
        self,
        folder: Path,
        measures: tuple[str, ...],
        every: int,
        data: Data,
        seed: int = 0,
        settings: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.path, self.every, self.data = folder / "records.csv", every, data
        chosen = settings or {}
        rows = [MEASURES.get(name) for name in measures]
        self._measures = [(row, row.make_settings({"seed": seed, **chosen.get(row.name, {})})) for row in rows]

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Whether the encoder after ``epoch`` of ``epochs`` is to be recorded; 0 is the one before training."""
        return bool(self._measures) and (epoch in (0, epochs) or (self.every > 0 and epoch % self.every == 0))

    def _append(self, epoch: int, scores: list[Score], seconds: float) -> None:
        rows = []
        for s in scores:
            names = no_formula(s.measure), no_formula(s.name)
            rows.append([epoch, *names, s.value, s.stderr, s.low, s.high, no_formula(s.unit), int(s.converged), seconds, ""])
        append_rows(self.path, rows)

    def _append_failure(self, epoch: int, measure: str, error: str, seconds: float) -> None:
        row = {"epoch": epoch, "measure": measure, "seconds": seconds, "error": no_formula(error)}
        append_rows(self.path, [[row.get(column, "") for column in COLUMNS]])

    def keep_until(self, epoch: int) -> None:
        """Drop the rows of later epochs, which a resumed run will make again."""
        if Ranks.current().rank == 0:
            keep_rows(self.path, COLUMNS, epoch)

    def __call__(self, encoder: Encoder, epoch: int) -> None:
        """Measure the encoder, which is left as it was. A measure that fails leaves a row that says why; the training goes on."""
        was_training = encoder.training
        encoder.eval()
        forget(encoder)
        try:
            for row, settings in self._measures:
                found = run_measure(row, settings, encoder, self.data)
                seconds = round(found.seconds, 3)
                if Ranks.current().rank == 0:
                    self._append(epoch, found.scores, seconds)
                    if found.error is not None:
                        self._append_failure(epoch, row.name, found.reason, seconds)
        finally:
            forget(encoder)  # the next steps change the weights
            encoder.train(was_training)
