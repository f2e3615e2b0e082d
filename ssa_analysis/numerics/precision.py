"""Arithmetic of a GPU that measures can rely on: float32 with all its digits, and the same sums every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside the block GPUs compute float32 as float32, and convolutions in one fixed order; restored after it.

    By default torch lets cuDNN round the inputs of a convolution to TF32, which has ten bits: a Hessian product is then
    wrong in its third digit, where the residuals of eigenvalues and the test for mixing BatchNorm look at the fourth.
    cuDNN may also sum in whatever order is quickest, which makes no two gradients alike.
    """
    knobs: list[tuple[Any, str, Any]] = [
        (torch.backends.cudnn, "deterministic", True),
        (torch.backends.cudnn, "benchmark", False),
    ]
    matmul = _older_switches()
    if matmul is not None:
        knobs.append((torch.backends.cudnn, "allow_tf32", False))
    else:
        backends: Any = torch.backends
        newer = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
        knobs += [(switch, "fp32_precision", "ieee") for switch in newer]
    before = [getattr(owner, name) for owner, name, _ in knobs]
    try:
        for owner, name, value in knobs:
            setattr(owner, name, value)
        if matmul not in (None, "highest"):  # to say it once more would hide torch's general switch
            torch.set_float32_matmul_precision("highest")
        yield
    finally:
        for (owner, name, _), value in zip(knobs, before, strict=True):
            setattr(owner, name, value)
        if matmul is not None and matmul != "highest":
            torch.set_float32_matmul_precision(matmul)


def _older_switches() -> str | None:
    """The precision of products by torch's older switches; None where somebody uses the newer ones: they do not mix."""
    try:
        _ = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None
