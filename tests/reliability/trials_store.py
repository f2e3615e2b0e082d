"""Trials of the score store."""

from __future__ import annotations

from pathlib import Path

from trial import Tally, trial

from ssa_analysis.errors import StoreError
from ssa_analysis.running.store import Store


@trial(
    "fault",
    "a file that is no database under the store's name",
    "one line says so, the file is left as it was",
    few=1,
    many=1,
)
def foreign_store(tally: Tally, times: int, folder: Path) -> None:
    path = folder / "scores.db"
    for number in range(times):
        path.write_bytes(bytes([number % 251]) * 3000)
        before = path.read_bytes()
        try:
            Store(path)
        except StoreError as error:
            problem = "" if path.read_bytes() == before else "the file was changed"
            tally.count("clean errors", problem or ("" if "not a score store" in str(error) else str(error)))
        else:
            tally.count("opened", "opened what is no store")
