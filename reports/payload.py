"""Data that a page carries for its script: JSON, compressed, as letters that mean nothing to a parser of HTML."""

from __future__ import annotations

import base64
import gzip
import json
import math
from typing import Any

from ssa_analysis.scores import plain_json

DIGITS = 5  # significant ones, of numbers that are drawn


def packed(content: Any) -> str:
    """Base64 of gzip of JSON; numbers that are not finite become null. The same content always gives the same letters."""
    try:
        text = _dumps(content)
    except (TypeError, ValueError):  # what JSON cannot say, or not as numpy has it
        text = _dumps(plain_json(content))
    return base64.b64encode(gzip.compress(text.encode(errors="replace"), compresslevel=6, mtime=0)).decode()


def _dumps(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def short(values: Any, digits: int = DIGITS) -> Any:
    """Numbers, in lists at any depth, to ``digits`` significant ones; None where they are not finite or missing."""
    if isinstance(values, list | tuple):
        return [short(value, digits) for value in values]
    if hasattr(values, "tolist"):
        return short(values.tolist(), digits)
    if isinstance(values, bool) or not isinstance(values, int | float):
        return None if values is None else values
    return float(f"{values:.{digits}g}") if math.isfinite(values) else None
