"""Regular expressions of somebody else, in a layout file: only those whose matching ends soon, whatever the text.

Python's matcher tries one way after the other. It may take for ever where a repetition stands in a repetition, or where a
repeated part has alternatives; a few repetitions side by side take a power of the text's length.
"""

from __future__ import annotations

import re
import sys
import warnings
from typing import Any

if sys.version_info >= (3, 11):
    from re import _parser as _parser  # type: ignore[attr-defined]
else:
    import sre_parse as _parser

LONGEST = 300  # characters of a pattern
OPEN = 3  # repetitions of any number, in one pattern
MANY = 16  # times that a part may or may not be repeated before it counts as one of any number
DEEPEST = 20


def check_pattern(text: str) -> None:
    """ValueError for what is no pattern, or one whose matching may take too long."""
    if len(text) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    try:
        with warnings.catch_warnings():
            # Python 3.10 only warns of flags in the middle, which later ones refuse
            warnings.simplefilter("error", DeprecationWarning)
            re.compile(text)
            found = _open_parts(_parser.parse(text), inside=False, depth=0)
    except (re.error, DeprecationWarning, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(str(error) or "nested too deep") from error
    if found > OPEN:
        raise ValueError(f"more than {OPEN} repetitions of any number")


def _open_parts(parts: Any, inside: bool, depth: int) -> int:
    """How many repetitions of any number there are; ValueError for one within another. ``inside``: of a repeated part."""
    if depth > DEEPEST:
        raise ValueError("nested too deep")
    count = 0
    for opcode, argument in parts:
        name = str(opcode)
        if name.endswith("REPEAT"):
            least, most, inner = argument
            if inside and least != most:
                raise ValueError("a repetition within a repetition, which may take for ever")
            count += int(most) - int(least) > MANY
            count += _open_parts(inner, inside or int(most) > 1, depth + 1)
        elif name == "BRANCH":
            if inside:
                raise ValueError("alternatives within a repetition, which may take for ever")
            count += max(_open_parts(branch, inside, depth + 1) for branch in argument[1])
        elif name in ("SUBPATTERN", "ASSERT", "ASSERT_NOT", "ATOMIC_GROUP"):
            inner = argument if name == "ATOMIC_GROUP" else argument[-1]
            count += _open_parts(inner, inside, depth + 1)
        elif name == "GROUPREF_EXISTS":
            raise ValueError("a condition on a group")
    return count
