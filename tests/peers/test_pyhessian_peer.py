"""PyHessian as a back end, and against our own eigenvalues.

Its power iteration finds the eigenvalue of largest magnitude, whatever the sign, so that is what it is compared with.
"""

from __future__ import annotations

import pytest

from ssa_analysis.data.datasets import Data
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.fixed_loss import FixedLossSettings, fixed_operator
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.lanczos import eigenpairs, krylov_space, random_vector
from ssa_analysis.score import Score, find_score

BATCHES = {"pairs": 64, "batch": 32}


def scores_of(encoder: Encoder, data: Data, **values: object) -> list[Score]:
    row = MEASURES.get("curvature")
    return row.function(encoder, data, row.make_settings({**BATCHES, "top": 1, **values}))


@pytest.fixture
def theirs(encoder: Encoder, digits: Data) -> list[Score]:
    return scores_of(encoder, digits, backend="pyhessian")


def test_its_first_eigenvalue_is_our_largest_in_magnitude_within_its_residual(
    theirs: list[Score], encoder: Encoder, digits: Data
) -> None:
    operator = fixed_operator(encoder, digits, FixedLossSettings(**BATCHES))
    start = random_vector(operator.size, 0, "cpu", operator.dtype)
    krylov = krylov_space(operator.matvec, start, top=1, bottom=1, tolerance=1e-5)
    largest = eigenpairs(krylov, "magnitude", 1, 1e-5).values[0]
    found = find_score(theirs, "lambda_max")
    assert found.settings["backend"] == "pyhessian"
    assert found.low is not None
    assert found.high is not None
    assert found.low - 1e-4 * abs(largest) <= largest <= found.high + 1e-4 * abs(largest)
    assert found.high - found.low < 0.5 * abs(largest)


def test_the_traces_agree_within_their_errors(theirs: list[Score], encoder: Encoder, digits: Data) -> None:
    ours = find_score(scores_of(encoder, digits, trace_tolerance=0.0, trace_probes=150), "trace")
    peer = find_score(theirs, "trace")
    assert ours.stderr is not None
    assert peer.stderr is not None
    assert abs(ours.value - peer.value) <= 3 * (ours.stderr**2 + peer.stderr**2) ** 0.5


def test_the_weights_and_gradients_are_left_as_they_were(encoder: Encoder, digits: Data) -> None:
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    scores_of(encoder, digits, backend="pyhessian")
    assert all(v.equal(before[k]) for k, v in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())
