"""Bad input: one line that says what and what to do, the right exit code, and nothing already computed lost."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import FEW
from torch import Tensor

from ssa_analysis.checkpoints.writing import save_checkpoint
from ssa_analysis.running.store import Store

DATA = ("--data", "digits", "--subset", "300")
CHEAP = ("--measures", "representation")
TINY = ("--arch", "convnet", "--width", "4", "--projector", "8", "--epochs", "1", "--batch", "64")

Cli = Callable[..., Any]


class Canary:
    """Runs a command when it is unpickled: if the file appears, code in a checkpoint was executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def scaled(model: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    return {key: value * factor if value.is_floating_point() else value for key, value in model.items()}


# name -> (how to write the file, what must be said of it)
def _truncated(path: Path, payload: dict[str, Any]) -> None:
    save_checkpoint(path, payload)
    path.write_bytes(path.read_bytes()[:3000])


def _code(path: Path, payload: dict[str, Any]) -> None:
    torch.save({**payload, "extra": Canary(Path("sings"))}, path)


def _raw_code(path: Path, payload: dict[str, Any]) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Canary(Path("sings"))}))


BAD: dict[str, tuple[Callable[[Path, dict[str, Any]], object], str]] = {
    "truncated": (_truncated, "truncated or not a torch checkpoint"),
    "empty": (lambda path, payload: path.touch(), "the file is empty"),
    "text": (lambda path, payload: path.write_text("my notes"), "truncated"),
    "code": (_code, "refused: the file asks to load '(posix|os).system', which is not a tensor; nothing was executed"),
    "raw-code": (_raw_code, "nothing was executed"),
    "other-architecture": (
        lambda path, payload: save_checkpoint(path, {**payload, "encoder": {**payload["encoder"], "width": 5}}),
        r"has shape \(4, 3, 3, 3\), convnet, width 5, cifar stem expects \(5, 3, 3, 3\)",
    ),
    "unknown-architecture": (
        lambda path, payload: save_checkpoint(path, {**payload, "encoder": {**payload["encoder"], "arch": "vit"}}),
        "unknown architecture 'vit'; known: convnet, resnet18",
    ),
    "unknown-keys": (
        lambda path, payload: torch.save({"patch_embed": torch.zeros(3)}, path),
        "known layouts; describe it",
    ),
    "nan": (
        lambda path, payload: save_checkpoint(path, {**payload, "model": scaled(payload["model"], float("nan"))}),
        "holds NaN or infinite weights; the training run has diverged",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_checkpoint_fails_alone(cli: Cli, good: Path, payload: dict[str, Any], tmp_path: Path, kind: str) -> None:
    write, message = BAD[kind]
    bad = tmp_path / f"{kind}.pt"
    write(bad, payload)
    ended = cli("score", bad, good, *DATA, *CHEAP, "--json")
    assert ended.code == 1
    _, failed, _, balance = ended.err.splitlines()
    assert re.search(rf"\[1/2\] {kind} representation  failed: {re.escape(str(bad))}: .*{message}", failed), failed
    assert "Traceback" not in ended.err
    assert {row["checkpoint"] for row in ended.json} == {str(good)}
    assert balance == "1 cells computed, 0 taken from the store, 1 failed; kept in scores.db"
    with Store("scores.db") as store:
        assert set(store.frame()["path"]) == {str(good)}
        assert re.search(message, store.failures()["error"][0])
    assert not Path("sings").exists()


@pytest.mark.parametrize("kind", BAD)
def test_inspect_says_it_in_one_line(cli: Cli, payload: dict[str, Any], tmp_path: Path, kind: str) -> None:
    write, message = BAD[kind]
    bad = tmp_path / f"{kind}.pt"
    write(bad, payload)
    ended = cli("inspect", bad)
    assert ended.code == 1
    assert re.match(rf"ssa-analyze: {re.escape(str(bad))}: .*{message}", ended.complaint())
    assert not Path("sings").exists()


def test_the_canary_sings_where_a_pickle_is_trusted(payload: dict[str, Any], tmp_path: Path) -> None:
    """The tests above can fail."""
    _code(tmp_path / "code.pt", payload)
    torch.load(tmp_path / "code.pt", weights_only=False)
    assert Path("sings").exists()


def test_the_report_of_a_store_with_a_bad_checkpoint(cli: Cli, good: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").touch()
    cli("score", "bad.pt", good, *DATA, *CHEAP)
    ended = cli("report", "scores.db", "--out", "report")
    assert (ended.code, ended.complaint()) == (0, "wrote report/index.html")
    assert "bad.pt: the file is empty" in Path("report/index.html").read_text()
    assert len(cli("export", "scores.db").out.splitlines()) > 1


def test_bounds_of_a_bad_and_a_good_checkpoint(cli: Cli, good: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").touch()
    ended = cli("bounds", "bad.pt", good, *DATA, *FEW)
    assert ended.code == 1
    assert re.fullmatch(r"\[1/2\] bad  failed: bad\.pt: the file is empty.*", ended.err.splitlines()[0])
    assert re.search(r"simclr +R1 ", ended.out)


class TestWhatIsNotThere:
    def test_nothing_to_score(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for pattern, message in (
            ("empty", "empty: the folder holds no checkpoint (.pt, .pth"),
            ("nowhere/*.pt", "nowhere/*.pt: no such file, folder or match"),
            ("none.pt", "none.pt: no such file, folder or match"),
        ):
            for verb in ("score", "bounds"):
                ended = cli(verb, pattern, *DATA)
                assert (ended.code, ended.complaint().startswith(f"ssa-analyze: {message}")) == (1, True)
        assert not Path("scores.db").exists()

    def test_an_empty_folder_does_not_keep_the_others_from_being_scored(self, cli: Cli, good: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        ended = cli("score", "empty", good, "none.pt", *DATA, *CHEAP, "--json")
        assert ended.code == 1
        assert ended.err.splitlines()[0].startswith("left out: empty: the folder holds no checkpoint")
        assert ended.err.splitlines()[1] == "left out: none.pt: no such file, folder or match"
        assert {row["checkpoint"] for row in ended.json} == {str(good)}
        ended = cli("bounds", "empty", good, *DATA, *FEW)
        assert ended.code == 1
        assert re.search(r"simclr +R1 ", ended.out)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--data", "digitz"), "unknown dataset 'digitz'; did you mean digits"),
            (("--data", "photos/"), "photos: no such folder"),
            (("--data", "none.npz"), "none.npz: no such file"),
            (("--data", "cifar10", "--data-root", "nowhere"), "cifar10: nowhere/cifar-10-batches-py is missing"),
            (("--data", "svhn", "--data-root", "nowhere"), "train_32x32.mat and test_32x32.mat in nowhere is missing"),
            (("--data", "stl10", "--data-root", "nowhere"), "nowhere/stl10_binary is missing"),
        ],
    )
    def test_data(self, cli: Cli, good: Path, options: tuple[str, ...], message: str) -> None:
        for verb in (("score", good), ("bounds", good), ("train", "--out", "run", *TINY)):
            ended = cli(*verb, *options)
            assert ended.code == (2 if "digitz" in options else 1)
            assert message in ended.complaint()
        if "--data-root" in options:
            assert "name the folder with --data-root" in ended.complaint()

    def test_a_store(self, cli: Cli) -> None:
        for verb in (("link",), ("export",), ("report", "--out", "report")):
            ended = cli(*verb, "none.db")
            assert (ended.code, ended.complaint()) == (1, "ssa-analyze: none.db: no such store; ssa-analyze score writes one")
        assert list(Path.cwd().iterdir()) == []

    def test_a_file_that_is_no_store(self, cli: Cli, good: Path) -> None:
        Path("notes.txt").write_text("my notes " * 500)
        for verb in (("link", "notes.txt"), ("score", good, *DATA, *CHEAP, "--store", "notes.txt")):
            ended = cli(*verb)
            assert (ended.code, ended.complaint()) == (1, "ssa-analyze: notes.txt: it is not a score store")
        assert Path("notes.txt").read_text() == "my notes " * 500


class TestDataThatIsTooLittle:
    @pytest.fixture
    def write(self, tmp_path: Path) -> Callable[..., Path]:
        def save(count: int, classes: int) -> Path:
            images = np.random.default_rng(0).integers(0, 255, (count, 16, 16, 3), dtype=np.uint8)
            np.savez(tmp_path / "own.npz", x=images, y=np.arange(count) % classes)
            return tmp_path / "own.npz"

        return save

    def test_one_class(self, cli: Cli, good: Path, write: Callable[..., Path]) -> None:
        """What needs no classes is measured, and says so; what needs them says that."""
        ended = cli("score", good, "--data", write(60, 1), "--measures", "representation,downstream,shift", "--json")
        assert ended.code == 1
        assert {row["measure"] for row in ended.json} == {"representation"}
        failed = [line for line in ended.err.splitlines() if "failed: " in line]
        assert len(failed) == 2
        assert all(
            "own: the probe split holds 1 class; this measure compares classes and needs at least two" in f for f in failed
        )
        ended = cli("bounds", good, "--data", write(60, 1))
        assert (ended.code, ended.raw) == (1, b"")
        assert "needs at least two" in ended.err

    def test_fewer_images_than_a_batch(self, cli: Cli, write: Callable[..., Path]) -> None:
        ended = cli("train", "--data", write(100, 2), *TINY, "--out", "run")
        assert ended.code == 1
        assert ended.err.splitlines()[-1] == ("ssa-analyze: own: 39 training images are fewer than a batch of 64; lower --batch")
        assert not Path("run/last.pt").exists()

    def test_too_few_for_three_splits(self, cli: Cli, good: Path, write: Callable[..., Path]) -> None:
        ended = cli("score", good, "--data", write(2, 2))
        assert ended.code == 1
        assert "2 images are too few" in ended.complaint()

    def test_fewer_pairs_than_the_curvature_asks_for(self, cli: Cli, good: Path, write: Callable[..., Path]) -> None:
        """Not an error: one batch of what there is."""
        small = [
            text
            for s in ("top=1", "max_products=4", "trace_probes=2", "density_probes=2")
            for text in ("--set", f"curvature.{s}")
        ]
        ended = cli("score", good, "--data", write(20, 2), "--measures", "curvature", *small, "--json")
        assert ended.code == 0
        assert all(np.isfinite(row["value"]) for row in ended.json)


class TestPlacesThatCannotBeWritten:
    """Root is made nobody for these; a folder that is a file cannot be written by anybody."""

    def test_a_file_where_a_folder_should_be(self, cli: Cli, scored: Any, good: Path) -> None:
        Path("file").write_text("x")
        for verb in (
            ("report", scored.store, "--out", "file"),
            ("train", *DATA, *TINY, "--out", "file/run"),
            ("demo", "--out", "file"),
        ):
            ended = cli(*verb)
            assert ended.code == 1
            assert re.search(r"file\S*: cannot write there .*; choose another folder", ended.err.splitlines()[-1])
        ended = cli("score", good, *DATA, *CHEAP, "--store", "file/s.db")
        assert (ended.code, ended.complaint()) == (1, "ssa-analyze: file/s.db: the folder file does not exist")
        ended = cli("export", scored.store, "--out", "file/x.csv")
        assert (ended.code, "file/x.csv: could not be written" in ended.complaint()) == (1, True)
        assert Path("file").read_text() == "x"

    def test_a_read_only_folder(
        self, cli: Cli, open_folder: Path, good: Path, scored: Any, ordinary_user: Callable[..., Any]
    ) -> None:
        checkpoint = open_folder / "good.pt"
        checkpoint.write_bytes(good.read_bytes())
        store = open_folder / "scores.db"
        store.write_bytes(scored.store.read_bytes())
        before = sorted(Path.cwd().iterdir())
        open_folder.chmod(0o555)
        with ordinary_user():
            commands = {
                "report": cli("report", store, "--out", "report"),
                "train": cli("train", *DATA, *TINY, "--out", "run"),
                "export": cli("export", store, "--out", "x.csv"),
                "score": cli("score", checkpoint, *DATA, *CHEAP, "--store", "new.db"),
                "score again": cli("score", checkpoint, *DATA, *CHEAP, "--store", store),
            }
            reading = cli("link", store)
        open_folder.chmod(0o755)
        assert {verb: ended.code for verb, ended in commands.items()} == dict.fromkeys(commands, 1)
        assert all("Traceback" not in ended.err for ended in commands.values())
        assert "report: cannot write there (Permission denied); choose another folder" in commands["report"].complaint()
        assert "run: cannot write there (Permission denied)" in commands["train"].err.splitlines()[-1]
        assert "x.csv: could not be written (Permission denied)" in commands["export"].complaint()
        assert "new.db: it cannot be opened or created there" in commands["score"].complaint()
        assert "scores.db: " in commands["score again"].complaint()  # found out before anything is computed
        assert sorted(Path.cwd().iterdir()) == before
        assert reading.code == 0  # a store in a read-only folder can still be read

    def test_a_checkpoint_that_may_not_be_read(
        self, cli: Cli, open_folder: Path, good: Path, ordinary_user: Callable[..., Any]
    ) -> None:
        for name, mode in (("secret.pt", 0o000), ("open.pt", 0o444)):
            Path(name).write_bytes(good.read_bytes())
            Path(name).chmod(mode)
        open_folder.chmod(0o777)
        with ordinary_user():
            ended = cli("score", "secret.pt", "open.pt", *DATA, *CHEAP, "--json")
        assert ended.code == 1
        assert ended.err.splitlines()[0] == "left out: secret.pt: may not be read (permission denied)"
        assert {row["checkpoint"] for row in ended.json} == {"open.pt"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "none", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: that needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # lazy: a traceback of a failed test may hold a file open


def fill(folder: Path) -> None:
    with open(folder / "filler", "wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"0" * 4096)
        except OSError:
            pass


class TestFullDisk:
    def test_score_keeps_what_it_has(self, cli: Cli, trained: Any, small_disk: Path) -> None:
        store = small_disk / "scores.db"
        assert cli("score", trained.paths[0], *DATA, *CHEAP, "--store", store).code == 0
        fill(small_disk)
        ended = cli("score", *trained.paths, *DATA, *CHEAP, "--set", "representation.bootstrap=20", "--store", store)
        assert ended.code == 1
        assert "Traceback" not in ended.err
        assert ended.err.splitlines()[-1] == (
            f"ssa-analyze: {store}: the disk is full; free some space and run the command again, what is stored already is kept"
        )
        (small_disk / "filler").unlink()
        with Store(store) as opened:
            assert len(opened.frame()) == 6
        again = cli("score", trained.paths[0], *DATA, *CHEAP, "--store", store)
        assert (again.code, "0 of 1 cells to compute" in again.err) == (0, True)

    def test_the_others_say_so_in_one_line(self, cli: Cli, scored: Any, small_disk: Path) -> None:
        fill(small_disk)
        for verb in (
            ("report", scored.store, "--out", small_disk / "report"),
            ("export", scored.store, "--out", small_disk / "x.csv"),
            ("train", *DATA, *TINY, "--out", small_disk / "run"),
            ("score", "unused.pt", scored.store, *DATA, *CHEAP, "--store", small_disk / "s.db"),
        ):
            ended = cli(*verb)
            assert ended.code == 1
            assert "Traceback" not in ended.err
            assert re.search("No space left on device|the disk is full", ended.err.splitlines()[-1]), ended.err

    def test_stdout(self, scored: Any) -> None:
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                ["ssa-analyze", "list", "methods"],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env=_path_of_this_python(),
                check=False,
            )
        assert (done.returncode, done.stderr) == (1, "ssa-analyze: No space left on device\n")


def _path_of_this_python() -> dict[str, str]:
    import sys

    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
