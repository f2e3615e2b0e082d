"""Whether a checkpoint is sound and was read as it was trained: ``ssa-analyze doctor``."""

from ssa_analysis.diagnosis.doctor import diagnose
from ssa_analysis.diagnosis.findings import Finding

__all__ = ["Finding", "diagnose"]
