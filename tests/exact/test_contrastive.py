"""The losses against a reference that is written out term by term."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from ssa_analysis.errors import SettingsError
from ssa_analysis.numerics.contrastive import info_nce, log_mean_exp_similarity, nt_xent


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=1)


def reference_nt_xent(z: torch.Tensor, z_plus: torch.Tensor, tau: float, beta: float | None) -> list[float]:
    rows, m = torch.cat([z, z_plus]), len(z)
    losses = []
    for i in range(2 * m):
        j = (i + m) % (2 * m)
        others = [k for k in range(2 * m) if k not in (i, j)]
        weight = 1.0 if beta is None else beta / len(others)
        terms = sum(weight * math.exp(float(rows[i] @ rows[k] - rows[i] @ rows[j]) / tau) for k in others)
        losses.append(math.log(1 + terms))
    return losses


@pytest.mark.parametrize("tau", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("beta", [None, 0.3, 7.0])
def test_nt_xent_is_the_sum_written_out(tau: float, beta: float | None) -> None:
    z, z_plus = unit(6, 4, 0), unit(6, 4, 1)
    expected = torch.tensor(reference_nt_xent(z, z_plus, tau, beta), dtype=torch.float64)
    torch.testing.assert_close(nt_xent(z, z_plus, tau, beta), expected, rtol=1e-12, atol=0)


def test_info_nce_with_explicit_negatives_is_the_formula() -> None:
    z, z_plus, negatives = unit(5, 3, 0), unit(5, 3, 1), unit(9, 3, 2)
    tau, beta = 0.2, 4.0
    gaps = (z @ negatives.T - (z * z_plus).sum(1, keepdim=True)) / tau
    expected = torch.log(1 + beta / 9 * gaps.exp().sum(1))
    torch.testing.assert_close(info_nce(z, z_plus, negatives, tau, beta), expected)
    torch.testing.assert_close(info_nce(z, z_plus, negatives.expand(5, 9, 3), tau, beta), expected)


def test_nt_xent_equals_info_nce_with_the_batch_as_negatives() -> None:
    z, z_plus = unit(4, 5, 0), unit(4, 5, 1)
    rows = torch.cat([z, z_plus])
    negatives = torch.stack([rows[[k for k in range(8) if k not in (i, (i + 4) % 8)]] for i in range(8)])
    expected = info_nce(rows, torch.cat([z_plus, z]), negatives, 0.5)
    torch.testing.assert_close(nt_xent(z, z_plus, 0.5), expected)


def test_fewer_negatives_are_drawn_from_the_right_ones_and_give_the_mean_on_average() -> None:
    z, z_plus = unit(4, 3, 0), unit(4, 3, 1)
    rng = torch.Generator().manual_seed(0)
    # with beta fixed, exp(loss) - 1 is linear in the mean over negatives, so its expectation is that of all negatives
    draws = torch.stack([nt_xent(z, z_plus, 0.5, beta=2.0, negatives=2, generator=rng) for _ in range(4000)])
    mean = torch.expm1(draws).mean(0)
    expected = torch.expm1(nt_xent(z, z_plus, 0.5, beta=2.0))
    stderr = torch.expm1(draws).std(0) / math.sqrt(4000)
    assert ((mean - expected).abs() < 4 * stderr).all()


def test_all_negatives_asked_for_by_number_is_the_same_as_none() -> None:
    z, z_plus = unit(4, 3, 0), unit(4, 3, 1)
    assert torch.equal(nt_xent(z, z_plus, 0.5, negatives=6), nt_xent(z, z_plus, 0.5))


def test_extreme_temperatures_stay_finite() -> None:
    z, z_plus = unit(8, 3, 0).float(), unit(8, 3, 1).float()
    assert torch.isfinite(nt_xent(z, z_plus, 1e-3)).all()


def test_log_mean_exp_similarity_with_weights() -> None:
    z, negatives = unit(3, 4, 0), unit(5, 4, 1)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)
    expected = (weights * (z @ negatives.T / 0.3).exp()).sum(1).log()
    torch.testing.assert_close(log_mean_exp_similarity(z, negatives, 0.3, weights), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau": 0.0}, "temperature"),
        ({"tau": -1.0}, "temperature"),
        ({"tau": 0.5, "beta": 0.0}, "beta"),
        ({"tau": 0.5, "negatives": 7}, "1 to 6"),
        ({"tau": 0.5, "negatives": 0}, "1 to 6"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        nt_xent(unit(4, 3, 0), unit(4, 3, 1), **arguments)  # type: ignore[arg-type]


def test_one_pair_has_no_negatives() -> None:
    with pytest.raises(SettingsError, match="at least two pairs"):
        nt_xent(unit(1, 3, 0), unit(1, 3, 1), 0.5)
