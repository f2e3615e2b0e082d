"""Trace of a symmetric operator with a standard error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.numerics.lanczos import MatVec


@dataclass(frozen=True)
class TraceEstimate:
    """``converged`` says whether the standard error reached the asked tolerance."""

    value: float
    stderr: float
    converged: bool
    products: int


def hutchinson_trace(
    matvec: MatVec,
    size: int,
    *,
    known_vectors: Tensor | None = None,
    known_values: np.ndarray | None = None,
    tolerance: float = 0.05,
    min_probes: int = 4,
    max_probes: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TraceEstimate:
    """Hutchinson's estimator with Rademacher probes, deflated by known eigenpairs (Hutch++ in spirit, Meyer 2021).

    With ``P`` the projector off the known vectors, ``tr H = sum(known values) + E[(P r)^T H (P r)]``: the large
    eigenvalues, which make the plain estimator noisy, are taken out exactly.

    Args:
        known_vectors: ``(k, n)`` orthonormal rows. known_values: ``(k,)`` their Rayleigh quotients.
        tolerance: relative standard error at which to stop, between ``min_probes`` and ``max_probes``.
    """
    offset = float(known_values.sum()) if known_values is not None else 0.0
    generator = torch.Generator().manual_seed(seed)
    samples: list[float] = []
    while True:
        probe = (torch.randint(0, 2, (size,), generator=generator) * 2 - 1).to(device=device, dtype=dtype)
        if known_vectors is not None:
            probe = probe - known_vectors.T @ (known_vectors @ probe)
        samples.append(float(torch.dot(probe.double(), matvec(probe).double())))
        if len(samples) < min_probes:
            continue
        value = offset + float(np.mean(samples))
        stderr = float(np.std(samples, ddof=1) / np.sqrt(len(samples)))
        converged = stderr <= tolerance * abs(value)
        if converged or len(samples) >= max_probes:
            return TraceEstimate(value, stderr, converged, len(samples))
