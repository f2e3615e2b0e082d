"""Text from elsewhere: names of files and of what is in them. What of it may be shown, kept, and put into a spreadsheet."""

from __future__ import annotations

import json
import re
from typing import Any

# control characters (a terminal obeys them), marks that turn the direction of writing, halves of characters
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_HALF = re.compile("[\ud800-\udfff]")
# a spreadsheet takes them for the beginning of a formula, the wide forms too; blanks before them do not help
_FORMULA = re.compile("[\\s\x00]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_NUMBER = re.compile(r"-?[\d.]+(e[+-]?\d+)?( ± [\d.]+(e[+-]?\d+)?)?( \*)?")


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def visible(text: str) -> str:
    """Text of several lines for a terminal: what would command it, or turn the writing around, is spelt out.

    >>> visible("a" + chr(27) + "[2J")
    'a\\\\x1b[2J'
    """
    return _HIDDEN.sub(_escaped, text)


def one_line(text: str) -> str:
    """The same in one line."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def whole(text: str) -> str:
    """Text that can be encoded: the bytes of a file's name that are no UTF-8 are spelt out."""
    return _HALF.sub(_escaped, text)


def no_formula(value: Any) -> Any:
    """A cell of a table for a spreadsheet, which would take a text that begins with =, +, -, @ for a formula: a quote is put
    before it. Numbers, with their errors, are no formulas and stay as they are."""
    if not isinstance(value, str):
        return value
    text = visible(value.replace("\r", " ").replace("\x00", " "))  # which readers take for the end of a row, or of the file
    return f"'{text}" if _FORMULA.match(value) and not _NUMBER.fullmatch(value) else text


def parsed_json(text: str) -> Any:
    """JSON of somebody else; ValueError for whatever is wrong with it. Halves of characters in it become question marks."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if "\\ud" in text or "\\uD" in text:
        found = json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace").decode())
    return found
