"""How often a test that repeats something does so: enough to see a mistake on every run, and more with ``SSA_FULL_TESTS=1``."""

from __future__ import annotations

import os

from scipy.stats import binom

FULL = os.environ.get("SSA_FULL_TESTS") == "1"


def often(few: int, many: int) -> int:
    """``many`` in the full tests (``make test-full``), else ``few``."""
    return many if FULL else few


def enough(count: int, share: float = 0.95, chance: float = 1e-3) -> int:
    """Fewer than this of ``count`` intervals hold the truth with that ``chance``, where a ``share`` of them does on average."""
    return int(binom.ppf(chance, count, share))
