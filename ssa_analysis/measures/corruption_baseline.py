"""Errors of a baseline, by which mCE and relative mCE divide (Hendrycks and Dietterich 2019, section 4)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ssa_analysis.data.corruptions import COMMON, CORRUPTIONS, STAND_INS
from ssa_analysis.errors import SettingsError
from ssa_analysis.paths import expanded, read_at_most
from ssa_analysis.registry import unknown_name
from ssa_analysis.texts import parsed_json

ALEXNET = "alexnet"
ALEXNET_CLASSES = 1000
LARGEST = 1 << 24  # bytes of a file of errors
# errors of torchvision's AlexNet on ImageNet-C, means over severities, in the order of COMMON; its clean error
_ALEXNET_ERRORS = (
    0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816, 0.826572, 0.819324, 0.564592, 0.853204,
    0.646056, 0.717840, 0.606500,
)  # fmt: skip
_KNOWN = (*CORRUPTIONS, *STAND_INS.values())
_ALEXNET_CLEAN = 0.43478  # 1 - 56.522 %, torchvision's top-1 accuracy


@dataclass(frozen=True)
class Baseline:
    """``errors``: corruption -> error, mean over severities, in (0, 1]. ``clean``: None where unknown."""

    name: str
    errors: Mapping[str, float]
    clean: float | None

    def require(self, corruptions: Sequence[str]) -> None:
        """SettingsError unless there is an error for each of the corruptions."""
        lacking = [name for name in corruptions if name not in self.errors]
        if lacking:
            raise SettingsError(
                f"the baseline {self.name} has no error for {', '.join(lacking)}; mCE needs all of the common corruptions"
            )

    def no_increase(self, corruptions: Sequence[str]) -> dict[str, str]:
        """Why there is no relative mCE against this baseline, as a setting of scores; empty where there is one."""
        if self.clean is None:
            return {"relative_mce": "not defined: the clean error of the baseline is not known"}
        least = min(corruptions, key=lambda name: self.errors[name])
        if self.errors[least] <= self.clean:
            return {"relative_mce": f"not defined: the baseline's error under {least} is not above its clean error"}
        return {}


def load_baseline(source: str, classes: int) -> Baseline:
    """``alexnet`` (on ImageNet-C), or a file of somebody's errors.

    Args:
        source: ``alexnet``; or a ``.csv`` with the columns ``corruption`` and ``error`` (a row ``clean`` where it is known),
            or what ``ssa-analyze score --json`` or ``export`` (csv, json) write on a single checkpoint.
        classes: of the data set.

    Raises:
        SettingsError: no such file, other columns, several checkpoints, or AlexNet on something else than ImageNet.
    """
    if source.lower() == ALEXNET:
        if classes != ALEXNET_CLASSES:
            raise SettingsError(
                f"alexnet's errors are those on ImageNet-C with {ALEXNET_CLASSES} classes, this data set has {classes}; "
                "name a file with the errors of a baseline of its own"
            )
        return Baseline(ALEXNET, dict(zip(COMMON, _ALEXNET_ERRORS, strict=True)), _ALEXNET_CLEAN)
    path = expanded(source)
    errors = _from_rows(path, _rows(path))
    clean = errors.pop("clean", None)
    for name, value in {**errors, **({} if clean is None else {"clean": clean})}.items():
        if not 0 <= value <= 1 or (value == 0 and name != "clean"):
            raise SettingsError(f"{path}: the error of {name} must be a share above 0 and up to 1, got {value:g}")
    if not errors:
        raise SettingsError(f"{path}: no errors of corruptions")
    return Baseline(path.name, errors, clean)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".json":
            content = parsed_json(read_at_most(path, LARGEST).decode("utf-8"))
            if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
                raise SettingsError(f"{path}: must be a list of scores, as score --json prints them")
            return content
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of columns of several kinds
            table = pd.read_csv(io.BytesIO(read_at_most(path, LARGEST)), low_memory=False)
        return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
    except (OSError, ValueError, OverflowError) as error:
        raise SettingsError(f"{path}: not a readable baseline ({error!s:.200}); it is alexnet, a .csv or a .json file") from error


def _from_rows(path: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    if rows and "corruption" in rows[0] and "error" in rows[0]:
        table = pd.DataFrame(rows)
        errors = pd.to_numeric(table["error"], errors="coerce")
        if errors.isna().any():
            raise SettingsError(f"{path}: the column error must hold numbers")
        found = {str(name): float(group.mean()) for name, group in errors.groupby(table["corruption"].astype(str))}
        for name in found:
            if name not in (*_KNOWN, "clean"):
                raise unknown_name(f"corruption in {path}", name, list(_KNOWN))
        return found
    own = [row for row in rows if row.get("measure") == "robustness" and "name" in row and "value" in row]
    checkpoints = sorted({str(row.get("checkpoint")) for row in own})
    if len(checkpoints) != 1:
        there = f"{len(checkpoints)} checkpoints ({', '.join(checkpoints[:3])})" if checkpoints else "no scores of robustness"
        raise SettingsError(f"{path}: a baseline is one checkpoint, found {there}; or give the columns corruption and error")
    found_errors = {str(row["name"]).removeprefix("error_"): row["value"] for row in own if str(row["name"]).startswith("error_")}
    clean = [row["value"] for row in own if row["name"] == "clean_error"]
    try:
        kept = {name: float(value) for name, value in found_errors.items() if name in _KNOWN}
        return {**kept, **({"clean": float(clean[0])} if clean else {})}
    except (TypeError, ValueError, OverflowError) as error:
        raise SettingsError(f"{path}: an error that is no number ({error!s:.80})") from error
