"""Reading: nothing in a file is ever run, and every bad file is one line that names it."""

from __future__ import annotations

import io
import operator
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.reading import file_hash, read_file
from ssa_analysis.errors import CheckpointError

Save = Callable[..., Path]


class Call:
    """An object whose pickle calls ``function(*arguments)`` when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, Any]:
        return self.call


def attacks(canary: Path) -> dict[str, Any]:
    """Objects that would create ``canary`` on loading, alone or inside an otherwise good state dict."""
    touch = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, f"touch {canary}"),
        "exec": {"state_dict": {"conv1.weight": torch.zeros(2), "evil": Call(exec, touch)}},
        "eval": [torch.zeros(2), Call(eval, touch)],
        "nested": {"model": Call(list, Call(map, Call(eval, f"lambda _: {touch}"), [1]))},
        "method": Call(Path.touch, canary),
    }


ATTACKS = tuple(attacks(Path()))


def test_the_attacks_work_where_they_are_not_refused(tmp_path: Path) -> None:
    """Otherwise the tests below would prove nothing."""
    for name in ATTACKS:
        canary = tmp_path / name
        pickle.loads(pickle.dumps(attacks(canary)[name]))
        assert canary.exists(), name


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("way", ["zip", "legacy", "pickle-0", "pickle-2", "pickle-4", "pickle-5"])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path: Path, attack: str, way: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    content = attacks(canary)[attack]
    if way.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(way[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "zip")
    for read in (read_file, load_checkpoint):
        with pytest.raises(CheckpointError, match=r"evil\.pt: .*nothing was executed") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert not canary.exists()


def test_the_refusal_names_what_the_file_asks_for(tmp_path: Path) -> None:
    evil = attacks(tmp_path / "canary")
    for content, named in (
        (evil["os.system"], f"{os.name}.system"),
        (evil["exec"], "exec"),
        (evil["method"], "pathlib.Path.touch"),
        ({"lr": Call(torch.nn.functional.relu, torch.zeros(1))}, "torch.nn.functional.relu"),
        ({"lr": Call(operator.attrgetter("x"))}, "operator.attrgetter"),
    ):
        torch.save(content, tmp_path / "foreign.pt")
        with pytest.raises(CheckpointError, match=rf"refused: the file asks to load '{named}', which is not a"):
            read_file(tmp_path / "foreign.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pt", b"", "the file is empty"),
        ("empty.safetensors", b"", "the file is empty"),
        ("text.pt", b"hello\n", "truncated"),
        ("page.pth", b"<html>404</html>", "truncated"),
        ("pointer.ckpt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "truncated"),
        ("start.pt", b"PK\x03\x04", "truncated"),
        ("text.safetensors", b"{}", "truncated or not a safetensors file"),
        ("huge.safetensors", b"\xff" * 64, "truncated or not a safetensors file"),
    ],
)
def test_what_is_no_checkpoint_is_named_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (read_file, load_checkpoint):
        with pytest.raises(CheckpointError, match=f"{name}: {message}") as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such file"):
        read_file(tmp_path / "gone.pt")
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such file"):
        load_checkpoint(tmp_path / "gone.pt")
    with pytest.raises(CheckpointError, match=r"cannot be read \(No such file"):
        file_hash(tmp_path / "gone.pt")
    with pytest.raises(CheckpointError, match="the folder holds no checkpoint"):
        load_checkpoint(tmp_path)


def test_the_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_hash(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_refused(tmp_path: Path, save: Save, payload: dict[str, Any], kind: str, share: float) -> None:
    path = tmp_path / f"cut.{'safetensors' if kind == 'safetensors' else 'pt'}"
    if kind == "safetensors":
        save_file(payload["model"], path)
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    read_file(path)
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"cut\.(pt|safetensors): truncated"):
        read_file(path)


def test_safetensors_come_back_as_they_were(tmp_path: Path, payload: dict[str, Any]) -> None:
    save_file(payload["model"], tmp_path / "good.safetensors")
    read = read_file(tmp_path / "good.safetensors")
    assert read.keys() == payload["model"].keys()
    assert all(torch.equal(read[key], tensor) for key, tensor in payload["model"].items())


def test_plain_values_and_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, "text", None, True], "b": (1, {"c": torch.arange(3)}), "d": torch.ones(2, dtype=torch.float16)}
    for new in (True, False):
        torch.save(content, tmp_path / "plain.pt", _use_new_zipfile_serialization=new)
        read = read_file(tmp_path / "plain.pt")
        assert read["a"] == content["a"]
        assert read["b"][1]["c"].tolist() == [0, 1, 2]
        assert read["d"].dtype == torch.float16


def flat_tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [tensor for item in items for tensor in flat_tensors(item)]


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damage_never_ends_in_a_traceback(tmp_path: Path, save: Save, payload: dict[str, Any], kind: str) -> None:
    """400 random cuts and byte flips, half of the flips in the structure at the start: an error for people or tensors."""
    if kind == "safetensors":
        path = tmp_path / "damaged.safetensors"
        save_file(payload["model"], path)
    elif kind == "zip":
        path = save(payload, "damaged.pt")
    else:
        path, buffer = tmp_path / "damaged.pt", io.BytesIO()
        torch.save({"format": "ssa-analyze", **payload}, buffer, _use_new_zipfile_serialization=False)
        path.write_bytes(buffer.getvalue())
    good, rng, refusals = path.read_bytes(), np.random.default_rng(0), []
    for case in range(400):
        damaged = bytearray(good)
        if case % 4 == 0:
            damaged = damaged[: rng.integers(1, len(good))]
        else:
            reach = len(good) if case % 2 else min(len(good), 4000)
            for place in rng.integers(reach, size=3):
                damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        for read in (read_file, load_checkpoint):
            try:
                result = read(path)
            except CheckpointError as error:
                refusals.append(str(error))
            else:
                tensors = flat_tensors(result) if read is read_file else list(result.encoder.state_dict().values())
                assert tensors
    assert 200 <= len(refusals) < 800  # few damages of an archive go unseen: its records have checksums
    assert all(text.startswith(f"{path}: ") and "\n" not in text for text in refusals)
