"""The probe and the neighbours against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier

from ssa_analysis.numerics.classifiers import fit_logistic, knn_predict, mean_cross_entropy, standardise


def blobs(n: int, d: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=rng)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    return centres[y] + torch.randn(n, d, generator=rng), y


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
@pytest.mark.parametrize("classes", [3, 5])
def test_the_probe_has_scikit_learns_minimum(l2: float, classes: int) -> None:
    x, y = blobs(300, 6, classes, 0)
    ours = fit_logistic(x, y, classes, l2=l2, tolerance=1e-9)
    peer = LogisticRegression(C=1 / (300 * l2), solver="newton-cg", tol=1e-6, max_iter=5000).fit(x.double().numpy(), y.numpy())
    assert ours.converged
    np.testing.assert_allclose(ours.weight.numpy(), peer.coef_, atol=2e-4)
    probabilities = torch.softmax(ours.logits(x), 1).numpy()
    np.testing.assert_allclose(probabilities, peer.predict_proba(x.double().numpy()), atol=1e-4)
    assert mean_cross_entropy(ours.logits(x), y) == pytest.approx(
        log_loss(y.numpy(), peer.predict_proba(x.double().numpy())), abs=1e-5
    )


def test_weights_are_repetition() -> None:
    x, y = blobs(60, 3, 3, 1)
    counts = torch.randint(1, 4, (60,), generator=torch.Generator().manual_seed(2))
    repeated = fit_logistic(x.repeat_interleave(counts, 0), y.repeat_interleave(counts), 3, l2=0.01, tolerance=1e-9)
    weighted = fit_logistic(x, y, 3, l2=0.01, weights=counts.double(), tolerance=1e-9)
    torch.testing.assert_close(weighted.weight, repeated.weight, atol=1e-5, rtol=0)


def test_the_start_does_not_matter() -> None:
    x, y = blobs(100, 4, 3, 1)
    start = (torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) * 3, torch.ones(3))
    one, two = fit_logistic(x, y, 3, l2=0.1, tolerance=1e-9), fit_logistic(x, y, 3, l2=0.1, start=start, tolerance=1e-9)
    torch.testing.assert_close(one.weight, two.weight, atol=1e-5, rtol=0)


def test_stopping_early_is_said() -> None:
    x, y = blobs(300, 6, 4, 0)
    assert not fit_logistic(x, y, 4, l2=1e-6, max_iterations=2).converged


@pytest.mark.parametrize("k", [1, 5, 17])
def test_neighbours_equal_scikit_learns(k: int) -> None:
    bank, labels = blobs(120, 5, 3, 0)
    queries, _ = blobs(50, 5, 3, 1)
    unit_bank, unit_queries = (torch.nn.functional.normalize(v, dim=1).numpy() for v in (bank, queries))
    plain = KNeighborsClassifier(k).fit(unit_bank, labels.numpy())
    assert knn_predict(bank, labels, queries, 3, k=k, temperature=None).tolist() == plain.predict(unit_queries).tolist()

    def votes(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances**2 / 2) / 0.1)  # cosine similarity of unit vectors from their distance

    weighted = KNeighborsClassifier(k, weights=votes).fit(unit_bank, labels.numpy())
    assert knn_predict(bank, labels, queries, 3, k=k, temperature=0.1).tolist() == weighted.predict(unit_queries).tolist()


def test_more_neighbours_than_the_bank_has_are_all_of_it() -> None:
    bank, labels = blobs(20, 5, 3, 0)
    expected = labels.bincount(minlength=3).argmax()
    assert (knn_predict(bank, labels, bank, 3, k=500, temperature=None) == expected).all()


def test_standardise_uses_the_reference_and_survives_constant_columns() -> None:
    reference, other = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 4 + 2, torch.ones(5, 3)
    reference[:, 1] = 7.0
    a, b = standardise(reference, other)
    torch.testing.assert_close(a.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(a[:, [0, 2]].std(0, correction=0), torch.ones(2))
    assert (a[:, 1] == 0).all()
    assert torch.isfinite(b).all()
