"""Text from elsewhere: what a terminal, a spreadsheet and an encoder get of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssa_analysis.errors import DataError, SettingsError
from ssa_analysis.paths import expanded, ordinary, read_at_most, resolved
from ssa_analysis.texts import no_formula, one_line, parsed_json, visible, whole
from ssa_analysis.toml_files import read_toml


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", "a\\x1b[2Jb"), ("a\x9bb", "a\\x9bb"), ("\x00", "\\x00"), ("\u202egnp", "\\u202egnp"),
        ("caf\udce9", "caf\\xe9"),
        ("\ud800", "\\ud800"), ("a\rb", "a\\x0db"), ("ü ± 1", "ü ± 1"), ("\U0001f600", "\U0001f600"),
    ],
)  # fmt: skip
def test_what_commands_a_terminal_is_spelt_out(text: str, shown: str) -> None:
    assert visible(text) == one_line(text) == shown


def test_lines_stay_lines_only_where_several_are_meant() -> None:
    assert visible("a\tb\nc") == "a\tb\nc"
    assert one_line("a\tb\nc") == "a\\tb\\nc"


def test_an_error_is_one_line_whatever_it_names() -> None:
    assert str(DataError("no\nsuch \x1b[31mfile")) == "no\\nsuch \\x1b[31mfile"
    assert str(SettingsError(ValueError("a\nb"))) == "a\\nb"


@pytest.mark.parametrize(
    "text", ["=1", "+1", "-x", "@a", "\t1", "\r=1", "\n=1", "  =1", "\0=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff20"]
)
def test_formulas_get_a_quote(text: str) -> None:
    assert no_formula(text).startswith("'")


@pytest.mark.parametrize("value", [-1.5, -1, None, True, "-1.500 ± 0.100 *", "-1e-05", "a=b", "a - b", ""])
def test_numbers_and_plain_texts_stay_as_they_are(value: object) -> None:
    assert no_formula(value) == value


def test_every_name_can_be_encoded() -> None:
    assert whole("caf\udce9 \ud800 ü").encode().decode() == "caf\\xe9 \\ud800 ü"


def test_json_of_somebody_else() -> None:
    assert parsed_json('{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}
    assert parsed_json('{"a": ["\\ud800"]}') == {"a": ["?"]}
    for text in ("[" * 100_000, "{", "9" * 5000):
        with pytest.raises(ValueError):
            parsed_json(text)
    assert parsed_json(json.dumps({"a": float("inf")})) == {"a": float("inf")}


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to(tmp_path / "round")
    assert expanded("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    assert expanded("~\0/x") == Path("~\0/x")
    assert expanded("~") == Path.home()
    assert resolved(tmp_path / "round") == tmp_path / "round"
    assert not ordinary(tmp_path / "round")
    assert not ordinary(Path("/dev/zero"))
    assert not ordinary(Path("a\0b"))
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        read_at_most(Path("/dev/zero"), 1000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a" + ".a" * 40 + " = 1", "a name of more than 32 parts"), ("a = " + "[" * 5000, "nested too deep"),
        ("a = " + "9" * 5000, "is no TOML"), ("#" * (1 << 20) + "\n", "more than 1,048,576 bytes"), ("a = \x00", "is no TOML"),
    ],
)  # fmt: skip
def test_toml_that_would_take_long_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.toml").write_text(content)
    with pytest.raises(SettingsError, match=message):
        read_toml(tmp_path / "x.toml")


def test_dots_in_comments_and_numbers_are_no_names(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(f"# {'.' * 60}\na = [{'0.5, ' * 60}]\n")
    assert len(read_toml(tmp_path / "x.toml")["a"]) == 60
