"""Trials of the group "hostile": configurations, texts of options, and command lines that are nearly right."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from children import try_all
from mutations import drawn, many, mutated
from trial import Tally, trial
from trials_hostile_fuzz import CLEAN

from ssa_analysis.checkpoints.normalisation import parse_normalisation
from ssa_analysis.checkpoints.options import load_options, read_layout
from ssa_analysis.checkpoints.own_model import parse_model
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures import MEASURES
from ssa_analysis.progress import parse_duration
from ssa_analysis.running.conditions import parse_condition
from ssa_analysis.running.plan import measure_settings
from ssa_analysis.running.study import read_study

ROOT = Path(__file__).resolve().parents[2]
ODD = (
    "", " ", "x", "x" * 300, "-", "--", "-x", "a b", "a=b", "=", "a.b", "a.b=c", "curvature.top=3", "a/b", "%s%n", "{x}",
    "$x", "*", "?", "[", "[!", "\udcff", "caf\udce9", "\x1b[2J\x1b]0;x\x07", "a\nb", "a\rb", "\u202egnp.exe", "=1+1",
    "@SUM(1)", "'; DROP TABLE scores; --", "<script>alert(1)</script>", "None", "nan", "inf", "-inf", "1e999", "9" * 400,
    "0", "-1", "1", "2.5", "1_0", "٣", "true", "~nobody/x", "lambda_max > 50", "lambda_max>nan", "1h30m", "9" * 320+"h",
    "imagenet", "0.5,0.5,0.5/0.2,0.2,0.2", "net.py:build", "net.py:", ":", "heads=3", "heads="+"9" * 30,
    "stem_padding=999999999", "norm_eps=nan", "simclr", "simclr+", "own", "local", "cpu", "cuda:99", "meta", "c.toml",
    "layout.toml", "run/last.pt", "run", "data.npz", "scores.db", "group/", "digits", "downstream", "downstream,downstream",
    "**",
)  # fmt: skip


def to_toml(content: dict[str, Any]) -> str:
    """A document of TOML; a dictionary within becomes an inline table, so that any value may stand anywhere."""

    def said(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, dict):
            return "{" + ", ".join(f"{quoted(k)} = {said(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(said, value)) + "]"
        return quoted(value) if isinstance(value, str) else str(value)

    def quoted(text: str) -> str:
        signs = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text if not "\ud800" <= c <= "\udfff")
        return f'"{"".join(signs)}"'

    return "\n".join(f"{quoted(key)} = {said(value)}" for key, value in content.items())


def _values() -> Any:
    """Any value of TOML, most often a strange one."""
    from hypothesis import strategies as st

    plain = st.one_of(
        st.sampled_from([0, 1, -1, 2, 3, 10**6, 2**63, 10**30, True, False, 0.5, float("nan"), float("inf"), -0.0, 1e308]),
        st.sampled_from(list(ODD)), st.text(max_size=8), st.dates().map(_Raw),
    )  # fmt: skip

    def within(inner: Any) -> Any:
        return st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=2))

    return st.recursive(plain, within, max_leaves=5)


class _Raw:
    """A value of TOML as it is written."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __str__(self) -> str:
        return str(self.value)

    __repr__ = __str__


def _tables(known: dict[str, Any]) -> Any:
    """Documents with some of the known keys, whose values are right half of the time, and perhaps a key that nobody knows."""
    from hypothesis import strategies as st

    def value(right: Any) -> Any:
        inner = _tables(right) if isinstance(right, dict) and right else st.just(right)
        return st.one_of(st.just(right), inner, _values())

    keys = {key: value(right) for key, right in known.items()}
    return st.tuples(st.fixed_dictionaries({}, optional=keys), st.dictionaries(st.text(max_size=6), _values(), max_size=1)).map(
        lambda pair: {**pair[0], **(pair[1] if len(pair[0]) % 3 == 0 else {})}
    )


STUDY = {
    "name": "x", "seeds": [0, 1], "data": {"name": "digits", "root": "x", "subset": 100, "image_size": 16, "download": False},
    "transfer": [{"name": "digits"}],
    "train": {"arch": "convnet", "epochs": 3, "batch": 64, "lr": 0.1, "projector": [8, 4], "record": ["shift"],
              "record_every": 1},
    "grid": [{"method": ["simclr", "ssa-clr"], "tau": [0.2, 0.5], "rho": 0.1, "views": "simclr", "alpha": 1.0, "window": 2}],
    "score": {"measures": ["downstream"], "seed": 0, "set": {"curvature": {"top": 3}}},
    "link": {"target": "downstream.probe_accuracy", "sharpness": ["curvature.lambda_max"], "draws": 100, "permutations": 99,
             "seed": 0},
}  # fmt: skip
LAYOUT = {
    "summary": "x", "source": "x", "places": ["state_dict", "a.*"], "top": ["a"], "prefix": "online\\.",
    "anchor": "conv1\\.weight$",
    "kernel": 3, "widths": [64], "keys": ["{p}head\\.0\\.weight"], "without": ["x"],
    "names": [["{p}(conv1|bn1)\\.", "backbone.\\1."]],
    "left_over": [["^target\\.", "momentum network"]], "family": "resnet", "certainty": "likely",
    "recipe": {"normalisation": "cifar10", "stem_stride": 1, "max_pool": False, "heads": 3, "norm_eps": 1e-6},
    "loss": {"tau": 0.2},
}  # fmt: skip


def _config_texts(times: int, known: dict[str, Any], whole: bytes) -> list[bytes]:
    """Two thirds from the grammar, the others by mutation of a good file."""
    count = times * 2 // 3
    made = [to_toml(value).encode(errors="replace") for value in drawn(_tables(known), count)]
    return made + many(
        times - count, lambda rng: mutated(whole, rng, (b"[[grid]]", b"[" * 50, b"a" + b".a" * 200, b"'''", b"nan"))
    )


@trial("hostile", "study files with wrong types, names and sizes", CLEAN, few=60, many=2000)
def fuzzed_studies(tally: Tally, times: int, folder: Path) -> None:
    whole = (ROOT / "studies" / "smoke.toml").read_bytes()

    def read(content: bytes) -> str:
        (folder / "x.toml").write_bytes(content)
        study = read_study(folder / "x.toml")
        for name in (study.name, *(run.name for run in study.runs)):
            assert Path(name).name == name, name
            assert len(os.fsencode(name)) <= 200, name
        return "read"

    try_all(tally, _config_texts(times, STUDY, whole), read)


@trial("hostile", "layout files with wrong types and patterns that would match for ever", CLEAN, few=100, many=2000)
def fuzzed_layouts(tally: Tally, times: int, folder: Path) -> None:
    from ssa_analysis.checkpoints.loading import load_checkpoint

    whole = to_toml(LAYOUT).encode()
    patterns = [
        "(a+)+$", "(a|a)+$", "(a|aa)*b", "(?:.*)*x", "a{9}{9}{9}{9}", "(" * 300+")" * 300, ".*" * 6+"b", "(a?){60}a{60}",
        "(?P<x>a)(?P=x)", "[a-z]+" * 30, "(?i)a", "a**", "[", "(?<=a+)b", "(.*)(.*)(.*)(.*)x", "x" * 2000, "(?(1)a|b)",
        "\\99",
    ]  # fmt: skip
    torch.save({"a" * 400: torch.zeros(2), "conv1.weight": torch.zeros(2, 3, 3, 3)}, folder / "long.pt")

    def with_pattern(rng: np.random.Generator) -> bytes:
        pattern = patterns[rng.integers(0, len(patterns))] + (
            "" if rng.random() < 0.5 else patterns[rng.integers(0, len(patterns))]
        )
        key = str(rng.choice(["prefix", "anchor", "keys", "without", "names", "left_over"]))
        value: Any = (
            pattern
            if key in ("prefix", "anchor")
            else [pattern]
            if key in ("keys", "without")
            else [[pattern, "backbone.\\1\\9"]]
        )
        return to_toml({"names": [["(.)", "backbone.\\1"]], key: value}).encode()

    def read(content: bytes) -> str:
        (folder / "x.toml").write_bytes(content)
        read_layout(folder / "x.toml")
        load_checkpoint(folder / "long.pt", load_options(layout=str(folder / "x.toml")))
        return "read"

    third = times // 3
    try_all(tally, _config_texts(times - third, LAYOUT, whole) + many(third, with_pattern), read)


@trial(
    "hostile",
    "TOML that takes a parser long, deep or far: dotted names, nested arrays, numbers of megabytes",
    CLEAN,
    few=12,
    many=120,
)
def heavy_toml(tally: Tally, times: int, folder: Path) -> None:
    def texts(size: int) -> list[str]:
        return [
            "a" + ".a" * (size // 2) + "=1", "a=" + "[" * size, "a=" + "{a=" * (size // 3), "a=" + "9" * size,
            "a=[" + "1," * (size // 2) + "]",
            "[" + ".".join("a" * (size // 2)) + "]", '"' + "x" * size, "[[a]]\n" * (size // 6),
            "\n".join(f"k{n}=1" for n in range(size // 8)),
            "a=1979-05-27T07:32:00." + "9" * size, "#" * size, "a='''" + "''\\" * (size // 3),
        ]  # fmt: skip

    def read(content: bytes) -> str:
        (folder / "x.toml").write_bytes(content)
        with contextlib.suppress(SettingsError):
            read_study(folder / "x.toml")
        read_layout(folder / "x.toml")
        return "read"

    inputs = [texts(1 << (20 - number // 12 % 10))[number % 12].encode() for number in range(times)]
    try_all(tally, inputs, read)


@trial(
    "hostile",
    "texts of options: --set, --recipe, --fail-if, --time-budget, --model, --normalise, --layout",
    CLEAN,
    few=150,
    many=3000,
)
def fuzzed_options(tally: Tally, times: int, folder: Path) -> None:
    from hypothesis import strategies as st
    from ssa_analysis.cli.common import parse_settings

    word = st.one_of(st.sampled_from(ODD), st.text(max_size=12), st.integers().map(str), st.floats().map(str))
    names = sorted({f"{name}.{field}" for name, row in MEASURES for field in row.settings.__dataclass_fields__})
    recipe = (
        "normalisation",
        "stem_stride",
        "stem_padding",
        "max_pool",
        "heads",
        "norm_eps",
        "pool",
        "image_size",
        "feature_layer",
        "x",
    )

    def assignment(text: str) -> None:
        chosen = parse_settings((text,))
        measure_settings(list(chosen), 0, {}, chosen)

    kinds: list[tuple[Callable[[str], object], Any]] = [
        (assignment, st.tuples(st.sampled_from(names), word).map("=".join)), (assignment, word),
        (lambda text: load_options(recipe=(text,)), st.tuples(st.sampled_from(recipe), word).map("=".join)),
        (parse_condition, st.tuples(word, st.sampled_from([">", "<=", "=", ""]), word).map(" ".join)),
        (parse_duration, st.lists(st.tuples(word, st.sampled_from(["h", "m", "s", ""])).map("".join), max_size=3).map("".join)),
        (parse_model, word), (parse_normalisation, st.lists(word, max_size=6).map(",".join)),
        (lambda text: load_options(layout=text), word),
    ]  # fmt: skip
    each = -(-times // len(kinds))
    inputs = [(number, text) for number, (_, strategy) in enumerate(kinds) for text in drawn(strategy, each)][:times]

    def read(item: tuple[int, str]) -> str:
        os.chdir(folder)  # in the child
        try:
            kinds[item[0]][0](item[1])
        except click.UsageError as error:
            raise SettingsError(error.message) from error
        return "taken"

    try_all(tally, inputs, read)
