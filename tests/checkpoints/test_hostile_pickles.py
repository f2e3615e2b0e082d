"""Pickles made by hand to take memory, time or the process itself: each ends as one clean error, quickly and in little memory.

Every one of them did harm to an earlier reader, or would to one that drops the check in question.
"""

from __future__ import annotations

import io
import pickle
import struct
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ssa_analysis.checkpoints import containers, pickles
from ssa_analysis.checkpoints.finding import find_checkpoints
from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.making import MAKERS
from ssa_analysis.checkpoints.pickles import Budget, InertUnpickler, Refused, TooMuch
from ssa_analysis.checkpoints.reading import read_file
from ssa_analysis.errors import CheckpointError

SECONDS, MEMORY = 10, 500e6


def name(module: str, what: str) -> bytes:
    return f"c{module}\n{what}\n".encode()


def value(thing: object) -> bytes:
    """The opcodes of a plain value, without frame and end."""
    return pickle.dumps(thing, 2)[2:-1]


def keep(number: int) -> bytes:
    return b"r" + struct.pack("<I", number)


DEEP = b")" + b"\x85" * 300_000  # a tuple in a tuple in a tuple ...
WIDE = b")" + b"2\x86" * 64  # a pair of a pair of a pair ..., each twice the same
MANY = b"(" + b"N" * 100_000 + b"t" + keep(1)  # a long tuple
ARRAY = name("numpy._core.multiarray", "_reconstruct") + b")R"
NUMBER = name("numpy", "dtype") + value("S1") + b"\x85R" + keep(1)
ORDERED = name("collections", "OrderedDict") + b")R"


def storage(kind: str = "ByteStorage", numel: int = 1) -> bytes:
    return b"(" + value("storage") + name("torch", kind) + value("0") + value("cpu") + value(numel) + b"tQ"


def tensor(offset: int, size: tuple[int, ...], stride: tuple[int, ...], kind: str = "ByteStorage") -> bytes:
    parts = storage(kind) + value(offset) + value(size) + value(stride) + b"\x89" + ORDERED
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + parts + b"tR"


EXPANDED = tensor(0, (1 << 25,), (0,))  # 545 bytes that describe 32 million numbers

PLAIN = {
    "a key that is deep": b"}" + DEEP + b"Ns",
    "an element that is deep": b"\x8f(" + DEEP + b"\x90",
    "a key that is many": b"}" + WIDE + b"Ns",
    "a frozen set of many": b"(" + WIDE + b"\x91",
    "a dictionary literal of many": b"(" + WIDE + b"Nd",
    "a set made of many": name("builtins", "set") + b"](" + WIDE + b"e\x85R",
    "a code of a type that is many": name("numpy", "dtype") + WIDE + b"\x85R",
    "an array whose state is no tuple": ARRAY + b"](K\x01Neb",
    "a shape of very many": ARRAY + b"(K\x01(" + b"K\x01" * 100_000 + b"t" + NUMBER + b"\x89C\x00tb",
    "a shape of huge numbers": ARRAY + b"(K\x01(" + value((1 << 2030) - 1) * 60 + b"t" + NUMBER + b"\x89C\x00tb",
    "a structured type": NUMBER + value((3, "|", None, ("a",), {"a": 1}, 8, 1, 0)) + b"b",
    "arguments that are copied": b"(" + MANY + name("a", "B") + keep(2)
    + b"}" + value("a") + b"Ns" + keep(3) + b"h\x02h\x01h\x03\x92" * 200,
    "many arguments": MANY + b"0" + name("torch", "device") + b"h\x01R",
    "an array of zeros by number": b"\x96" + struct.pack("<Q", 3 << 30),
    "sets and sets": b"\x8f" * 50_000,
    "dictionaries and dictionaries": b"}" * 200_000,
    "memories and memories": b"N" + b"\x94" * 200_000,
    "a scalar a thousand times": name("numpy", "dtype") + value("S1000000") + b"\x85R" + keep(1) + b"0"
    + value("x" * 1_000_000) + keep(2) + b"0(" + (name("numpy._core.multiarray", "scalar") + b"h\x01h\x02\x86R") * 1000 + b"l",
    "keywords for what is built": name("builtins", "set") + b")" + b"}" + value("a") + b"Ns\x92",
    "a name of a name": name("builtins", "getattr") + name("os.path", "join") + value("x") + b"\x86R",
    "appending to a tuple": b")Na",
    "items of a list": b"]NNs",
}  # fmt: skip
WITH_TENSORS = {
    "a size that is a tensor": name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage() + b"K\x00" + EXPANDED + b")\x89NtR",
    "a state that is a tensor": ARRAY + EXPANDED + b"b",
    "content that is a tensor": name("numpy._core.numeric", "_frombuffer") + b"(" + EXPANDED + NUMBER + b")" + value("C") + b"tR",
    "items of a tensor": tensor(0, (1, 1), (1, 1)) + EXPANDED + b"K\x01s",
    "elements added to a tensor": tensor(0, (1 << 16, 1), (0, 0)) + b"(" + tensor(0, (1, 1 << 14), (0, 0)) + b"\x90",
    "a size of very many": name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage()
    + b"K\x00(" + b"K\x01" * 100_000 + b"t)\x89NtR",
    "a size of huge numbers": tensor(0, ((1 << 2030) - 1,) * 50, (1,) * 50),
    "a negative size": tensor(0, (-1,), (1,)),
    "a negative offset": tensor(-1, (1,), (1,)),
    "a key of a storage that is many": b"(" + value("storage") + name("torch", "ByteStorage") + WIDE + value("cpu") + b"K\x01tQ",
    "a length that is a list": storage().replace(b"K\x01tQ", b"]tQ"),
    "a storage longer than it is": storage(numel=9),
}  # fmt: skip


def in_little(path: Path, *, load: bool = False) -> str:
    """The message of the CheckpointError; fails where there is none, or where it took long or much."""
    tracemalloc.start()
    begin = time.process_time()
    try:
        with pytest.raises(CheckpointError) as caught:
            (load_checkpoint if load else read_file)(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert time.process_time() - begin < 6 * SECONDS, "tracing makes it several times slower"
    return str(caught.value)


def archive(path: Path, content: bytes, records: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as whole:
        usual = {"data.pkl": b"\x80\x02" + content + b".", "byteorder": b"little", "data/0": bytes(8)}
        for record, data in {**usual, **(records or {})}.items():
            whole.writestr(f"a/{record}", data)
    return path


@pytest.mark.parametrize("what", PLAIN)
def test_a_pickle(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "SLACK", 1 << 22)  # so that little is enough to be too much
    (tmp_path / "x.pkl").write_bytes(b"\x80\x05" + PLAIN[what] + b".")
    in_little(tmp_path / "x.pkl")


@pytest.mark.parametrize("what", WITH_TENSORS)
def test_a_torch_file(tmp_path: Path, what: str) -> None:
    in_little(archive(tmp_path / "x.pt", WITH_TENSORS[what]))


def test_a_type_that_grows_after_its_array_is_made_leaves_the_array_alone(tmp_path: Path) -> None:
    """numpy would read a gigabyte beyond the one byte that there is."""
    state = b"(K\x03" + value("|") + b"NNN" + value(1 << 30) + b"K\x01K\x00t"
    array = ARRAY + b"(K\x01K\x01\x85h\x01\x89C\x01xtb"
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + NUMBER + b"0" + array + b"h\x01" + state + b"b0.")
    found = read_file(tmp_path / "x.pkl")
    assert (found.dtype, found.nbytes, found.tolist()) == (np.dtype("S1"), 1, [b"x"])


def test_files_within_a_file_share_one_budget(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save(torch.UntypedStorage(1 << 20), stream)
    inner = value(stream.getvalue())
    load = name("torch.storage", "_load_from_bytes") + keep(2) + b"0"
    once = inner.replace(b"X", b"X", 1) + b"\x85" + keep(1) + b"0"
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + once + load + b"(" + b"h\x02h\x01R" * 300 + b"l.")
    assert "far more than it holds" in in_little(tmp_path / "x.pkl")
    (tmp_path / "tensor.pkl").write_bytes(b"\x80\x04" + load + b"h\x02" + value(_saved(torch.zeros(2))) + b"\x85R.")
    assert "no storage" in in_little(tmp_path / "tensor.pkl")


def test_what_files_within_a_file_build_counts_together(tmp_path: Path) -> None:
    """Each of them builds 26 MB of dictionaries, drops them and returns a storage; ten are more than the file may."""
    archive(tmp_path / "inner.pt", b"(" + b"}" * 400_000 + b"1" + storage())
    inner = b"B" + struct.pack("<I", (tmp_path / "inner.pt").stat().st_size) + (tmp_path / "inner.pt").read_bytes()
    load = name("torch.storage", "_load_from_bytes") + keep(2) + b"0"
    for times, fine in ((1, True), (10, False)):
        content = b"\x80\x04" + inner + b"\x85" + keep(1) + b"0" + load + b"(" + b"h\x02h\x01R" * times + b"l."
        (tmp_path / "x.pkl").write_bytes(content)
        if fine:
            assert len(read_file(tmp_path / "x.pkl")) == 1
        else:
            assert "far more than it holds" in in_little(tmp_path / "x.pkl")


def _saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def test_a_directory_of_a_million_entries_is_not_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pt", value(1))
    content = path.read_bytes()
    begin = content.index(b"PK\x01\x02")
    entry = content[begin : content.index(b"PK\x01\x02", begin + 4)]
    path.write_bytes(content[:begin] + entry * 500_000 + content[begin:])
    assert "more than can be read" in in_little(path)


def test_two_records_of_one_name_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pt", tensor(0, (1,), (1,)))
    with zipfile.ZipFile(path, "a") as whole, pytest.warns(UserWarning, match="Duplicate name"):
        whole.writestr("a/data/0", b"other   ")
    assert "two records of one name" in in_little(path)


def test_modules_that_share_their_children_are_counted(tmp_path: Path) -> None:
    """Forty-eight modules of two children each, which are the same: 2 ** 48 parts."""
    module = name("a", "Module") + b")R"
    inner = module + b"}" + value("_modules") + b"}s" + value("_parameters") + b"}s" + value("_buffers") + b"}sb"
    for number in range(48):
        children = b"}" + value("a") + b"h" + bytes([number]) + b"s" + value("b") + b"h" + bytes([number]) + b"s"
        state = b"}" + value("_modules") + children + b"s" + value("_parameters") + b"}s" + value("_buffers") + b"}s"
        inner += b"q" + bytes([number]) + b"0" + module + state + b"b"
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + inner + b".")
    assert "x.pkl: its module has more than" in in_little(tmp_path / "x.pkl", load=True)


def test_keys_of_an_unknown_file_are_shown_shortly_and_without_what_moves_the_cursor(tmp_path: Path) -> None:
    torch.save({"a\x1b[31m\n": torch.zeros(1), "x" * 100_000: torch.zeros(1), (1, 2): 3, None: 4}, tmp_path / "keys.pt")
    message = in_little(tmp_path / "keys.pt", load=True)
    assert "\x1b" not in message
    assert "\n" not in message
    assert len(message) < 2000


@pytest.mark.parametrize("content", [b"}" + WIDE + b"Ns", b"\x8f(" + WIDE + b"\x90"])
def test_keys_have_few_parts(content: bytes) -> None:
    with pytest.raises(Refused, match="a key of many parts"):
        InertUnpickler(io.BytesIO(b"\x80\x04" + content + b"."), MAKERS).load()
    fine = {((1, "a"), frozenset({2.0, b"x"})): None, None: 1, 3: 2}
    assert InertUnpickler(io.BytesIO(pickle.dumps(fine, 4)), MAKERS).load() == fine


def test_steps_and_bytes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    content = pickle.dumps([{1: 2}] * 50, 4)
    assert len(InertUnpickler(io.BytesIO(content), MAKERS).load()) == 50
    with pytest.raises(TooMuch):
        InertUnpickler(io.BytesIO(content), MAKERS, budget=Budget(100)).load()
    monkeypatch.setattr(pickles, "MOST_STEPS", 20)
    with pytest.raises(TooMuch):
        InertUnpickler(io.BytesIO(content), MAKERS).load()


def test_paths_that_cannot_be_and_shapes_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_file(tmp_path / ("a" * 300))
    for open_it in (load_checkpoint, lambda path: find_checkpoints([str(path)])):
        with pytest.raises(CheckpointError, match="cannot be read"):
            open_it(tmp_path / ("a" * 300))
    with pytest.raises(CheckpointError, match="no ordinary file"):
        read_file(Path("/dev/null"))
    header = b'{"a":{"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]}}'
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_file(tmp_path / "x.safetensors")


def test_torch_files_within_torch_files_end_somewhere(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save(torch.UntypedStorage(4), stream)
    inner = stream.getvalue()
    for _ in range(4):
        inner = b"\x80\x04" + name("torch.storage", "_load_from_bytes") + value(inner) + b"\x85R."
    (tmp_path / "x.pkl").write_bytes(inner)
    assert "far more" in in_little(tmp_path / "x.pkl")


def test_every_type_of_storage_comes_out_as_it_went_in(tmp_path: Path) -> None:
    types = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
             torch.bool, torch.complex64, torch.complex128)  # fmt: skip
    content = {str(dtype): torch.tensor([1, 0, 1, 1]).to(dtype) * torch.tensor([3, 1, 0, 1]).to(dtype) for dtype in types}
    for zipped in (True, False):
        torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        found = read_file(tmp_path / "x.pt")
        for key, tensor in content.items():
            assert found[key].dtype == tensor.dtype
            assert torch.equal(found[key], tensor)


def test_the_older_format_of_a_big_endian_machine_and_of_an_unknown_protocol(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x.pt").read_bytes()
    little = content.index(b"little_endian")
    at = content.index(b"\x88", little)
    (tmp_path / "big.pt").write_bytes(content[:at] + b"\x89" + content[at + 1 :])
    assert "big-endian" in in_little(tmp_path / "big.pt")
    at = content.index(b"M\xe9\x03")
    (tmp_path / "other.pt").write_bytes(content[:at] + b"M\xe8\x03" + content[at + 3 :])
    assert "a protocol that torch never wrote" in in_little(tmp_path / "other.pt")


def test_quantised_weights_become_inert_and_the_others_load(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to drop them
        quantised = torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.quint8)
    torch.save({"q": quantised, "w": torch.arange(3)}, tmp_path / "q.pt")
    found = read_file(tmp_path / "q.pt")
    assert (found["q"].name, found["w"].tolist()) == ("quantised tensor", [0, 1, 2])
