"""What a training run tells: a row an epoch, in a CSV file and in TensorBoard, and scores on the way."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ssa_analysis.checkpoints.writing import write_atomically
from ssa_analysis.errors import OutputError
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.paths import ordinary, read_at_most

LARGEST = 256 * 2**20  # bytes of a run's own file that are read
LOG_COLUMNS = ("epoch", "step", "loss", "lr", "knn", "seconds")


@dataclass(frozen=True)
class EpochLog:
    """One row of the training log. ``knn`` is an accuracy in [0, 1] on the probe split, None where not evaluated."""

    epoch: int
    epochs: int
    step: int
    loss: float
    lr: float
    knn: float | None
    seconds: float


class EpochRecorder(Protocol):
    """Measures an encoder during its training, which it must leave as it was; epoch 0 is before training."""

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Whether the encoder after ``epoch`` of ``epochs`` is to be measured."""
        ...

    def keep_until(self, epoch: int) -> None:
        """Called first: the run goes on after ``epoch``, and what is known of later ones will come again."""
        ...

    def __call__(self, encoder: Encoder, epoch: int) -> None:
        """Measure."""
        ...


def whole_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file that have all columns and a whole number of epochs; empty where there is no such file.

    What a crash leaves of the last row, and the zeros that some file systems leave after a power loss, are no rows.

    Raises:
        OutputError: it cannot be read, or has more bytes than a log.
    """
    if not ordinary(path):
        return []
    try:
        text = read_at_most(path, LARGEST).decode(errors="replace")
    except ValueError as error:
        raise OutputError(f"{path}: no log of a training: {error}; move it to another place") from error
    except OSError as error:
        raise OutputError(f"{path}: could not be read ({error.strerror or error})") from error
    text = text[: text.rfind("\n") + 1].replace("\0", "")
    rows: list[dict[str, str]] = []
    with suppress(csv.Error):  # of a damaged file there are those before the damage
        for row in csv.DictReader(io.StringIO(text, newline="")):
            if None not in row and None not in row.values() and _is_epoch(row.get(columns[0])):
                rows.append(row)
    return rows


def _is_epoch(text: str | None) -> bool:
    return text is not None and text.isascii() and text.isdigit() and len(text) < 16


def keep_rows(path: Path, columns: Sequence[str], epoch: int) -> None:
    """Leave a CSV file with its header and the rows up to ``epoch``; a resumed run makes the later ones again.

    Raises:
        OutputError: it cannot be read or written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(row for row in whole_rows(path, columns) if int(row[columns[0]]) <= epoch)
    write_atomically(path, text.getvalue().encode())  # which replaces a link and does not follow it


def append_rows(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Append rows to a CSV file and have them on the disk; OutputError where that is not possible."""
    try:
        with open(path, "a", newline="") as stream:
            csv.writer(stream).writerows(rows)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OutputError(f"{path}: could not be written ({error.strerror or error})") from error


def last_row(folder: Path) -> dict[str, int | float | None]:
    """The newest row of a run's log, numbers as numbers; None for what was not evaluated, empty where there is no row."""
    rows = whole_rows(folder / "log.csv", LOG_COLUMNS)
    return {name: _number_of(rows[-1].get(name), name in ("epoch", "step")) for name in LOG_COLUMNS} if rows else {}


def _number_of(text: str | None, is_whole: bool) -> int | float | None:
    try:
        return int(text or "") if is_whole else float(text or "")
    except ValueError:
        return None


class RunLog:
    """A CSV log, and TensorBoard where it is installed."""

    def __init__(self, folder: Path, keep_epochs: int) -> None:
        self.path = folder / "log.csv"
        keep_rows(self.path, LOG_COLUMNS, keep_epochs)
        self.board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=keep_epochs + 1)
        except ImportError:
            pass

    def write(self, row: EpochLog) -> None:
        knn = "" if row.knn is None else row.knn
        append_rows(self.path, [[row.epoch, row.step, row.loss, row.lr, knn, round(row.seconds, 3)]])
        if self.board is not None:
            for name in ("loss", "lr", "knn"):
                if getattr(row, name) is not None:
                    self.board.add_scalar(name, getattr(row, name), row.epoch)
            self.board.flush()
