"""Two thousand damaged files: a clean error in one line or the right tensors, in little time and memory."""

from __future__ import annotations

import argparse
import pickle
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssa_analysis.checkpoints.reading import read_file
from ssa_analysis.errors import CheckpointError

EACH = 500
KINDS = ("zip", "legacy", "pickle", "safetensors")


def tensors() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=rng), "bn.running_mean": torch.randn(4, generator=rng),
        "bn.num_batches_tracked": torch.tensor(7), "half": torch.randn(6, generator=rng).half(),
    }  # fmt: skip


def write(path: Path, kind: str) -> None:
    state = tensors()
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"args": argparse.Namespace(lr=1), "model": {k: v.numpy() for k, v in state.items()}}))
    else:
        content = {"args": argparse.Namespace(lr=1), "model": state, "epoch": 3, "scale": np.float64(2)}
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")


def state_of(content: Any) -> dict[str, Any]:
    return {name: torch.as_tensor(value) for name, value in content.get("model", content).items()}


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """Cut, or with one to four changed bytes; half of the changes lie in the first fifth, where the structure is."""
    if rng.random() < 0.3:
        return whole[: rng.integers(0, len(whole))]
    content = bytearray(whole)
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(0, len(whole) if rng.random() < 0.5 else len(whole) // 5))
        content[place] ^= int(rng.integers(1, 256))
    return bytes(content)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clean_error_or_the_right_tensors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pt")
    write(path, kind)
    whole, known = path.read_bytes(), tensors()
    assert all(torch.equal(state_of(read_file(path))[name], tensor) for name, tensor in known.items())
    rng, told, peak = np.random.default_rng(0), [], 0
    for _ in range(EACH):
        path.write_bytes(damaged(whole, rng))
        started = time.monotonic()
        tracemalloc.start()  # tensors are views of bytes that Python has allocated
        try:
            found = read_file(path)
        except CheckpointError as error:
            told.append(str(error))
        else:
            if kind == "zip":  # the other formats have no checksums: that a number was changed cannot be seen
                assert all(torch.equal(state_of(found)[name], tensor) for name, tensor in known.items())
        peak = max(peak, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert time.monotonic() - started < 10
    assert len(told) > EACH / 4
    assert [line for line in told if not line.startswith(f"{path}: ") or "\n" in line] == []
    assert peak < 2 * 1024**3
