"""Safetensors headers, architectures larger than their file, patterns and recipes of somebody else, indexes that climb."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssa_analysis.checkpoints import containers
from ssa_analysis.checkpoints.finding import find_checkpoints
from ssa_analysis.checkpoints.folders import shards
from ssa_analysis.checkpoints.layouts.row import Recipe
from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.options import layout_from_dict
from ssa_analysis.checkpoints.reading import read_file
from ssa_analysis.checkpoints.regular import check_pattern
from ssa_analysis.checkpoints.writing import save_checkpoint
from ssa_analysis.errors import CheckpointError, SettingsError

KINDS = (
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "uint16", "uint32", "uint64",
    "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip


def header(about: Any, content: bytes = b"") -> bytes:
    text = about if isinstance(about, bytes) else json.dumps(about).encode()
    return len(text).to_bytes(8, "little") + text + content


def test_safetensors_of_every_type_are_as_the_library_reads_them(tmp_path: Path) -> None:
    state = {kind: (torch.arange(7) % 2).to(getattr(torch, kind)) for kind in KINDS}
    state |= {"none": torch.empty(0, 3), "one": torch.tensor(3.0)}
    save_file(state, tmp_path / "x.safetensors", metadata={"a": "b"})
    found, known = read_file(tmp_path / "x.safetensors"), load_file(tmp_path / "x.safetensors")
    assert found.keys() == known.keys()
    for name, tensor in known.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


ONE = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((2**31).to_bytes(8, "little") + b"{}", "2,147,483,648 bytes, which is more than the file has"),
        (header({"a": ONE}, b"abc"), "1 bytes at its end belong to no tensor"),
        (header({"a": ONE}, b"a"), "reaches beyond the file"),
        (header({"a": {**ONE, "shape": [3]}}, b"ab"), "not where or as large"),
        (header({"a": {**ONE, "data_offsets": [1, 3]}}, b"abc"), "not where or as large"),
        (header({"a": ONE, "b": ONE}, b"ab"), "not where or as large"),
        (header({"a": {**ONE, "shape": [-2]}}, b"ab"), "impossible shape"),
        (header({"a": {**ONE, "shape": [True, 2]}}, b"ab"), "impossible shape"),
        (header({"a": {**ONE, "dtype": ["U8"]}}, b"ab"), "unknown type"),
        (header({"a": 3}), "not described"),
        (header(b'{"a": 1, "a": 2}'), "its header is no JSON"),
        (header(b"[" * 10_000), "no header"),
        (header(b'{"a":' + b"[" * 10_000), "its header is no JSON"),
        (header(b"{" + b'"a":{},' * 300_000 + b'"b":1}'), "far more than it holds"),
    ],
)
def test_a_safetensors_header_that_lies(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_file(tmp_path / "x.safetensors")


def test_a_header_of_two_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((2**31).to_bytes(8, "little") + b"{")
    os.truncate(path, 2**31 + 8)
    started = time.process_time()
    with pytest.raises(CheckpointError, match="far more than it holds"):
        read_file(path)
    assert time.process_time() - started < 1


def test_a_file_larger_than_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(100)}, tmp_path / "x.pt")
    monkeypatch.setattr(containers, "_memory", lambda: 1000)
    with pytest.raises(CheckpointError, match="more than can be read"):
        read_file(tmp_path / "x.pt")


def own(tiny_checkpoint: Path, **changes: Any) -> dict[str, Any]:
    return {**torch.load(tiny_checkpoint, weights_only=True), **changes}


@pytest.mark.parametrize("change", [{"width": 4000}, {"arch": "resnet50", "width": 10_000}, {"projector": [10**6, 10**6]}])
def test_an_architecture_larger_than_its_file_is_not_built(tiny_checkpoint: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    content = own(tiny_checkpoint)
    save_checkpoint(tmp_path / "x.pt", {**content, "encoder": {**content["encoder"], **change}})
    with pytest.raises(CheckpointError, match=r"the architecture that it names has [\d,]{9,} weights, and the file"):
        load_checkpoint(tmp_path / "x.pt")


def test_a_resnet_of_views_of_one_number_is_not_built(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    state = dict(resnet18().state_dict())
    state["layer1.0.conv1.weight"] = torch.zeros(1).expand(9000, 64, 3, 3)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="the architecture that it names has"):
        load_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("strange", [torch.zeros(2), {3: 4}, 10**30, [[[[[[[[[[[[1]]]]]]]]]]]], {"a": b"x"}])
def test_a_training_record_that_no_store_can_keep(tiny_checkpoint: Path, tmp_path: Path, strange: Any) -> None:
    content = own(tiny_checkpoint)
    save_checkpoint(tmp_path / "x.pt", {**content, "training": {**content["training"], "more": strange}})
    with pytest.raises(CheckpointError, match="more than names, numbers and texts"):
        load_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["", ".", "..", "../x.bin", "/x.bin", "a/b", "a\0b", "model.safetensors.index.json"])
def test_an_index_that_climbs(tmp_path: Path, name: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="which is no file beside it"):
        shards(index)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|a)+$", "(a|aa)*b", "(?:.*)*x", "(a?){50}a{50}", "(a{1,9}){5}", ".*a.*b.*c.*d", "x" * 301, "(" * 40 + ")" * 40,
     "(?(1)a|b)",
     "(?=(a+))+", "((ab|cd)e)*", "[", "a**", "a{99999999999}"],
)  # fmt: skip
def test_a_pattern_that_may_match_for_ever_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [r"online\.", r"{p}(conv1|bn1|layer\d)\.".replace("{p}", ""), r"^head\.\d+\.", r"(\w+)\.(\d+)", "(ab){3}", "a?b?c?"],
)
def test_ordinary_patterns_are_taken(pattern: str) -> None:
    check_pattern(pattern)


def test_the_longest_match_of_a_permitted_pattern_is_quick() -> None:
    import re

    started = time.process_time()
    assert re.match(r"(.*)(.*)(.*)x", "a" * 500) is None
    assert time.process_time() - started < 10


def test_prefix_and_anchor_are_checked_together() -> None:
    names = [["(.)", "backbone.\\1"]]
    with pytest.raises(SettingsError, match="prefix and anchor"):
        layout_from_dict({"prefix": ".*a.*", "anchor": ".*b.*", "names": names})
    with pytest.raises(SettingsError, match="prefix and anchor"):
        layout_from_dict({"prefix": "a", "anchor": "(?i)b", "names": names})


def test_a_state_dict_with_a_name_that_is_too_long(tmp_path: Path) -> None:
    torch.save({"a" * 501: torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="one of more than 500 characters"):
        load_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "change", ["stem_padding=99999", "stem_stride=0", "heads=100000", "norm_eps=nan", "image_size=-3", "position_offset=inf"]
)
def test_settings_of_a_recipe_have_ranges(change: str) -> None:
    name, _, value = change.partition("=")
    with pytest.raises(SettingsError, match=f"the recipe's {name} is between"):
        Recipe().changed({name: value})


def test_links_in_a_circle_and_names_of_nobody(tmp_path: Path) -> None:
    (tmp_path / "x.pt").symlink_to(tmp_path / "x.pt")
    for pattern in (str(tmp_path / "x.pt"), "~nobody-of-this-name/x.pt", "a\0b", "x" * 5000):
        with pytest.raises(CheckpointError):
            find_checkpoints([pattern])
