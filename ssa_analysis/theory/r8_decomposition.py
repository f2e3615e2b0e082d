"""R8: what the shift costs, exactly: ``L_dec(ideal) = L_dec(practical) + alignment gap / tau + uniformity gap``.

* alignment gap ``E_practical[z.z+] - sum_c pi_c |mu_c|^2`` (the ideal pairs' mean of ``z.z+`` is that sum);
* uniformity gap ``E_p log E_p exp(z.z-/tau) - E_q log E_q exp(z.z-/tau)``, p clean images, q single views.
"""

from __future__ import annotations

from dataclasses import dataclass

STATEMENT = "L_dec(ideal) = L_dec(practical) + alignment gap / tau + uniformity gap"


@dataclass(frozen=True)
class Decomposition:
    """The four parts, in nats except the alignment gap (a cosine)."""

    ideal: float
    practical: float
    alignment_gap: float
    uniformity_gap: float

    def right_side(self, tau: float) -> float:
        """``L_dec(practical) + alignment gap / tau + uniformity gap``."""
        return self.practical + self.alignment_gap / tau + self.uniformity_gap


def decompose(
    *, tau: float, ideal: float, practical_alignment: float, ideal_alignment: float,
    practical_uniformity: float, ideal_uniformity: float,
) -> Decomposition:  # fmt: skip
    """The decomposition from the means of ``z.z+`` and of ``log E exp(z.z-/tau)`` under both laws.

    Args:
        ideal: ``L_dec`` of ideal pairs, computed on its own (from drawn pairs, where there is a sample).
        ideal_alignment: ``sum_c pi_c |mu_c|^2``.
    """
    return Decomposition(
        ideal=ideal,
        practical=practical_uniformity - practical_alignment / tau,
        alignment_gap=practical_alignment - ideal_alignment,
        uniformity_gap=ideal_uniformity - practical_uniformity,
    )
