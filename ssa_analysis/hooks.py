"""Sharpness and shift during somebody else's training: a plain hook, and a callback of PyTorch Lightning."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ssa_analysis.api import ScoreFrame, score
from ssa_analysis.data.datasets import Data, load_data
from ssa_analysis.errors import OutputError, SettingsError
from ssa_analysis.texts import no_formula

COLUMNS = ("step", "measure", "name", "value", "stderr", "low", "high", "unit", "converged", "seconds", "error")


class ScoreRecorder:
    """Measures a module that is being trained, at whatever moments its training loop calls it.

    >>> recorder = ScoreRecorder("cifar10", ["shift", "curvature"], normalise="cifar10")  # doctest: +SKIP
    >>> recorder(net, epoch)  # doctest: +SKIP

    Args:
        data: images, as for :func:`ssa_analysis.score`. measures: names.
        file: of a CSV that each record is appended to; None: only :attr:`frame` has them.
        options: further ones of :func:`ssa_analysis.score`: ``normalise``, ``loss``, ``settings``, ``seed``, ...

    The module is copied, so its mode, its gradients and the random state stay as they are. A measure that fails leaves a row
    that says why; the training goes on.
    """

    def __init__(
        self, data: str | Path | Data, measures: Sequence[str], *, file: str | Path | None = None, **options: Any
    ) -> None:
        self.data = data if isinstance(data, Data) else load_data(str(data))
        self.measures, self.options = list(measures), options
        self.path = Path(file) if file is not None else None
        self._rows: list[dict[str, Any]] = []

    @property
    def frame(self) -> pd.DataFrame:
        """All records, with the columns ``COLUMNS``."""
        return pd.DataFrame(self._rows, columns=list(COLUMNS))

    def __call__(self, module: nn.Module, step: int) -> ScoreFrame:
        """Record the module at ``step``, an epoch or an iteration; returns its scores.

        Raises:
            SettingsError: of the arguments. OutputError: the file cannot be written.
        """
        started = time.perf_counter()
        frame = score(module, self.data, self.measures, keep_failures=True, **self.options)
        reasons = iter(frame.attrs["failures"])
        fresh = []
        for row in frame.to_dict("records"):
            error = next(reasons, "").partition(": ")[2] if not row["name"] else ""
            fresh.append({"step": step, **{name: row[name] for name in COLUMNS[1:-1]}, "error": error})
        if not fresh:
            raise SettingsError("no measures were named")
        self._rows += fresh
        self._append(fresh)
        frame.attrs["seconds"] = time.perf_counter() - started
        return frame

    def _append(self, rows: list[dict[str, Any]]) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not self.path.exists()
            with open(self.path, "a", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, COLUMNS)
                if fresh:
                    writer.writeheader()
                writer.writerows({name: no_formula(value) for name, value in row.items()} for row in rows)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror or error})") from error


def lightning_callback(recorder: ScoreRecorder, *, every: int = 1, part: str | None = None) -> Any:
    """A callback of PyTorch Lightning that records before the training and after every ``every`` epochs, and logs the scores.

    Args:
        part: attribute of the LightningModule that is measured, such as ``model``; None: its only network, or where there are
            several, ``backbone`` or ``encoder`` with a projector.

    Raises:
        SettingsError: neither ``lightning`` nor ``pytorch_lightning`` is installed, or ``every`` is not positive.
    """
    if every < 1:
        raise SettingsError(f"every must be at least 1, got {every}")
    base = _callback_class()

    class ScoreCallback(base):  # type: ignore[misc,valid-type]
        """Records on the first process; what is logged is called ``ssa/MEASURE.NAME``."""

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            self._record(trainer, pl_module, 0)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            epoch = trainer.current_epoch + 1
            if epoch % every == 0:
                self._record(trainer, pl_module, epoch)

        def _record(self, trainer: Any, pl_module: Any, epoch: int) -> None:
            if not trainer.is_global_zero:
                return
            frame = recorder(getattr(pl_module, part) if part else _plain_module(pl_module), epoch)
            scores = {f"ssa/{row['measure']}.{row['name']}": row["value"] for row in frame.to_dict("records") if row["name"]}
            for logger in trainer.loggers:
                logger.log_metrics({**scores, "epoch": epoch}, step=trainer.global_step)

    return ScoreCallback()


def _callback_class() -> Any:
    for package in ("lightning.pytorch", "pytorch_lightning"):
        try:
            return __import__(f"{package}.callbacks", fromlist=["Callback"]).Callback
        except ImportError:
            continue
    raise SettingsError("neither lightning nor pytorch_lightning is installed; ScoreRecorder works without them")


class _Parts(nn.Module):
    """The networks of a LightningModule without the module itself, whose trainer cannot be copied."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def _plain_module(module: Any) -> nn.Module:
    """The only network of a LightningModule, or all of them by their names."""
    parts = {name: part for name, part in module.named_children() if any(True for _ in part.parameters())}
    return next(iter(parts.values())) if len(parts) == 1 else _Parts(parts)
