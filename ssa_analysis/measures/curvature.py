"""Curvature of the fixed loss: eigenvalues, trace, norms and spectral density of its Hessian or Gauss-Newton."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.backends.adapter import density_arrays
from ssa_analysis.measures.backends.curvlinops_backend import curvlinops_scores
from ssa_analysis.measures.backends.pyhessian_backend import pyhessian_scores
from ssa_analysis.measures.base import measure, run_context
from ssa_analysis.measures.fixed_loss import FixedLossSettings, fixed_operator, loss_modules
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.graph_memory import graph_memory
from ssa_analysis.numerics.lanczos import Eigenpairs
from ssa_analysis.numerics.seeding import derive_seed
from ssa_analysis.numerics.spectrum import Spectrum, analyse_spectrum
from ssa_analysis.progress import LoggedProgress
from ssa_analysis.scores import Score

BACKENDS = ("lanczos", "pyhessian", "curvlinops")


@dataclass(frozen=True)
class CurvatureSettings(FixedLossSettings):
    """Settings of the curvature.

    Attributes:
        top: number of eigenvalues. tolerance: relative error estimate of each.
        bottom: number of most negative eigenvalues that must converge too; the most negative one is reported anyway.
        max_products: products spent on the eigenvalues at most. max_vectors: basis vectors held, fewer where a quarter
            of ``memory`` does not hold them.
        trace_tolerance: relative standard error of the trace. trace_probes: at most.
        density_probes, density_steps: of the Lanczos quadrature.
        kind: ``hessian`` or ``gauss-newton``. backend: ``lanczos`` (ours), ``pyhessian`` or ``curvlinops``.
    """

    top: int = 5
    bottom: int = 0
    tolerance: float = 1e-3
    max_products: int = 100
    max_vectors: int = 60
    trace_tolerance: float = 0.02
    trace_probes: int = 32
    density_probes: int = 4
    density_steps: int = 8
    kind: str = "hessian"
    backend: str = "lanczos"


@measure("curvature", "Hessian eigenvalues, trace, norms and spectral density of the loss", CurvatureSettings, revision=5)
def curvature(encoder: Encoder, data: Data, settings: CurvatureSettings) -> list[Score]:
    """Scores ``lambda_max``, ``lambda_1 .. lambda_k``, ``lambda_min``, ``trace``, ``frobenius``, and what follows from them.

    ``spectral_norm`` is the largest magnitude, ``lambda_ratio`` is ``lambda_1 / lambda_k``, ``negative_ratio``
    ``|lambda_min| / lambda_max`` (Li et al. 2018), ``effective_rank`` the participation ratio ``(tr H)^2 / |H|_F^2``, and
    ``negative_mass`` the sum of the negative eigenvalues' magnitudes over that of all. Eigenvalues, trace and norms are in
    nats (loss per squared weight). Eigenvalues carry a residual bound, the others a standard error. See
    :mod:`ssa_analysis.measures.fixed_loss` for the loss.
    """
    if settings.backend not in BACKENDS:
        raise SettingsError(f"unknown backend {settings.backend!r}; known: {', '.join(BACKENDS)}")
    if settings.backend == "pyhessian" and settings.kind != "hessian":
        raise SettingsError("the backend pyhessian has the Hessian only, not the Gauss-Newton operator")
    operator = fixed_operator(encoder, data, settings, settings.kind, settings.max_vectors)
    each = operator.parameters[0].element_size()
    _, max_vectors = graph_memory(settings.memory * 2**30, operator.size, each, settings.max_vectors, operator.device.type)
    if settings.backend == "pyhessian":
        return pyhessian_scores(operator, loss_modules(encoder, data, settings), top=settings.top, seed=settings.seed)
    krylov_seed = derive_seed(settings.seed, "krylov") % 2**60
    if settings.backend == "curvlinops":
        return curvlinops_scores(
            operator,
            loss_modules(encoder, data, settings),
            top=settings.top,
            tolerance=settings.tolerance,
            max_products=settings.max_products,
            trace_tolerance=settings.trace_tolerance,
            trace_probes=settings.trace_probes,
            density_probes=settings.density_probes,
            density_steps=settings.density_steps,
            seed=krylov_seed,
        )
    progress = LoggedProgress(f"curvature of {run_context().label}", None, unit="products")
    operator.on_work = progress.step
    spectrum = analyse_spectrum(
        operator.matvec,
        operator.size,
        top=settings.top,
        bottom=settings.bottom,
        tolerance=settings.tolerance,
        max_products=settings.max_products,
        max_vectors=max_vectors,
        trace_tolerance=settings.trace_tolerance,
        trace_probes=settings.trace_probes,
        density_probes=settings.density_probes,
        density_steps=settings.density_steps,
        seed=krylov_seed,
        device=operator.device,
        dtype=operator.dtype,
        matmat=operator.matmat,
        on_stage=partial(setattr, progress, "stage"),
    )
    return spectrum_scores(spectrum, {"kind": settings.kind, "graphs": operator.plan})


def _eigenvalue(name: str, pairs: Eigenpairs, i: int, about: dict[str, Any]) -> Score:
    value, residual = float(pairs.values[i]), float(pairs.residuals[i])
    settings = {**about, "error": "residual", "error_estimate": float(pairs.errors[i])}
    return Score(
        "curvature", name, value, "nats", None, value - residual, value + residual, bool(pairs.converged[i]), settings
    )  # fmt: skip


def _ratios(spectrum: Spectrum, about: dict[str, Any]) -> list[Score]:
    """Spectral norm, and the two ratios that describe the shape of the ends; bounds follow from the residuals."""
    largest, smallest = spectrum.largest, spectrum.smallest
    top, last, low = float(largest.values[0]), float(largest.values[-1]), float(smallest.values[0])
    size, end = max((abs(top), largest), (abs(low), smallest), key=lambda pair: pair[0])
    settings = {**about, "error": "residual"}
    residual, known = float(end.residuals[0]), bool(end.converged[0])
    scores = [Score("curvature", "spectral_norm", size, "nats", None, size - residual, size + residual, known, settings)]
    for name, above, below, r_above, r_below, converged in (
        ("lambda_ratio", top, last, largest.residuals[0], largest.residuals[-1], bool(largest.converged[[0, -1]].all())),
        ("negative_ratio", max(0.0, -low), top, smallest.residuals[0], largest.residuals[0],
         bool(smallest.converged[0] and largest.converged[0])),
    ):  # fmt: skip
        if below - r_below <= 0:  # the ratio has no bound, or no meaning
            continue
        bounds = max(0.0, float((above - r_above) / (below + r_below))), float((above + r_above) / (below - r_below))
        scores.append(Score("curvature", name, above / below, "ratio", None, *bounds, converged, settings))
    return scores


def spectrum_scores(spectrum: Spectrum, about: dict[str, Any]) -> list[Score]:
    """The scores of a spectrum."""
    products = spectrum.products
    eigen = {**about, "products": products["eigenvalues"]}
    scores = [_eigenvalue("lambda_max", spectrum.largest, 0, eigen)]
    scores += [_eigenvalue(f"lambda_{i + 1}", spectrum.largest, i, eigen) for i in range(len(spectrum.largest.values))]
    scores.append(_eigenvalue("lambda_min", spectrum.smallest, 0, eigen))
    scores += _ratios(spectrum, eigen)
    probed = {**about, "error": "standard error", "products": products["trace"]}
    square = spectrum.squared_frobenius
    norm, low, high = (math.sqrt(max(v, 0.0)) for v in (square.value, square.low, square.high))
    error = square.stderr / (2 * norm) if norm else 0.0
    density = spectrum.density
    arrays = density_arrays(density.grid, density.density, density.low, density.high)
    quadrature = {**probed, "over": "probes and nodes", "width": density.width, "products": products["density"]}
    return [
        *scores,
        Score.of_interval("curvature", "trace", spectrum.trace, "nats", converged=spectrum.trace_converged, settings=probed),
        Score("curvature", "frobenius", norm, "nats", error, low, high, settings=probed),
        Score.of_interval("curvature", "effective_rank", spectrum.effective_rank, "dimensions", settings=probed),
        Score.of_interval("curvature", "negative_mass", spectrum.negative_mass, "share", settings=quadrature, arrays=arrays),
    ]
