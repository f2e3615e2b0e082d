"""Data in the page: it comes back as it was, and is the same letters every time."""

from __future__ import annotations

import base64
import gzip
import json
import string

import numpy as np
import pytest
from ssa_analysis.reports.payload import packed, short


def unpacked(letters: str) -> object:
    return json.loads(gzip.decompress(base64.b64decode(letters)))


def test_what_is_packed_comes_back() -> None:
    content = {"a": [1, 2.5, "π </script>", None, True], "b": {"c": []}}
    assert unpacked(packed(content)) == content
    assert packed(content) == packed(content)
    assert set(packed(content)) <= set(string.ascii_letters + string.digits + "+/=")


def test_the_same_letters_at_another_time(monkeypatch: pytest.MonkeyPatch) -> None:
    before = packed([1])
    monkeypatch.setattr(gzip.time, "time", lambda: 2e9)  # type: ignore[attr-defined]
    assert packed([1]) == before


def test_what_json_cannot_say_becomes_null() -> None:
    assert unpacked(packed([float("nan"), float("inf"), np.float64("nan"), np.arange(2), np.bool_(True), (1,)])) == [
        None, None, None, [0, 1], True, [1],
    ]  # fmt: skip
    with pytest.raises(TypeError, match="not JSON serializable"):
        packed({1: object()})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.23456789, 1.2346), (0.000123456, 0.00012346), (123456.7, 123460.0), (float("nan"), None), (None, None), (True, True)],
)
def test_short_numbers(value: object, expected: object) -> None:
    assert short(value) == expected
    assert short([[value]]) == [[expected]]


def test_short_takes_arrays() -> None:
    assert short(np.array([1.23456789, np.inf])) == [1.2346, None]
    assert short(2 / 3, 2) == 0.67
