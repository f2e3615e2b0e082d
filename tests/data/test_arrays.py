"""Arrays and images of others: what a header says is checked before room is made for it."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssa_analysis.data import arrays
from ssa_analysis.data.arrays import mapped_array, read_array, read_arrays
from ssa_analysis.data.datasets import load_data, resize
from ssa_analysis.data.files import as_images, decode, load_image_tree, read_image
from ssa_analysis.errors import DataError, SettingsError, UnknownDataError

X = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("array", [X, np.asfortranarray(X), np.arange(6), np.array(["a", "bc"]), np.float32(3), np.empty((0, 3))])
def test_arrays_as_numpy_reads_them(tmp_path: Path, save: object, array: np.ndarray) -> None:
    save(tmp_path / "a.npz", x=array)  # type: ignore[operator]
    np.save(tmp_path / "a.npy", array)
    known = np.load(tmp_path / "a.npz")["x"]
    for found in (read_arrays(tmp_path / "a.npz", ["x"])["x"], read_array(tmp_path / "a.npy"), mapped_array(tmp_path / "a.npy")):
        assert found.dtype == known.dtype
        assert np.array_equal(found, known)


def test_a_bomb_is_found_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (1 << 28,)})
        for _ in range(64):
            member.write(bytes(1 << 22))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb\.npz: x\.npy would unpack to 268,435,456 bytes"):
        read_arrays(tmp_path / "bomb.npz", ["x"])
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_images_that_compress_well_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "black.npz", x=np.zeros((300, 32, 32, 3), np.uint8))
    assert read_arrays(tmp_path / "black.npz", ["x"])["x"].shape == (300, 32, 32, 3)


@pytest.mark.parametrize("shape", [(2**60,), (2**62, 2**62), (-1,), (10,)])
def test_a_header_that_claims_more_than_there_is(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    (tmp_path / "x.npy").write_bytes(stream.getvalue() + b"123")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", stream.getvalue() + b"123")
    for read in (lambda: read_array(tmp_path / "x.npy"), lambda: read_arrays(tmp_path / "x.npz", ["x"])):
        with pytest.raises(DataError, match=r"x\.np[yz]: "):
            read()


def test_a_sparse_array_is_not_copied(tmp_path: Path) -> None:
    with open(tmp_path / "x.npy", "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40,)})
    os.truncate(tmp_path / "x.npy", (1 << 40) + 128)
    with pytest.raises(DataError, match="1,099,511,627,776 bytes are more than can be read"):
        read_array(tmp_path / "x.npy")


def test_labels_of_another_sort_and_images_of_no_size(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="x must be"):
        as_images(np.empty((3, 0, 0, 3), np.uint8), tmp_path)
    np.savez(tmp_path / "dates.npz", x=np.array(["2020-01-01"], "datetime64[D]"))
    with pytest.raises(DataError, match="an array of"):
        read_arrays(tmp_path / "dates.npz", ["x"])


def png(width: int, height: int, content: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (9_000, "9000x9000 pixels, more than 67,108,864"),
        (11_000, "11000x11000 pixels"),
        (60_000, "exceeds limit"),
        (2**31 - 1, "exceeds"),
    ],
)
def test_an_enormous_image_is_refused_without_a_warning(tmp_path: Path, side: int, message: str) -> None:
    (tmp_path / "x.png").write_bytes(png(side, side, b"\0" * 100))
    with pytest.raises(DataError, match=rf"x\.png: not a readable image \(.*{message}"):
        read_image(tmp_path / "x.png")


def test_a_line_of_pixels_is_not_resized(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(100_000, 1, b"\0" * 100_001))
    with pytest.raises(DataError, match="100000x1 pixels; one side may be at most 50 times the other"):
        decode([tmp_path / "x.png"], 8)


def test_a_program_called_png_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives PostScript to Ghostscript, whatever a file is called."""
    Image.fromarray(X[0]).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    started: list[object] = []
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: started.append(a))
    with pytest.raises(DataError, match="not a readable image"):
        read_image(tmp_path / "x.png")
    assert not started


def test_a_pipe_in_a_folder_of_images_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "x.png")
    raw = load_image_tree(tmp_path)
    with pytest.raises(DataError, match="no ordinary file"):
        raw.read(torch.tensor([0]))


def test_sizes_that_no_machine_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=np.arange(6) % 2)
    with pytest.raises(SettingsError, match="4 to 4096 pixels"):
        load_data(str(tmp_path / "a.npz"), image_size=10_000)
    with pytest.raises(DataError, match="do not fit in memory"):
        resize(torch.zeros(1, 3, 4, 4, dtype=torch.uint8).expand(1000, 3, 4, 4), 4000)
    with pytest.raises(UnknownDataError, match="is empty"):
        load_data("")


def test_the_bound_is_of_all_arrays_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=X)
    monkeypatch.setattr(arrays, "MEMORY_LIMIT", X.nbytes + 10)
    with pytest.raises(DataError, match=r"y\.npy would unpack"):
        read_arrays(tmp_path / "a.npz", ["x", "y"])
