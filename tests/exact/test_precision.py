"""What a GPU may do with float32: nothing inside the block, and what it could before after it."""

from __future__ import annotations

import pytest
import torch
from processes import run_script

from ssa_analysis.numerics.precision import full_precision

SHOW = """
import torch
from ssa_analysis.numerics.precision import full_precision
cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
def state():
    found = [cudnn.deterministic, cudnn.benchmark]
    for read in (lambda: cudnn.allow_tf32, lambda: matmul.allow_tf32, torch.get_float32_matmul_precision,
                 lambda: cudnn.conv.fp32_precision, lambda: matmul.fp32_precision):
        try:
            found.append(read())
        except (RuntimeError, AttributeError):
            found.append("mixed")
    return found
SETUP
before = state()
with full_precision():
    inside = state()
assert state() == before, (before, state())
assert inside[:2] == [True, False], inside
assert inside[2] in (False, "mixed") and inside[3] is False, inside
assert inside[5] in ("none", "ieee", "mixed"), inside
"""


@pytest.mark.parametrize(
    "setup",
    [
        "torch.set_float32_matmul_precision('medium'); cudnn.benchmark = True",
        "cudnn.conv.fp32_precision = 'tf32'",
        "matmul.fp32_precision = 'tf32'",
    ],
)
def test_full_precision_holds_inside_the_block_and_leaves_nothing_behind(setup: str) -> None:
    """In a process of its own: torch's older and newer switches cannot be mixed again once they have been."""
    if "fp32_precision" in setup and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this torch has the older switches only")
    done = run_script(SHOW.replace("SETUP", setup))
    assert done.returncode == 0, done.stderr


def test_full_precision_is_left_by_an_error_too() -> None:
    before = torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision()
    with pytest.raises(ZeroDivisionError), full_precision():
        raise ZeroDivisionError
    assert (torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision()) == before
