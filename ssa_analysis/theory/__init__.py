"""The bounds of the theory, rung by rung, on checkpoints and on exact finite worlds."""

from ssa_analysis.theory import bounds, finite_worlds

__all__ = ["bounds", "finite_worlds"]
