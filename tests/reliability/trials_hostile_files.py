"""Trials of the group "hostile": files that execute, unpack to terabytes, claim gigabytes, climb, or are links."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from children import MIB, try_all
from mutations import zip_of
from PIL import Image
from safetensors.torch import save as save_safetensors
from trial import Tally, trial
from trials_hostile_fuzz import _convnet, _torch_file, store_of

from ssa_analysis.checkpoints.finding import find_checkpoints
from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.writing import make_folder, write_atomically
from ssa_analysis.data.corruptions.frost import TEXTURE_FILES, load_frost_textures
from ssa_analysis.data.corruptions.sources import open_corruptions
from ssa_analysis.data.datasets import load_data
from ssa_analysis.data.files import decode
from ssa_analysis.data.further_sets import load_further_set
from ssa_analysis.errors import SettingsError, SSAError
from ssa_analysis.running.store import Store
from ssa_analysis.training.logs import keep_rows

QUICK = "a clean error each time, at most 10 s, memory within the bound of docs/security.md"


class _Call:
    """Calls a function as it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _refused(function: Callable[[], object], tally: Tally, outcome: str, check: Callable[[], str] = lambda: "") -> None:
    """Count a call that must end as a clean error, and what else must hold after it."""
    try:
        function()
    except SSAError:
        tally.count(outcome, check())
    except Exception as error:
        tally.count("tracebacks", f"{outcome}: {type(error).__name__}: {error}"[:500])
    else:
        tally.count("no error", f"{outcome}: no error")


@trial(
    "hostile", "pickles that execute, in every kind of file that may hold one", "refused; the canary is silent", few=36, many=720
)
def pickles_that_execute(tally: Tally, times: int, folder: Path) -> None:
    import builtins
    import subprocess
    import webbrowser

    canary = folder / "canary"
    touch = f"open({str(canary)!r}, 'w').close()"
    attacks: list[Any] = [
        _Call(os.system, f"touch {canary}"), _Call(builtins.exec, touch), _Call(builtins.eval, touch.replace(".close()", "")),
        _Call(subprocess.Popen, ["touch", str(canary)]), _Call(Path.touch, canary), _Call(webbrowser.open, canary.as_uri()),
        _Call(builtins.getattr, Path(), "touch"), _Call(torch.load, str(canary)), _Call(builtins.__import__, "antigravity"),
    ]  # fmt: skip
    places: list[Callable[[Any], Any]] = [
        lambda x: x,
        lambda x: {"state_dict": {"a": torch.zeros(2)}, "x": x},
        lambda x: {"a": [(x,)]},
    ]

    def sound(kind: int, content: Any) -> tuple[str, bytes]:
        if kind == 0:
            return "x.pt", _torch_file(content)
        if kind == 1:
            return "x.pth", _torch_file(content, new=False)
        return ("x.pkl", pickle.dumps(content)) if kind == 2 else ("x.npz", _pickled_npz(content))

    for number in range(times):
        attack, kind = attacks[number % len(attacks)], number // len(attacks) % 4
        name, content = sound(kind, places[number // (4 * len(attacks)) % len(places)](attack))
        (folder / name).write_bytes(content)
        read = load_data if name.endswith(".npz") else load_checkpoint
        _refused(lambda read=read, name=name: read(str(folder / name)), tally, "refused",
                 lambda: "the canary sang" if canary.exists() else "")  # fmt: skip


def _pickled_npz(content: Any) -> bytes:
    stream, array = io.BytesIO(), np.empty(1, object)
    array[0] = content
    np.savez(stream, x=array, y=np.zeros(1, np.int64))
    return stream.getvalue()


def npy_header(shape: tuple[int, ...], dtype: str = "|u1", fortran: bool = False) -> bytes:
    """The header of an array of this shape."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _bomb(shape: tuple[int, ...], unpacked: int) -> bytes:
    """An .npz whose array has a header of this shape and this many zeros, well compressed."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy_header(shape))
        for _ in range(unpacked >> 22):
            member.write(bytes(1 << 22))
    return stream.getvalue()


@trial("hostile", "archives that unpack to far more than they are: .npz data, test sets, torch files", QUICK, few=8, many=16)
def archive_bombs(tally: Tally, times: int, folder: Path) -> None:
    few = (10, 8, 8, 3)
    long = 1 << 40
    deflated = zlib.compressobj(9, wbits=-15)
    zeros = deflated.compress(bytes(1 << 26)) + deflated.flush()
    lying = bytearray(zip_of({"x.npy": npy_header((long,)) + zeros[:100]}, zipfile.ZIP_DEFLATED))
    contents: list[tuple[str, bytes]] = [
        ("a.npz", _bomb((1 << 10, 1 << 10, 1 << 10, 3), 1 << 26)),  # 64 MiB of zeros in 65 KB
        ("b.npz", _bomb((long, long, 3), 1 << 22)), ("c.npz", _bomb(few, 1 << 26)), ("d.npz", bytes(lying)),
        ("e.npz", zip_of({"x.npy": npy_header((2**63 - 1, 2**63 - 1, 3))})),
        ("f.npz", zip_of({"x.npy": npy_header((0, 2**62, 2**62, 3)), "y.npy": npy_header((2**60,), "<i8")})),
        ("g.pt", zip_of({"a/data.pkl": b"N." + bytes(1 << 26)}, zipfile.ZIP_DEFLATED)),
        ("h.npz", zip_of({f"{number}.npy": b"" for number in range(20_000)})),
    ]  # fmt: skip

    def read(item: tuple[str, bytes]) -> str:
        path = folder / item[0]
        path.write_bytes(item[1])
        if path.suffix == ".pt":
            load_checkpoint(path)
        elif len(item[1]) % 2:
            load_data(str(path), image_size=8)
        else:
            np.savez(folder / "d0.npz", x=np.zeros((9, 4, 4, 3), np.uint8), y=np.arange(9) % 2)
            load_further_set(path, load_data(str(folder / "d0.npz")))
        raise AssertionError("no error")

    inputs = [contents[number % len(contents)] for number in range(times)]
    try_all(tally, inputs, read, memory=lambda item: 5 * (200 * len(item[1]) + 64 * MIB))


@trial("hostile", ".npy arrays whose header claims terabytes, as test sets and official corruptions", QUICK, few=12, many=60)
def array_claims(tally: Tally, times: int, folder: Path) -> None:
    np.savez(folder / "data.npz", x=np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8), y=np.arange(30) % 2)
    data = load_data(str(folder / "data.npz"))
    (folder / "C").mkdir()
    labels = np.tile(np.arange(30) % 2, 5)
    shapes = [(2**40,), (150, 2**20, 2**20, 3), (2**62, 2**62), (150, 4, 4, 3), (-1, 4, 4, 3), (150, 0, 0, 3), (10**18, 4, 4, 3)]
    types = ["|u1", "<f8", "|O", "<U1000000", "|V100000000"]

    def read(item: tuple[str, tuple[int, ...], str, bool]) -> str:
        name, shape, dtype, sparse = item
        np.save(folder / "set_labels.npy", labels)
        np.save(folder / "C" / "labels.npy", labels)
        np.save(folder / "C" / "brightness.npy", np.zeros((150, 4, 4, 3), np.uint8))
        path = folder / name
        path.write_bytes(npy_header(shape, dtype))
        if sparse:  # which takes no room on the disk
            os.truncate(path, 1 << 42)
        load_further_set(folder / "set_data.npy", data) if name.startswith("set") else open_corruptions(folder / "C", data)
        assert shape == (150, 4, 4, 3)
        return "read what is there"

    names = ("set_data.npy", "set_labels.npy", "C/brightness.npy", "C/labels.npy")
    inputs = []
    for number in range(times):
        name, shape = names[number % 4], shapes[number // 4 % len(shapes)]
        inputs.append((name, shape, types[number // 28 % len(types)], number % 3 == 0))
    np.save(folder / "set_data.npy", np.zeros((150, 4, 4, 3), np.uint8))
    try_all(tally, inputs, read)


@trial(
    "hostile", "headers of gigabytes in safetensors: claimed by a small file, and there in a sparse one", QUICK, few=6, many=60
)
def safetensors_headers(tally: Tally, times: int, folder: Path) -> None:
    whole = save_safetensors({"a": torch.zeros(3)})

    def read(item: tuple[int, int, str]) -> str:
        claimed, size, head = item
        path = folder / "x.safetensors"
        path.write_bytes(claimed.to_bytes(8, "little") + (head.encode() or whole[8:]))
        os.truncate(path, size or path.stat().st_size)
        load_checkpoint(path)
        raise AssertionError("no error")

    many_parts = "{" + '"a":{},' * 300_000 + '"b":0}'
    nested = "[" * 100_000
    forms = [(2**31, 0, ""), (2**31, 2**31 + 8, ""), (2**64 - 1, 0, ""), (len(many_parts), 0, many_parts),
             (len(nested), 0, nested),
             (2**25, 2**25 + 8, "{"), (2**62, 1 << 35, '{"a":'), (0, 0, "")]  # fmt: skip
    inputs = [forms[number % len(forms)] for number in range(times)]
    try_all(tally, inputs, read, memory=lambda item: 512 * MIB)


def png_claiming(width: int, height: int, content: bytes = b"") -> bytes:
    """A PNG of this size, grey, with this much of its content."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", content or zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@trial(
    "hostile",
    "images that are enormous, truncated, of another format, pipes, or a line of a million pixels",
    QUICK,
    few=14,
    many=56,
)
def enormous_images(tally: Tally, times: int, folder: Path) -> None:
    side = 9_400  # of as many pixels as Pillow does not even warn of
    flat = zlib.compress(b"\0" * (side + 1) * side, 9)
    canary = folder / "canary"
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n({canary}) (w) file closefile\nshowpage\n%%EOF\n"
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(stream, "JPEG")
    contents: dict[str, bytes | None] = {
        "claims.png": png_claiming(60_000, 60_000), "warned.png": png_claiming(11_000, 11_000),
        "flat.png": png_claiming(side, side, flat),
        "line.png": png_claiming(1_000_000, 1, zlib.compress(b"\0" * 1_000_001)), "none.png": png_claiming(0, 0),
        "huge.png": png_claiming(2**31 - 1, 2**31 - 1), "cut.jpg": stream.getvalue()[:300], "program.png": program.encode(),
        "huge.ppm": b"P6\n100000 100000\n255\n", "huge.bmp": b"BM" + bytes(16) + struct.pack("<ii", 60_000, 60_000) + bytes(40),
        "pipe.png": None, "empty.jpg": b"", "text.webp": b"RIFF\xff\xff\xff\xffWEBPVP8X", "huge.tif": b"II*\x00\xff\xff\xff\xff",
    }  # fmt: skip

    def read(name: str) -> str:
        place = folder / "images" / name / "class"
        place.mkdir(parents=True, exist_ok=True)
        for copy in range(3):
            file = place / f"{copy}{name}"
            content = contents[name]
            if content is None:
                file.exists() or os.mkfifo(file)
            else:
                file.write_bytes(content)
        decode([place / f"0{name}"], 8)
        raise AssertionError("no error")

    def read_folder(name: str) -> str:
        try:
            return read(name)
        except SSAError:
            load_data(str(folder / "images" / name), image_size=8)
            raise AssertionError("the folder was read") from None
        finally:
            assert not canary.exists(), "a program was run"

    names = list(contents)
    try_all(tally, [names[number % len(names)] for number in range(times)], read_folder, memory=lambda name: 1024 * MIB)


@trial(
    "hostile",
    "paths that climb: in archives, indexes of Hugging Face, names of studies and of runs",
    "refused; nothing outside is read or written",
    few=40,
    many=400,
)
def climbing_paths(tally: Tally, times: int, folder: Path) -> None:
    from ssa_analysis.running.study import study_from_dict
    from ssa_analysis.running.study_run import StudyFolder

    outside, inside = folder / "outside", folder / "inside"
    outside.mkdir()
    inside.mkdir()
    torch.save({"secret": torch.ones(3)}, outside / "secret.pt")
    before = sorted(outside.iterdir())
    climbs = ["../outside/secret.pt", str(outside / "secret.pt"), "..", ".", "", "a/../../outside/secret.pt", "./x", "x/", "\0",
              "..\\outside", "~/x", "//x", "a\nb", "x" * 300, "\x1b[2J"]  # fmt: skip
    data = {"name": "digits"}

    def stays_inside(climb: str) -> None:
        """The folders of a study's runs, whatever their settings are called."""
        study = study_from_dict({"data": data, "grid": [{"views": [f"simclr{climb}/..", climb], "strength": [0.5, 1.0]}]})
        for run in study.runs:
            if StudyFolder(inside).run(run).resolve().parent != (inside / "runs").resolve():
                raise AssertionError(f"{run.name!r} is outside")
        raise SettingsError("every run is inside")

    def attempts(climb: str) -> list[Callable[[], object]]:
        index, plain = {"weight_map": {"a": climb}}, climb.replace("\0", "0") or "x"
        (inside / "model.safetensors.index.json").write_text(json.dumps(index))
        (inside / "config.json").write_text("{}")
        (inside / "x.pt").write_bytes(zip_of({f"{plain}/data.pkl": b"]N.", f"{plain}/../data/0": b"x"}))
        (inside / "x.npz").write_bytes(zip_of({f"{plain}/x.npy": npy_header((1,)) + b"x"}))
        return [
            lambda: load_checkpoint(inside), lambda: load_checkpoint(inside / "x.pt"), lambda: load_data(str(inside / "x.npz")),
            lambda: study_from_dict({"name": climb, "data": data}),
            lambda: stays_inside(climb),
        ]  # fmt: skip

    for number in range(times):
        climb = climbs[number // 5 % len(climbs)]
        attempt = attempts(climb)[number % 5]

        def check() -> str:
            return (
                ""
                if sorted(outside.iterdir()) == before and not (folder.parent / "secret.pt").exists()
                else "something is outside"
            )

        _refused(attempt, tally, "refused", check)


@trial(
    "hostile",
    "symbolic links: in circles, as checkpoints, stores, outputs and logs",
    "no hang; a link is read through, an output that is a link is replaced and not followed",
    few=14,
    many=140,
)
def links(tally: Tally, times: int, folder: Path) -> None:
    precious = folder / "precious.txt"

    def fresh(number: int) -> Path:
        precious.write_text("precious")
        place = folder / str(number)
        place.mkdir()
        return place

    def circle(place: Path) -> str:
        picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
        for name in ("a", "b"):
            (place / "set" / name).mkdir(parents=True)
            (place / "set" / name / "round").symlink_to(place / "set")
            (place / "set" / name / "self.png").symlink_to(place / "set" / name / "self.png")
            for number in range(5):
                picture.save(place / "set" / name / f"{number}.png")
        try:
            load_data(str(place / "set"))
        except SSAError as error:
            return "" if "self.png" in str(error) else str(error)
        return "a link to itself was read"

    def looped(place: Path) -> str:
        (place / "x.pt").symlink_to(place / "x.pt")
        (place / "y").symlink_to(place / "y")
        for function in (find_checkpoints, lambda names: load_checkpoint(names[0]), lambda names: Store(names[0])):
            for name in ("x.pt", "y"):
                try:
                    function([str(place / name)])
                except SSAError:
                    continue
                return f"{name} was read"
        return ""

    def through(place: Path) -> str:
        (place / "real.pt").write_bytes(_torch_file(_convnet()))
        (place / "link.pt").symlink_to(place / "real.pt")
        same = load_checkpoint(place / "link.pt").report.sha256 == load_checkpoint(place / "real.pt").report.sha256
        return "" if same and len(find_checkpoints([str(place / "link.pt"), str(place / "real.pt")])) == 1 else "two checkpoints"

    def linked_store(place: Path) -> str:
        (place / "inner").mkdir()
        store = store_of(place / "inner")
        (place / "link.db").symlink_to(store)
        with Store(place / "link.db", must_exist=True) as found:
            return "" if len(found.frame()) == 6 else "other scores"

    def output(place: Path) -> str:
        for name in ("index.html", "log.csv", "out.csv"):
            (place / name).symlink_to(precious)
        write_atomically(place / "index.html", b"page")
        write_atomically(place / "out.csv", b"table")
        keep_rows(place / "log.csv", ("epoch", "loss"), 0)
        kept = precious.read_text() == "precious" and not any(file.is_symlink() for file in place.iterdir())
        return "" if kept else "an output was written through a link"

    def dangling(place: Path) -> str:
        (place / "gone").symlink_to(place / "nowhere" / "deep")
        try:
            make_folder(place / "gone" / "x")
        except SSAError:
            return "" if not (place / "nowhere").exists() else "made behind a link"
        return "made"

    def devices(place: Path) -> str:
        for name, target in (("zero.pt", "/dev/zero"), ("zero.npz", "/dev/zero"), ("zero.safetensors", "/dev/zero")):
            (place / name).symlink_to(target)
            try:
                (load_data if name.endswith("npz") else load_checkpoint)(str(place / name))
            except SSAError:
                continue
            return "a device was read"
        return ""

    kinds = (circle, looped, through, linked_store, output, dangling, devices)
    for number in range(times):
        kind = kinds[number % len(kinds)]
        try:
            problem = kind(fresh(number))
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        tally.count(kind.__name__.replace("_", " "), f"{kind.__name__}: {problem}" if problem else "")


@trial("hostile", "frost textures, tar archives and folders in the place of files", "a clean error each time", few=6, many=30)
def wrong_places(tally: Tally, times: int, folder: Path) -> None:
    (folder / "frost").mkdir()
    for name in TEXTURE_FILES:
        (folder / "frost" / name).write_bytes(png_claiming(60_000, 60_000))
    with tarfile.open(folder / "x.tar", "w") as archive:
        member = tarfile.TarInfo("../../climbs.txt")
        archive.addfile(member, io.BytesIO())
    for name in ("folder.pt", "folder.npz", "folder.db"):
        (folder / name).mkdir()
    attempts: list[Callable[[], object]] = [
        lambda: load_frost_textures(folder / "frost"), lambda: load_checkpoint(folder / "x.tar"),
        lambda: load_checkpoint(folder / "folder.pt"), lambda: load_data(str(folder / "folder.npz")),
        lambda: Store(folder / "folder.db"), lambda: load_further_set(folder / "folder.npz", load_data("digits", subset=30)),
    ]  # fmt: skip
    for number in range(times):
        _refused(attempts[number % len(attempts)], tally, "refused")
