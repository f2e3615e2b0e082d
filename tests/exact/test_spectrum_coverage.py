"""The errors of one run at its default settings, over many seeds, on operators whose spectrum is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scale import often

from ssa_analysis.numerics.spectrum import Spectrum, analyse_spectrum

SEEDS = often(100, 200)
# 95 % are asked for. Below 174 of 200 has a chance of 1e-4 at 93 %, and of 97 % at 80 %. The trace, whose probes stop
# when they agree, is the one that a careless error would hurt
ENOUGH = {"trace": 0.925, "squared_frobenius": 0.87, "effective_rank": 0.87, "negative_mass": 0.87}  # shares of the seeds
N = 400


def _network_like() -> np.ndarray:
    """A heavy tail on both sides of a near-null space, the largest twenty positive."""
    rng = np.random.default_rng(0)
    sizes = np.sort(np.exp(rng.normal(-3, 2.2, N)))[::-1]
    signs = np.where(rng.random(N) < 0.35, -1, 1)
    signs[:20] = 1
    return np.asarray(100 * signs * sizes / sizes[0])


SPECTRA = {
    "outliers and a bulk": np.concatenate([[100, 50, 20, 10, 5], np.linspace(-0.5, 1, N - 5)]),
    "network-like": _network_like(),
    "power law": 100 / np.arange(1, N + 1) ** 1.2,
    "low rank": np.concatenate([np.linspace(1, 30, 40), np.zeros(N - 40)]),
    "all of it in the Krylov space": np.concatenate([np.linspace(20, 30, 15), np.zeros(N - 15)]),
    "continuous": 10 * np.sin(np.linspace(-np.pi / 2, np.pi / 2, N)) + 2,
}


@pytest.fixture(scope="module", params=SPECTRA)
def runs(request: pytest.FixtureRequest) -> tuple[np.ndarray, list[Spectrum]]:
    values = SPECTRA[request.param]
    q = np.linalg.qr(np.random.default_rng(1).standard_normal((N, N)))[0]
    matrix = torch.from_numpy((q * values) @ q.T).float()
    return (
        values,
        [
            analyse_spectrum(lambda v: matrix @ v, N, seed=100 * seed, matmat=lambda rows: rows @ matrix, trace_probes=32)
            for seed in range(SEEDS)
        ],
    )


def test_trace_norm_rank_and_negative_mass(runs: tuple[np.ndarray, list[Spectrum]]) -> None:
    values, found = runs
    trace, square = values.sum(), np.square(values).sum()
    truth = {
        "trace": trace,
        "squared_frobenius": square,
        "effective_rank": trace**2 / square,
        "negative_mass": -values[values < 0].sum() / np.abs(values).sum(),
    }
    inside = {}
    for name, true in truth.items():
        intervals = [getattr(spectrum, name) for spectrum in found]
        inside[name] = sum(i.low <= true + 1e-9 and true - 1e-9 <= i.high for i in intervals)
        # and the errors are no larger than they must be
        actual = np.sqrt(np.mean([(i.value - true) ** 2 for i in intervals]))
        assert np.mean([i.stderr for i in intervals]) <= 2 * actual + 1e-6 * abs(true) + 1e-9, name
    assert all(count >= ENOUGH[name] * SEEDS for name, count in inside.items()), inside


def test_density_band(runs: tuple[np.ndarray, list[Spectrum]]) -> None:
    """Pointwise, against the true density widened as much as the one found."""
    values, found = runs
    shares, errors = [], []
    for density in (spectrum.density for spectrum in found):
        bumps = np.exp(-0.5 * ((density.grid[:, None] - values) / density.width) ** 2)
        truth = bumps.mean(1) / (density.width * np.sqrt(2 * np.pi))
        seen = truth > 1e-3 * truth.max()
        slack = 1e-3 * truth  # eigenvalues known to a thousandth are lines at their place
        shares.append(((density.low - slack <= truth) & (truth <= density.high + slack))[seen].mean())
        off = np.abs(density.density - truth)
        errors.append((np.diff(density.grid) * (off[1:] + off[:-1]) / 2).sum())
    assert np.mean(shares) >= 0.93
    assert np.mean(errors) <= 0.1


EDGES = {
    "gaps": SPECTRA["outliers and a bulk"],
    "a cluster far narrower than the tolerance": np.concatenate([[10.0, 9.999, 9.998, 9.0], np.linspace(0, 1, 96)]),
    "a cluster": np.concatenate([[10.0, 9.99, 9.98, 9.0], np.linspace(0, 1, 150)]),
    "twins": np.concatenate([[5.0, 5.0, 3.0], np.linspace(0, 1, 100)]),
    "plus and minus": np.concatenate([[7.0, -7.0, 5.0, -5.0], np.linspace(-0.5, 0.5, 60)]),
    "an end without gaps": np.linspace(-1, 1, 150),
    "near pairs above a wide bulk": np.concatenate([[160, 134, 101, 88, 64.5, 60, 50], np.linspace(-2, 40, 150)]),
}


@pytest.mark.parametrize("name", EDGES)
def test_eigenvalues_that_claim_to_have_converged(name: str) -> None:
    """Lanczos alone takes 9.0 for the third of the narrow cluster in a quarter of the runs."""
    values = EDGES[name]
    size, truth = len(values), np.sort(values)[::-1][:3]
    q = np.linalg.qr(np.random.default_rng(1).standard_normal((size, size)))[0]
    matrix = torch.from_numpy((q * values) @ q.T)
    wrong = beyond = open_ends = 0
    for seed in range(SEEDS):
        found = analyse_spectrum(
            lambda v: matrix @ v, size, top=3, max_products=200, seed=seed, dtype=torch.float64,
            matmat=lambda rows: rows @ matrix, trace_probes=4,
        ).largest  # fmt: skip
        off = np.abs(found.values - truth)
        wrong += bool((found.converged & (off > 1e-3 * np.abs(truth))).any())
        beyond += bool((found.converged & (off > found.errors + 1e-12)).any())
        open_ends += not found.converged.all()
    assert wrong <= 0.03 * SEEDS
    assert beyond <= 0.05 * SEEDS
    assert open_ends <= 0.02 * SEEDS
