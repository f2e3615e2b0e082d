"""R1: the trained probe is at least as good as the mean classifier, ``L_sup* <= L_sup``.

The mean classifier is one linear classifier (weights ``mu_c / tau``, bias ``log pi_c``); the probe is the best one on
the same law. Fitting starts at the mean classifier, so that only the optimiser's own descent is trusted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ssa_analysis.numerics.classifiers import fit_logistic
from ssa_analysis.theory.rungs import LabelledLaw, Population

STATEMENT = "L_sup* <= L_sup"


def mean_classifier_losses(law: LabelledLaw, population: Population, tau: float) -> Tensor:
    """``(k,)`` losses ``-log softmax_y(z.mu_c / tau + log pi_c)``, in nats."""
    logits = law.z @ population.means.T / tau + population.prior.clamp_min(1e-300).log()
    return cross_entropy(logits, law.y, reduction="none")


@dataclass(frozen=True)
class ProbeFit:
    """Losses ``(k,)`` of the best linear classifier found on the law; ``converged`` as its gradient says."""

    losses: Tensor
    converged: bool


def trained_probe(law: LabelledLaw, population: Population, tau: float, max_iterations: int = 500) -> ProbeFit:
    """The linear classifier that minimises the weighted cross-entropy on ``law``, started at the mean classifier.

    On separable features the infimum 0 is not attained; the iterations stop somewhere above it, and ``converged``
    says so. The inequality holds all the same, at every step of the descent.
    """
    start = (population.means / tau, population.prior.clamp_min(1e-300).log())
    classifier = fit_logistic(
        law.z, law.y, len(population.prior), start=start, weights=law.weights, max_iterations=max_iterations, tolerance=1e-7
    )
    with torch.no_grad():
        losses = cross_entropy(classifier.logits(law.z), law.y, reduction="none")
    return ProbeFit(losses, classifier.converged)
