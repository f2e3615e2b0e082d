"""TOML files of users: read, or refused in a line that names the file."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from ssa_analysis.errors import SettingsError
from ssa_analysis.paths import read_at_most

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST = 1 << 20  # bytes of a file
DEEPEST = 32  # dotted parts of a name: the parser's time and memory grow with their square


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; SettingsError where it cannot be read or is none."""
    try:
        text = read_at_most(path, LARGEST).decode("utf-8")
        if _deepest(text) > DEEPEST:
            raise ValueError(f"a name of more than {DEEPEST} parts")
        return tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise SettingsError(f"{path}: is no TOML (nested too deep)") from error
    except ValueError as error:  # of TOML, of UTF-8, of a number with thousands of digits, of a path that cannot be
        raise SettingsError(f"{path}: is no TOML ({error})") from error


def _deepest(text: str) -> int:
    """An upper bound of the dots in a name."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return max((piece.count(".") for line in lines for piece in re.split(r"[,=\[\]{}]", line)), default=0)
