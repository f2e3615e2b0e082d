"""How often a test that repeats something does so: enough to see a mistake on every run, and more with ``SSA_FULL_TESTS=1``."""

from __future__ import annotations

import os

FULL = os.environ.get("SSA_FULL_TESTS") == "1"


def often(few: int, many: int) -> int:
    """``many`` in the full tests (``make test-full``), else ``few``."""
    return many if FULL else few
