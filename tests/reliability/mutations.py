"""Bytes and values that are nearly right: mutations of good files, and what hypothesis draws from a grammar."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

NUMBERS = (0, 1, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


def mutated(whole: bytes, rng: np.random.Generator, others: tuple[bytes, ...] = ()) -> bytes:
    """Cut off, or with one to six changes: a bit, a byte, a number that often matters, a piece twice, gone or from elsewhere."""
    content = bytearray(whole)
    if rng.random() < 0.1:
        return bytes(content[: rng.integers(0, len(content) + 1)])
    for _ in range(int(rng.integers(1, 7))):
        if not content:
            break
        near = len(content) if rng.random() < 0.5 else max(1, len(content) // 5)  # the structure is in front
        at, kind = int(rng.integers(0, near)), int(rng.integers(0, 7))
        if kind == 0:
            content[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            content[at] = int(rng.integers(0, 256))
        elif kind == 2:
            number, width = NUMBERS[rng.integers(0, len(NUMBERS))], int(rng.choice([1, 2, 4, 8]))
            order = "little" if rng.random() < 0.7 else "big"
            content[at : at + width] = (number % (1 << (8 * width))).to_bytes(width, order)
        elif kind == 3:
            length = int(rng.integers(1, 40))
            content[at:at] = content[at : at + length] * int(rng.integers(1, 4))
        elif kind == 4:
            del content[at : at + int(rng.integers(1, 40))]
        elif kind == 5 and others:
            other = others[rng.integers(0, len(others))]
            start = int(rng.integers(0, max(1, len(other))))
            content[at : at + int(rng.integers(0, 30))] = other[start : start + int(rng.integers(1, 60))]
        else:
            content[at:at] = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8))
    return bytes(content)


def zip_of(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive with right checksums, whatever the records are."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return stream.getvalue()


def mutated_zip(whole: bytes, rng: np.random.Generator, others: tuple[bytes, ...] = ()) -> bytes:
    """Half of the time the archive itself, else one of its records, behind checksums that are right."""
    if rng.random() < 0.3:
        return mutated(whole, rng, others)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    names = list(records)
    name = names[0] if rng.random() < 0.7 else names[rng.integers(0, len(names))]
    records[name] = mutated(records[name], rng, others)
    return zip_of(records, zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED)


def mutated_json(value: Any, rng: np.random.Generator) -> Any:
    """A JSON value with one or two parts of another kind."""
    strange: list[Any] = [
        None, True, -1, 0, 1e308, float("inf"), float("nan"), 2**70, "", "x", "../../x", "/etc/passwd", "a\0b", "\ud800",
        "x" * 3000, [], {}, [[]], [[0] * 3] * 2, {"a": 1}, "<script>", "1", "nan",
    ]  # fmt: skip

    def change(part: Any, left: int) -> Any:
        if left and isinstance(part, dict) and part:
            key = list(part)[rng.integers(0, len(part))]
            if rng.random() < 0.1:
                return {name: item for name, item in part.items() if name != key}
            return {**part, key: change(part[key], left - 1)}
        if left and isinstance(part, list) and part:
            at = int(rng.integers(0, len(part)))
            return [*part[:at], change(part[at], left - 1), *part[at + 1 :]]
        return strange[rng.integers(0, len(strange))]

    for _ in range(int(rng.integers(1, 3))):
        value = change(value, int(rng.integers(1, 6)))
    return value


def mutated_safetensors(whole: bytes, rng: np.random.Generator, others: tuple[bytes, ...] = ()) -> bytes:
    """Half of the time the header, in JSON of the right length."""
    if rng.random() < 0.5:
        return mutated(whole, rng, others)
    length = int.from_bytes(whole[:8], "little")
    header = json.dumps(mutated_json(json.loads(whole[8 : 8 + length]), rng)).encode()
    header = mutated(header, rng) if rng.random() < 0.3 else header
    return len(header).to_bytes(8, "little") + header + whole[8 + length :]


def drawn(strategy: Any, count: int) -> list[Any]:
    """``count`` values of a hypothesis strategy, the same ones every time."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    found: list[Any] = []

    @seed(0)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    while len(found) < count:  # a strategy of few values ends early
        before = len(found)
        collect()
        if len(found) == before:
            break
    return (found * (1 + count // max(1, len(found))))[:count]


def many(count: int, make: Callable[[np.random.Generator], bytes], seed: int = 0) -> list[bytes]:
    """``count`` values from a generator; the n-th is the same whatever the count is."""
    return [make(np.random.default_rng([seed, number])) for number in range(count)]
