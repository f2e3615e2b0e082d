"""Where PyHessian 0.1 goes wrong, each on an operator whose spectrum is known. What it prints is what docs/peers.md says.

python benchmarks/pyhessian_failures.py
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyhessian
import torch
from common import counted_products
from torch import nn

from ssa_analysis.numerics.lanczos import eigenpairs, krylov_space, random_vector


class Quadratic(nn.Module):
    """``w^T A w / 2``, whose Hessian is the symmetric matrix A."""

    def __init__(self, matrix: np.ndarray) -> None:
        super().__init__()
        self.matrix = torch.from_numpy(matrix).float()
        self.weight = nn.Parameter(torch.ones(len(matrix)))

    def forward(self, _inputs: torch.Tensor) -> torch.Tensor:
        return self.weight @ self.matrix @ self.weight / 2


def with_spectrum(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """A symmetric matrix with these eigenvalues in random directions."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values),) * 2))
    return np.asarray(q * values @ q.T)


def theirs(matrix: np.ndarray) -> tuple[Any, list[int]]:
    """PyHessian on that Hessian, and a list that grows by one with each of its products."""
    batch = (torch.zeros(1, 1), torch.zeros(1))
    hessian = pyhessian.hessian(Quadratic(matrix), lambda loss, _target: loss, dataloader=[batch], cuda=False)
    return hessian, counted_products(hessian)


def ours(matrix: np.ndarray, which: str, top: int) -> tuple[np.ndarray, int]:
    """The same eigenvalues from our Lanczos in the same precision, and its products."""
    dense = torch.from_numpy(matrix).float()
    ends = {"top": top, "bottom": top if which == "magnitude" else 0}
    krylov = krylov_space(lambda v: dense @ v, random_vector(len(matrix), 0, "cpu", torch.float32), tolerance=1e-3, **ends)
    return eigenpairs(krylov, which, top, 1e-3).values, krylov.products


def opposite_signs(seeds: int) -> Iterator[str]:
    """Two eigenvalues of equal size and opposite sign, well away from the others."""
    matrix = with_spectrum(np.concatenate([[10.0, -10.0], np.linspace(-1, 1, 198)]))
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        found.append(theirs(matrix)[0].eigenvalues(top_n=1)[0][0])
    values = np.array(found)
    yield f"eigenvalues +10 and -10, {seeds} seeds, top_n=1 at the default tolerance:"
    yield f"  within 1 % of +10 or of -10: {int((np.abs(np.abs(values) - 10) < 0.1).sum())} of {seeds}"
    sizes = np.abs(values)
    yield f"  negative: {int((values < 0).sum())}; smallest in size {sizes.min():.2f}, median size {np.median(sizes):.2f}"
    yield f"  ours: {', '.join(f'{v:+.4f}' for v in ours(matrix, 'magnitude', 2)[0])}"


def early_stop(seeds: int) -> Iterator[str]:
    """Close eigenvalues: the change between two iterations is small long before the error is."""
    truth = np.array([10.0, 9.8, 9.6, 9.4, 9.2])
    matrix = with_spectrum(np.concatenate([truth, np.linspace(-1, 1, 195)]))
    errors, products = [], []
    for seed in range(seeds):
        torch.manual_seed(seed)
        hessian, spent = theirs(matrix)
        values = np.sort(hessian.eigenvalues(top_n=5)[0])[::-1]
        errors.append(np.abs(values / truth - 1).max())
        products.append(len(spent))
    mine, own = ours(matrix, "largest", 5)
    yield f"top five 10, 9.8, 9.6, 9.4, 9.2, {seeds} seeds, at the default tolerance 1e-3:"
    count = np.median(products)
    yield f"  largest relative error: median {np.median(errors):.1%}, worst {max(errors):.1%}, after {count:.0f} products"
    yield f"  ours: {np.abs(mine / truth - 1).max():.1e} after {own} products"


def small_scale(seeds: int) -> Iterator[str]:
    """The same matrix, scaled: its 1e-6 is added to norms and values whatever their size."""
    truth = np.concatenate([[10.0, 9.0, 5.0], np.linspace(-1, 1, 197)])
    for scale in (1.0, 1e-8):
        errors = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            value = theirs(with_spectrum(truth) * scale)[0].eigenvalues(top_n=1)[0][0]
            errors.append(abs(value / (10 * scale) - 1))
        mine = abs(ours(with_spectrum(truth) * scale, "largest", 1)[0][0] / (10 * scale) - 1)
        yield f"largest eigenvalue {10 * scale:g}, {seeds} seeds: relative error median {np.median(errors):.1%}; ours {mine:.1e}"


def negative_trace(seeds: int) -> Iterator[str]:
    """Its stopping rule divides by the running mean with its sign: a negative one always stops it."""
    for sign in (1, -1):
        values = sign * np.concatenate([[50.0, 20.0], np.linspace(0, 1, 198)])
        matrix, truth = with_spectrum(values), values.sum()
        samples, errors = [], []
        for seed in range(seeds):
            torch.manual_seed(seed)
            found = theirs(matrix)[0].trace()
            samples.append(len(found))
            errors.append(abs(np.mean(found) / truth - 1))
        error, count = np.median(errors), np.median(samples)
        yield f"trace {truth:+.0f}, {seeds} seeds: probes median {count:.0f}, relative error median {error:.1%}"


def density_crash() -> Iterator[str]:
    """``density`` as it is installed."""
    try:
        theirs(np.diag(np.arange(1.0, 21)))[0].density(iter=5, n_v=1)
    except Exception as error:
        yield f"density() with torch {torch.__version__.split('+')[0]}: {type(error).__name__}: {str(error).splitlines()[0][:90]}"
    else:
        yield f"density() runs with torch {torch.__version__.split('+')[0]}"


def main() -> None:
    """Print every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its use of backward(create_graph=True) makes torch warn of a cycle
        for case in (opposite_signs(seeds), early_stop(seeds), small_scale(seeds), negative_trace(seeds), density_crash()):
            for line in case:
                print(line, flush=True)


if __name__ == "__main__":
    main()
