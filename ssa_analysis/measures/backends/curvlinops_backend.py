"""curvlinops (Dangel et al. 2025) with scipy's ``eigsh`` as a back end; an optional dependency."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.backends.adapter import (
    BatchLoss,
    BatchModel,
    batch_numbers,
    density_arrays,
    eigenvalue_scores,
    lent,
    residual_norms,
)
from ssa_analysis.numerics.hessian import CurvatureOperator
from ssa_analysis.numerics.lanczos import random_vector
from ssa_analysis.numerics.resampling import mean_interval, student_reach
from ssa_analysis.numerics.seeding import seeded
from ssa_analysis.scores import Score

INSTALL = 'pip install "ssa-analysis[peers]"'
HUTCHPP_PRODUCTS = 12  # of one estimate: a third each for the basis, its trace and the rest
MIN_ESTIMATES = 3
GRID_POINTS = 400
KAPPA, MARGIN = 3.0, 0.05  # curvlinops' defaults: width of the bumps, padding of the range


def _library() -> Any:
    """The module; SettingsError with the command that installs it where it is missing."""
    try:
        import curvlinops
        import curvlinops.papyan2020traces.spectrum
    except ImportError as error:
        raise SettingsError(f"the backend curvlinops needs curvlinops-for-pytorch, which is not installed: {INSTALL}") from error
    return curvlinops


def build_curvlinops(operator: CurvatureOperator, module: nn.Module) -> Any:
    """curvlinops' linear operator of an operator's loss, counting its ``products``; to be used inside :func:`lent`.

    Matrices go through it column by column: its own way, ``vmap`` over the columns, takes more time a column and as many
    times the memory. Its check of determinism is left out, because ours has been made.
    """
    library = _library()
    base = {"hessian": library.HessianLinearOperator, "gauss-newton": library.GGNLinearOperator}[operator.kind]

    class Counted(base):  # type: ignore[misc, valid-type]
        products = 0

        def _matmat(self, M: list[Tensor]) -> list[Tensor]:
            columns = [super(Counted, self)._matmat([m[..., i : i + 1] for m in M]) for i in range(M[0].shape[-1])]
            self.products += len(columns)
            return [torch.cat(pieces, dim=-1) for pieces in zip(*columns, strict=True)]

    return Counted(
        BatchModel(operator, module),
        BatchLoss(operator),
        operator.parameters,
        batch_numbers(operator),
        check_deterministic=False,
    )


def eigsh_top(
    linear: Any, start: Tensor, *, top: int, tolerance: float, max_products: int, vectors: int | None = None
) -> tuple[np.ndarray, Tensor, bool]:
    """The ``top`` largest eigenvalues in descending order, unit vectors ``(k, n)``, and whether ARPACK converged.

    Args:
        start: ``(n,)``. vectors: ARPACK's ``ncv``, a fifth more than its least by default.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    size = start.numel()
    count = min(top, size - 1)
    basis = min(size, vectors or max(2 * count + 1, 12))
    restarts = max(1, (max_products - basis) // max(1, basis - count))
    converged = True
    try:
        values, columns = eigsh(
            linear.to_scipy(), k=count, which="LA", tol=tolerance, v0=start.cpu().numpy(), ncv=basis, maxiter=restarts
        )
    except ArpackNoConvergence as error:
        values, columns, converged = error.eigenvalues, error.eigenvectors, False
    order = np.argsort(-values)
    return values[order].astype(float), torch.as_tensor(columns[:, order].T.copy()).to(start), converged


def _trace(library: Any, linear: Any, tolerance: float, budget: int) -> tuple[np.ndarray, bool]:
    """Independent Hutch++ estimates of the trace, until their mean is within ``tolerance``, and whether it is.

    One estimate has no error of its own, so there are at least three.
    """
    size = linear.shape[0]
    if size <= HUTCHPP_PRODUCTS:
        eye = torch.eye(size, device=linear.device, dtype=linear.dtype)
        return np.full(2, float(torch.trace(linear @ eye))), True
    estimates: list[float] = []
    while True:
        estimates.append(float(library.hutchpp_trace(linear, HUTCHPP_PRODUCTS)))
        if len(estimates) < MIN_ESTIMATES:
            continue
        mean = mean_interval(np.array(estimates))
        if mean.stderr <= tolerance * abs(mean.value):
            return np.array(estimates), True
        if (len(estimates) + 1) * HUTCHPP_PRODUCTS > budget:
            return np.array(estimates), False


def curvlinops_scores(
    operator: CurvatureOperator,
    module: nn.Module,
    *,
    top: int,
    tolerance: float,
    max_products: int,
    trace_tolerance: float,
    trace_probes: int,
    density_probes: int,
    density_steps: int,
    seed: int,
) -> list[Score]:
    """``lambda_1 .. lambda_k``, ``lambda_max``, ``trace`` and ``negative_mass`` (with the density in its arrays).

    Eigenvalues by ``eigsh``, each with the residual of one product of our operator; trace by repeated Hutch++; density
    by its Lanczos quadrature, whose bumps are as wide as its number of steps allows.

    Raises:
        SettingsError: curvlinops is not installed.
    """
    library = _library()
    spectrum = library.papyan2020traces.spectrum
    settings = {"backend": "curvlinops", "kind": operator.kind}
    start = random_vector(operator.size, seed, operator.device, operator.dtype)
    with lent(operator, module), seeded(seed, "curvlinops", device=operator.device):
        linear = build_curvlinops(operator, module)
        values, vectors, good = eigsh_top(linear, start, top=top, tolerance=tolerance, max_products=max_products)
        spent = linear.products
        estimates, within = _trace(library, linear, trace_tolerance, trace_probes)
        trace_products = linear.products - spent
        runs = [spectrum.fast_lanczos(linear, min(density_steps, operator.size)) for _ in range(density_probes)]
        density_products = linear.products - spent - trace_products
    scores = []
    if len(values):
        residuals = residual_norms(operator, values.tolist(), vectors)
        scores = eigenvalue_scores(values.tolist(), residuals.tolist(), [good] * len(values), {**settings, "products": spent})
    probed = {**settings, "error": "standard error"}
    scores.append(
        Score.of_interval(
            "curvature",
            "trace",
            mean_interval(estimates),
            "nats",
            converged=within,
            settings={**probed, "products": trace_products},
        )
    )
    nodes = [(run[0].double(), run[1][0].double() ** 2) for run in runs]
    ends = min(float(v.min()) for v, _ in nodes), max(float(v.max()) for v, _ in nodes)
    curves = [spectrum.lanczos_approximate_spectrum_from_iter(run, ends, GRID_POINTS, KAPPA, MARGIN) for run in runs]
    stacked = np.stack([curve.double().cpu().numpy() for _, curve in curves])
    shares = np.array([float(-(w * v)[v < 0].sum() / (w * v.abs()).sum().clamp_min(1e-300)) for v, w in nodes])
    mean = stacked.mean(0)
    band = student_reach(len(stacked)) * stacked.std(0, ddof=1) if len(stacked) > 1 else np.full(GRID_POINTS, np.nan)
    arrays = density_arrays(curves[0][0].double().cpu().numpy(), mean, np.maximum(mean - band, 0), mean + band)
    quadrature = {**probed, "over": "probes; the quadrature has a bias of its own", "products": density_products}
    mass = mean_interval(shares)
    return [*scores, Score.of_interval("curvature", "negative_mass", mass, "share", settings=quadrature, arrays=arrays)]
