"""R2: classification is bounded by the ideal contrastive loss, ``L_sup <= H(pi) + L_dec(p_pos, p_data)``.

Given an anchor of class y, the mean of ``z.z+`` over ideal positives is ``z.mu_y``; Jensen's inequality inside each
class gives ``E exp(z.z-/tau) >= sum_c pi_c exp(z.mu_c/tau)``; the two make a softmax over classes. Equality holds iff
the features of each class coincide: the slack is the class-collapse gap.

The proof uses the law of positives and negatives and the law of anchors separately, so the inequality holds for
anchors of one sample against class means, positives and negatives of another: no estimate is biased in its favour.
"""

from __future__ import annotations

from torch import Tensor

from ssa_analysis.theory.rungs import LabelledLaw, Population

STATEMENT = "L_sup <= H(pi) + L_dec(ideal)"


def ideal_decoupled_losses(law: LabelledLaw, population: Population, tau: float) -> Tensor:
    """``(k,)`` decoupled losses of the anchors, averaged exactly over their ideal positives.

    ``log E_{z-} exp(z.z-/tau) - z.mu_y/tau``, in nats.
    """
    return losses_of(population.uniformity(law.z, tau), law, population, tau)


def losses_of(uniformity: Tensor, law: LabelledLaw, population: Population, tau: float) -> Tensor:
    """``(k,)`` the same where ``log E exp(z.z-/tau)`` is known."""
    return uniformity - (law.z * population.means[law.y]).sum(1) / tau
