"""Trials of the group "hostile": many inputs that are nearly right, for every reader of files."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from children import MIB, try_all
from mutations import many, mutated, mutated_json, mutated_safetensors, mutated_zip
from PIL import Image
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from trial import Tally, trial

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.reading import read_file
from ssa_analysis.data.datasets import load_data
from ssa_analysis.data.further_sets import load_further_set
from ssa_analysis.errors import CheckpointError
from ssa_analysis.measures.corruption_baseline import load_baseline
from ssa_analysis.models.backbones import ResNet, ResNetPlan, Stem, build_backbone
from ssa_analysis.models.encoder import Encoder, Projector
from ssa_analysis.running.histories import training_history
from ssa_analysis.running.plan import Cell, CellResult
from ssa_analysis.running.store import Store
from ssa_analysis.scores import Score
from ssa_analysis.training.settings import TrainSettings

CLEAN = "a clean error or a right result each time; no traceback, at most 10 s, memory within the bound of docs/security.md"
TINY = TrainSettings(arch="convnet", width=4, projector=(8, 4), epochs=1, batch=64, warmup=0, knn_every=0)


def checkpoint_memory(content: bytes) -> int:
    """The bound of docs/security.md for a checkpoint."""
    return 6 * len(content) + 512 * MIB


def data_memory(content: bytes) -> int:
    """The bound of docs/security.md for an archive of images."""
    return 5 * (200 * len(content) + 64 * MIB)


def _state() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=rng), "bn.running_mean": torch.randn(4, generator=rng),
        "bn.num_batches_tracked": torch.tensor(7), "half": torch.randn(6, generator=rng).half(),
    }  # fmt: skip


def _small_resnet() -> dict[str, torch.Tensor]:
    """A ResNet-18 of two channels, by torchvision's names, in a file of some kilobytes."""
    state: dict[str, torch.Tensor] = ResNet(ResNetPlan(False, (2, 2, 2, 2), 2, Stem())).state_dict()
    return state


def _torch_file(content: Any, new: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=new)
    return stream.getvalue()


def _convnet() -> dict[str, Any]:
    """What ssa-analyze train writes, of an encoder of a few weights."""
    backbone = build_backbone("convnet", 2)
    encoder = Encoder(backbone, Projector((8, 4)), (0.5,) * 3, (0.5,) * 3)
    return {
        "format": "ssa-analyze", "version": 1,
        "encoder": {"arch": "convnet", "width": 2, "stem": "cifar", "projector": [4], "mean": [0.5] * 3, "std": [0.5] * 3},
        "model": encoder.state_dict(), "recipe": {"flip": 0.5, "fourier": {"alpha": 1.0}}, "loss": {"tau": 0.5, "beta": None},
        "training": {"settings": {"method": "simclr", "epochs": 3, "tau": 0.5, "beta": None}, "epoch": 3, "loss": 1.5,
                     "data": {"name": "digits", "fingerprint": "f" * 16}},
    }  # fmt: skip


def _files(folder: Path, suffix: str, reader: Callable[[Path], Any], check: Callable[[bytes, Any], str] | None = None) -> Any:
    """A function of bytes that writes them into a file and reads it."""
    path = folder / f"x{suffix}"

    def read(content: bytes) -> str:
        path.write_bytes(content)
        found = reader(path)
        return check(content, found) if check else "read"

    return read


@trial("hostile", "fuzzed torch files", CLEAN, few=100, many=3000)
def fuzzed_torch_files(tally: Tally, times: int, folder: Path) -> None:
    plain = {"args": argparse.Namespace(lr=1), "model": _state(), "epoch": 3, "scale": np.float64(2), "array": np.arange(5)}
    kinds = [_torch_file(plain), _torch_file(_convnet())]
    legacy, pickled = _torch_file(plain, new=False), pickle.dumps({"model": {k: v.numpy() for k, v in _state().items()}})

    def make(rng: np.random.Generator) -> bytes:
        kind = rng.integers(0, 4)
        return mutated_zip(kinds[kind], rng) if kind < 2 else mutated(legacy if kind == 2 else pickled, rng, (legacy, pickled))

    try_all(tally, many(times, make), _files(folder, ".pt", read_file), memory=checkpoint_memory)


@trial("hostile", "fuzzed checkpoints of ssa-analyze and of other layouts, recognised and built", CLEAN, few=60, many=1500)
def fuzzed_recognition(tally: Tally, times: int, folder: Path) -> None:
    own = _convnet()
    foreign = _small_resnet()

    def make(rng: np.random.Generator) -> bytes:
        if rng.random() < 0.6:
            part = str(rng.choice(["encoder", "recipe", "loss", "training"]))
            return _torch_file({**own, part: mutated_json(own[part], rng)})
        state: dict[Any, Any] = dict(foreign)
        for _ in range(int(rng.integers(1, 4))):
            key = list(state)[rng.integers(0, len(state))]
            new = re.sub(r"\d+", lambda m: str(rng.choice([0, 1, 7, 10**6, 10**18])), key) if rng.random() < 0.5 else key
            size = [int(n) for n in rng.choice([0, 1, 2, 3, 7, 64], int(rng.integers(0, 5)))]
            state[new] = torch.zeros(size) if rng.random() < 0.7 else torch.zeros(1).expand(1000, 1000)
        return _torch_file(state if rng.random() < 0.7 else {"state_dict": state})

    try_all(tally, many(times, make), _files(folder, ".pt", load_checkpoint), memory=checkpoint_memory)


@trial("hostile", "fuzzed safetensors files, compared with the library's own reader", CLEAN, few=100, many=2000)
def fuzzed_safetensors(tally: Tally, times: int, folder: Path) -> None:
    whole = save_safetensors({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.int16), "c": torch.empty(0)})

    def check(content: bytes, found: dict[str, torch.Tensor]) -> str:
        theirs = load_safetensors(content)
        assert found.keys() == theirs.keys()
        assert all(torch.equal(found[k].reshape(-1).view(torch.uint8), theirs[k].reshape(-1).view(torch.uint8)) for k in theirs)
        return "read as the library reads them"

    path = folder / "x.safetensors"

    def read(content: bytes) -> str:
        path.write_bytes(content)
        try:
            found = read_file(path)
        except CheckpointError as error:
            with contextlib.suppress(Exception):  # whatever the library raises
                load_safetensors(content)
                raise SystemExit(f"refused, but the library takes it: {error}") from error
            raise
        return check(content, found)

    try_all(tally, many(times, lambda rng: mutated_safetensors(whole, rng)), read, memory=checkpoint_memory)


@trial(
    "hostile",
    "fuzzed folders of Hugging Face: config.json, preprocessor_config.json, an index of shards",
    CLEAN,
    few=50,
    many=1000,
)
def fuzzed_hugging_face(tally: Tally, times: int, folder: Path) -> None:
    (folder / "model-1.safetensors").write_bytes(save_safetensors(_small_resnet()))
    config = {
        "hidden_act": "relu", "image_size": 32, "downsample_in_bottleneck": False,
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32]},
    }  # fmt: skip
    images = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    index = {"weight_map": dict.fromkeys(_small_resnet(), "model-1.safetensors")}
    contents = {"config.json": config, "preprocessor_config.json": images, "model.safetensors.index.json": index}

    def make(rng: np.random.Generator) -> bytes:
        files = {}
        for name, content in contents.items():
            text = json.dumps(mutated_json(content, rng) if rng.random() < 0.5 else content).encode()
            files[name] = (mutated(text, rng) if rng.random() < 0.2 else text).hex()
        return json.dumps(files).encode()

    def read(content: bytes) -> str:
        for name, text in json.loads(content).items():
            (folder / name).write_bytes(bytes.fromhex(text))
        load_checkpoint(folder)
        return "read"

    try_all(tally, many(times, make), read, memory=checkpoint_memory)


@trial("hostile", "fuzzed .npz data sets and test sets", CLEAN, few=100, many=2000)
def fuzzed_archives(tally: Tally, times: int, folder: Path) -> None:
    stream, packed = io.BytesIO(), io.BytesIO()
    x = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    np.savez(stream, x=x, y=np.arange(9) % 2)
    np.savez_compressed(packed, x=x, y=np.arange(9) % 2)
    wholes = (stream.getvalue(), packed.getvalue())
    inputs = many(times, lambda rng: mutated_zip(wholes[rng.integers(0, 2)], rng))
    try_all(tally, inputs, _files(folder, ".npz", lambda path: load_data(str(path), image_size=4)), memory=data_memory)


@trial("hostile", "fuzzed .npy arrays: official corruptions and test sets", CLEAN, few=50, many=1000)
def fuzzed_arrays(tally: Tally, times: int, folder: Path) -> None:
    from ssa_analysis.data.corruptions.sources import open_corruptions

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 4, 4, 3), dtype=np.uint8), np.arange(30) % 2
    np.savez(folder / "data.npz", x=x, y=y)
    data = load_data(str(folder / "data.npz"))
    stream = io.BytesIO()
    np.save(stream, np.tile(x, (5, 1, 1, 1)))
    whole = stream.getvalue()
    (folder / "C").mkdir()
    np.save(folder / "set_labels.npy", np.tile(y, 5))
    np.save(folder / "C" / "labels.npy", np.tile(y, 5))
    labels = (folder / "C" / "labels.npy").read_bytes()

    def read(content: bytes) -> str:
        which, content = content[0], content[1:]
        if which == 0:
            (folder / "set_data.npy").write_bytes(content)
            load_further_set(folder / "set_data.npy", data)
        else:
            (folder / "C" / "brightness.npy").write_bytes(content if which == 1 else whole)
            (folder / "C" / "labels.npy").write_bytes(content if which == 2 else labels)
            open_corruptions(folder / "C", data)
        return "read"

    def make(rng: np.random.Generator) -> bytes:
        which = int(rng.integers(0, 3))
        content = labels if which == 2 else whole
        head = content[:128] if rng.random() < 0.7 else content  # the header, most of the time
        return bytes([which]) + mutated(head, rng) + content[len(head) :]

    try_all(tally, many(times, make), read, memory=data_memory)


@trial("hostile", "fuzzed images of every format that is read", CLEAN, few=100, many=2000)
def fuzzed_images(tally: Tally, times: int, folder: Path) -> None:
    from ssa_analysis.data.files import decode

    wholes = []
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    for kind in ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF", "EPS", "PDF", "ICO", "TGA"):
        stream = io.BytesIO()
        picture.save(stream, kind)
        wholes.append(stream.getvalue())
    inputs = many(times, lambda rng: mutated(wholes[rng.integers(0, len(wholes))], rng, tuple(wholes)))
    reader = partial(_decoded, decode)
    try_all(tally, inputs, _files(folder, ".png", reader), memory=lambda content: 1024 * MIB)


def _decoded(decode: Callable[..., Any], path: Path) -> Any:
    return decode([path], 8)


def store_of(folder: Path) -> Path:
    """A store with all that a cell can have."""
    path = folder / "seed.db"
    training = {"settings": TINY.to_dict(), "epoch": 1, "loss": 1.0, "data": {"name": "digits", "fingerprint": "f" * 16}}
    with Store(path) as store:
        for number in range(3):
            for measure, name in (("downstream", "probe_accuracy"), ("curvature", "lambda_max")):
                cell = Cell(f"runs/{number}/last.pt", f"{number}" * 64, measure, {"seed": 0}, "digits", "f" * 16, "0.1.0/1")
                score = Score(measure, name, 0.5 + number, "share", 0.1, 0.3, 0.7, settings={"mark": ""}, arrays={"a": [1.0]})
                store.write(CellResult(cell, [score], seconds=1.0))
        failed = Cell("runs/0/last.pt", "0" * 64, "shift", {"seed": 0}, "digits", "f" * 16, "0.1.0/1")
        store.write(CellResult(failed, error="no"))
        report = {"layout": "ssa-analyze", "arch": "convnet", "parameters": 7, "training": training}
        store._db.execute("UPDATE checkpoints SET report = ?, method = 'simclr'", (json.dumps(report),))
    return path


def _read_store(path: Path) -> str:
    with Store(path, must_exist=True) as store:
        store.frame()
        store.failures()
        training_history(store.checkpoints(), path.parent)
        store.environments()
        store.data_names()
    return "read"


@trial("hostile", "fuzzed stores: bytes of the file, and values of another kind in its columns", CLEAN, few=100, many=2000)
def fuzzed_stores(tally: Tally, times: int, folder: Path) -> None:
    import sqlite3

    seed = store_of(folder)
    whole = seed.read_bytes()
    columns = [
        (table, row[1], row[2])
        for table in ("checkpoints", "environments", "cells", "scores")
        for row in sqlite3.connect(seed).execute(f"PRAGMA table_info({table})")
        if row[1] not in ("id", "cell", "sha256", "environment", "key")
    ]
    strange: tuple[Any, ...] = (
        None, -1, 2**62, 1e999, "", "x", "[]", "{}", "[" * 3000, '"\\ud800"', '{"a": "\\ud800"}', '{"training": []}', b"\xff",
        '{"training": {"settings": [], "epoch": "x"}}', '{"training": {"epoch": "x"}}', "9" * 5000, "'; DROP TABLE scores; --",
        "a\0b",
        '{"packages": 3}', "nan",
    )  # fmt: skip

    def make(rng: np.random.Generator) -> bytes:
        if rng.random() < 0.4:
            return b"F" + mutated(whole, rng)
        table, column, _ = columns[rng.integers(0, len(columns))]
        return b"V" + json.dumps([table, column, int(rng.integers(0, len(strange)))]).encode()

    path = folder / "x.db"

    def read(content: bytes) -> str:
        path.write_bytes(content[1:] if content[:1] == b"F" else whole)
        if content[:1] == b"V":
            table, column, which = json.loads(content[1:])
            try:
                with sqlite3.connect(path) as db:
                    db.execute(f"UPDATE {table} SET {column} = ?", (strange[which],))
                db.close()
            except sqlite3.Error:  # what the schema does not allow
                return "not to be written"
        return _read_store(path)

    try_all(tally, many(times, make), read)


@trial("hostile", "fuzzed log.csv, records.csv and baselines", CLEAN, few=60, many=1000)
def fuzzed_tables(tally: Tally, times: int, folder: Path) -> None:
    import pandas as pd

    from ssa_analysis.training.logs import keep_rows, last_row

    log = b"epoch,step,loss,lr,knn,seconds\r\n1,7,2.5,0.1,,3.0\r\n2,14,2.25,0.1,0.5,3.0\r\n"
    records = (
        b"epoch,measure,name,value,stderr,low,high,unit,converged,seconds,error\r\n"
        b"1,shift,gaussian_w2,0.5,0.1,0.3,0.7,,1,0.1,\r\n2,shift,,,,,,,,0.1,no\r\n"
    )
    baseline = b"corruption,error\r\nfog,0.5\r\nclean,0.1\r\n"
    found = [{"checkpoint": "a", "measure": "robustness", "name": "error_fog", "value": 0.5}]
    checkpoints = pd.DataFrame({"path": [str(folder / "run" / "last.pt")], "checkpoint": ["a"], "method": ["simclr"]})
    (folder / "run").mkdir()

    def make(rng: np.random.Generator) -> bytes:
        which = int(rng.integers(0, 4))
        if which == 3:
            return b"3" + json.dumps(mutated_json(found, rng)).encode()
        return str(which).encode() + mutated(
            (log, records, baseline)[which], rng, (b"\0", b'"', b"," * 40, b"9" * 400, b"nan,inf")
        )

    def read(content: bytes) -> str:
        name = ("run/log.csv", "run/records.csv", "base.csv", "base.json")[int(content[:1])]
        (folder / name).write_bytes(content[1:])
        if name.startswith("base"):
            load_baseline(str(folder / name), 10)
        else:
            training_history(checkpoints)
            keep_rows(folder / name, ("epoch", "step", "loss", "lr", "knn", "seconds"), 5)
            if name.endswith("log.csv"):
                last_row(folder / "run")
        return "read"

    try_all(tally, many(times, make), read)


def _no_atheris() -> str:
    return "" if importlib.util.find_spec("atheris") else "atheris is not installed: pip install 'ssa-analysis[fuzz]'"


@trial(
    "hostile", "inputs that atheris finds, led by the code that they reach: pickles, torch files, safetensors, .npz, TOML",
    CLEAN, few=2, many=25, absent=_no_atheris,
)  # fmt: skip
def guided_readers(tally: Tally, times: int, folder: Path) -> None:
    """Each time one reader gets a thousand inputs in a process of its own."""
    script = Path(__file__).with_name("guided.py")
    readers = ("pickle", "torch", "safetensors", "npz", "toml")
    for number in range(times):
        place = folder / str(number)
        place.mkdir()
        reader = readers[number % len(readers)]
        runs = 1000 if times > len(readers) else 300
        command = [sys.executable, str(script), reader, f"-runs={runs}", f"-seed={number + 1}", "-timeout=30",
                   "-rss_limit_mb=4096", "-max_len=8192", f"-artifact_prefix={place}/", str(place / "corpus")]  # fmt: skip
        (place / "corpus").mkdir()
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=900, env={**os.environ, "PYTHONWARNINGS": "ignore"}
        )
        crashed = next(iter(place.glob("*-*")), None)
        problem = ""
        if done.returncode or crashed:
            content = crashed.read_bytes().hex()[:4000] if crashed else ""
            problem = f"{reader}, seed {number + 1}: {done.stderr[-600:]}; input {content}"
        tally.count(f"times {runs} inputs of {reader}", problem)
        shutil.rmtree(place)
