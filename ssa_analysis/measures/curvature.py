"""Hessian of the contrastive loss: largest eigenvalues, trace, spectral density."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.base import measure
from ssa_analysis.measures.fixed_loss import FixedLossSettings, fixed_operator
from ssa_analysis.measures.pyhessian_backend import pyhessian_spectrum
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.density import spectral_density
from ssa_analysis.numerics.hessian import HessianOperator
from ssa_analysis.numerics.lanczos import top_eigenpairs
from ssa_analysis.numerics.seeding import derive_seed
from ssa_analysis.numerics.trace import hutchinson_trace
from ssa_analysis.score import Score

BACKENDS = ("lanczos", "pyhessian")


@dataclass(frozen=True)
class CurvatureSettings(FixedLossSettings):
    """Settings of the curvature.

    Attributes:
        top: number of eigenvalues. tolerance: relative residual of each.
        max_products: Hessian-vector products spent on the eigenvalues at most.
        trace_tolerance: relative standard error of the trace. trace_probes: at most.
        density_probes, density_steps: of the Lanczos quadrature.
        backend: ``lanczos`` (ours) or ``pyhessian``.
    """

    top: int = 5
    tolerance: float = 1e-3
    max_products: int = 60
    trace_tolerance: float = 0.05
    trace_probes: int = 32
    density_probes: int = 3
    density_steps: int = 16
    backend: str = "lanczos"


@measure("curvature", "Hessian eigenvalues, trace and spectral density of the contrastive loss", CurvatureSettings)
def curvature(encoder: Encoder, data: Data, settings: CurvatureSettings) -> list[Score]:
    """Scores ``lambda_1 .. lambda_k`` and ``lambda_max`` (the same as ``lambda_1``), ``trace``, ``negative_mass``.

    All in units of loss (nats) per squared weight, except ``negative_mass``, a share of the eigenvalues. Eigenvalues
    carry a residual bound, the trace and the mass a standard error. See :mod:`ssa_analysis.measures.fixed_loss` for
    the loss.
    """
    if settings.backend not in BACKENDS:
        raise SettingsError(f"unknown backend {settings.backend!r}; known: {', '.join(BACKENDS)}")
    operator = fixed_operator(encoder, data, settings)
    if settings.backend == "pyhessian":
        return pyhessian_spectrum(encoder, operator, settings.top, settings.seed)
    seed = derive_seed(settings.seed, "krylov")
    pairs = top_eigenpairs(
        operator.matvec,
        operator.size,
        settings.top,
        tolerance=settings.tolerance,
        max_products=settings.max_products,
        seed=seed,
        device=operator.device,
    )
    scores = [
        _eigenvalue(f"lambda_{i + 1}", float(value), float(residual), bool(converged), pairs.products)
        for i, (value, residual, converged) in enumerate(zip(pairs.values, pairs.residuals, pairs.converged, strict=True))
    ]
    first = scores[0]
    scores.insert(0, _eigenvalue("lambda_max", first.value, float(pairs.residuals[0]), first.converged, pairs.products))
    return [*scores, *_trace_and_density(operator, settings, pairs.vectors, pairs.values, seed)]


def _eigenvalue(name: str, value: float, residual: float, converged: bool, products: int) -> Score:
    return Score(
        "curvature",
        name,
        value,
        "nats",
        low=value - residual,
        high=value + residual,
        converged=converged,
        settings={"error": "residual", "products": products},
    )


def _trace_and_density(
    operator: HessianOperator, settings: CurvatureSettings, vectors: Tensor, values: np.ndarray, seed: int
) -> list[Score]:
    trace = hutchinson_trace(
        operator.matvec,
        operator.size,
        known_vectors=vectors,
        known_values=values,
        tolerance=settings.trace_tolerance,
        max_probes=settings.trace_probes,
        seed=seed,
        device=operator.device,
    )
    density = spectral_density(
        operator.matvec,
        operator.size,
        probes=settings.density_probes,
        steps=settings.density_steps,
        seed=seed,
        device=operator.device,
    )
    arrays = {"eigenvalue": density.grid.tolist(), "density": density.density.tolist(), "stderr": density.stderr.tolist()}
    return [
        Score.estimate(
            "curvature", "trace", trace.value, trace.stderr, "nats",
            converged=trace.converged, settings={"error": "standard error", "products": trace.products},
        ),
        Score.estimate(
            "curvature", "negative_mass", density.negative_mass, density.negative_mass_stderr, "share",
            settings={"error": "standard error", "products": density.products}, arrays=arrays,
        ),
    ]  # fmt: skip
