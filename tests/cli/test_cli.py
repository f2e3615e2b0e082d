"""The verbs: what a user types and what he gets."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
import ssa_analysis.cli.score_verb as score_verb
from command_line import FEW
from PIL import Image
from ssa_analysis.cli.common import Progress, duration, say
from ssa_analysis.cli.main import VERBS, cli
from ssa_analysis.reports.figure_files import DPI

from ssa_analysis.checkpoints.layouts import LAYOUTS
from ssa_analysis.data.datasets import DATASETS
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.base import Measure, MeasureSettings
from ssa_analysis.running import scoring
from ssa_analysis.running.plan import Cell, CellResult, default_measures
from ssa_analysis.running.scoring import ScoringSummary
from ssa_analysis.running.store import Store
from ssa_analysis.scores import JSON_FIELDS, Score
from ssa_analysis.stopping import gentle_interrupts, request_stop
from ssa_analysis.training.settings import METHODS
from ssa_analysis.version import __version__

KEYS = ["checkpoint", "measure", "name", "value", "stderr", "low", "high", "unit", "converged", "settings", "seconds"]
DATA = ("--data", "digits", "--subset", "300")
CHEAP = ("--measures", "representation")

Cli = Callable[..., Any]


@pytest.fixture
def add_measure(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[..., Any]], None]:
    def add(name: str, function: Callable[..., Any]) -> None:
        monkeypatch.setitem(MEASURES._entries, name, Measure(name, "for tests", MeasureSettings, function))

    return add


class TestHelp:
    @pytest.mark.parametrize("verb", VERBS)
    def test_every_option_says_what_it_does(self, verb: str) -> None:
        """Those whose name, type and default say it all are few and named here."""
        plain = {"epochs", "weight_decay", "seed", "kind"}
        options = [o for o in click_command(verb).params if isinstance(o, click.Option)]
        assert [o.name for o in options if not o.help and o.name not in plain] == []

    def test_the_program_itself(self, cli: Cli) -> None:
        ended = cli("--help")
        assert ended.code == 0
        for verb, summary in VERBS.items():
            assert re.search(rf"{verb} +{re.escape(summary[:20])}", ended.out)

    def test_no_verb_is_a_usage_error_that_helps(self, cli: Cli) -> None:
        ended = cli()
        assert ended.code == 2
        assert "ssa-analyze demo --out demo" in ended.err

    def test_a_mistyped_verb(self, cli: Cli) -> None:
        assert cli("scroe").usage() == "Error: There is no verb 'scroe'. Did you mean 'score'?"
        assert "Verbs: demo, study, train, score" in cli("xyzzy").usage()

    def test_a_mistyped_option(self, cli: Cli) -> None:
        assert "--measures" in cli("score", "x.pt", "--mesures", "a").usage()

    def test_version_by_the_module_without_waiting_for_torch(self) -> None:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "ssa_analysis", "--version"], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, f"ssa-analyze, version {__version__}\n")
        imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
        assert "click" in imported
        assert not imported & {"torch", "numpy", "pandas", "matplotlib"}


def click_command(verb: str) -> click.Command:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    return command


class TestList:
    def test_measures_with_their_settings(self, cli: Cli) -> None:
        text = cli("list", "measures").out
        for name, row in MEASURES:
            assert re.search(rf"^{name} +{re.escape(row.summary)}\n +seed=0, .*{fields(row.settings)[-1].name}=", text, re.M)

    @pytest.mark.parametrize(("kind", "table"), [("datasets", DATASETS), ("layouts", LAYOUTS), ("methods", METHODS.items())])
    def test_the_others(self, cli: Cli, kind: str, table: Any) -> None:
        ended = cli("list", kind)
        assert (ended.code, ended.err) == (0, "")
        for name, row in table:
            assert re.search(rf"^{re.escape(name)} +{re.escape(row.summary)}$", ended.out, re.M)

    def test_an_unknown_kind(self, cli: Cli) -> None:
        assert "'measures', 'datasets', 'layouts', 'methods'" in cli("list", "measure").usage()


class TestTrain:
    def test_progress_goes_to_stderr_and_the_checkpoint_to_out(self, trained: Any) -> None:
        for method, ended in trained.ended.items():
            assert (ended.code, ended.raw) == (0, b"")
            lines = ended.err.splitlines()
            assert lines[0] == f"{method} on digits: 120 training images, convnet"
            assert re.fullmatch(r"\[1/2\] loss \d\.\d{4}  about .+ left", lines[1])
            assert re.fullmatch(r"\[2/2\] loss \d\.\d{4}  kNN 0\.\d{3}", lines[2])
            assert lines[3] == f"wrote {trained.folder / method / 'last.pt'}"

    def test_the_checkpoint_holds_the_options(self, cli: Cli, trained: Any) -> None:
        settings = cli("inspect", trained.paths[3], "--json").json["training"]["settings"]
        wanted = {"method": "ssa-clr", "arch": "convnet", "width": 4, "projector": [16, 8], "epochs": 2, "batch": 64, "lr": 0.1}
        assert {key: settings[key] for key in wanted} == wanted

    def test_a_finished_run_is_not_overwritten_unasked(self, cli: Cli, trained: Any) -> None:
        before = trained.paths[0].read_bytes()
        tiny = (
            "--arch",
            "convnet",
            "--width",
            4,
            "--projector",
            "16,8",
            "--epochs",
            2,
            "--batch",
            64,
            "--warmup",
            0,
            "--lr",
            0.1,
        )
        ended = cli("train", *DATA, *tiny, "--out", trained.paths[0].parent)
        assert ended.code == 2
        assert "pass --resume to continue it or choose another --out" in ended.err.splitlines()[-1]
        ended = cli("train", *DATA, *tiny, "--out", trained.paths[0].parent, "--resume")
        assert ended.code == 0
        assert trained.paths[0].read_bytes() == before

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--method", "simcrl", "unknown method 'simcrl'; did you mean simclr"),
            ("--arch", "resnet19", "unknown architecture 'resnet19'; did you mean resnet18"),
            ("--optimizer", "sdg", "unknown optimizer 'sdg'"),
            ("--projector", "64,big", "--projector takes whole numbers separated by commas, got '64,big'"),
            ("--projector", "0", "layer of positive size"),
            ("--views", "simclrr", "unknown view recipe 'simclrr'"),
            ("--tau", "0", "tau must be positive, got 0.0"),
            ("--lr", "nan", "lr must be positive, got nan"),
            ("--weight-decay", "-1", "x>=0"),
            ("--warmup", "-1", "x>=0"),
            ("--knn-every", "-1", "x>=0"),
            ("--epochs", "0", "x>=1"),
            ("--device", "cudda", "device 'cudda' cannot be used here"),
            ("--subset", "2", "x>=3"),
        ],
    )
    def test_options_out_of_range(self, cli: Cli, tmp_path: Path, option: str, value: str, message: str) -> None:
        options = {"--arch": "convnet", "--batch": "64", "--epochs": "1", "--data": "digits", "--subset": "300", option: value}
        ended = cli("train", *(text for pair in options.items() for text in pair), "--out", tmp_path / "run")
        assert message in ended.usage()
        assert not (tmp_path / "run" / "last.pt").exists()


class TestScore:
    def test_json_is_all_there_is_on_stdout(self, scored: Any) -> None:
        assert scored.ended.code == 0
        assert all(list(row) == KEYS == list(JSON_FIELDS) for row in scored.ended.json)
        first = scored.ended.json[0]
        assert (first["measure"], first["name"], first["unit"]) == ("downstream", "probe_accuracy", "share")
        assert 0 < first["low"] < first["value"] < first["high"] < 1
        assert first["settings"]["data"] == "digits"
        assert first["seconds"] > 0

    def test_json_knows_no_nan(self, cli: Cli, good: Path, add_measure: Callable[..., None]) -> None:
        add_measure("odd", lambda *_: [Score("odd", "s", math.nan, stderr=math.inf, settings={"p": math.nan})])
        ended = cli("score", good, *DATA, "--measures", "odd", "--json")
        (row,) = json.loads(ended.out, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
        assert (row["value"], row["stderr"], row["settings"]["p"]) == (None, None, None)

    def test_progress_and_the_balance_are_on_stderr(self, scored: Any) -> None:
        lines = scored.ended.err.splitlines()
        assert lines[0] == "digits: 300 images (train 120, probe 90, held-out 90); 8 of 8 cells to compute"
        assert re.fullmatch(r"\[1/8\] simclr downstream  .+  probe_accuracy 0\.\d+ ± 0\.\d+  about .+ left", lines[1])
        assert re.fullmatch(r"\[8/8\] ssa-clr representation  .+  alignment \S+ ± \S+", lines[8])
        assert lines[9] == f"8 cells computed, 0 taken from the store, 0 failed; kept in {scored.store}"
        assert len(lines) == 10

    def test_long_grids_say_how_far_they_are(self, cli: Cli, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ssa_analysis.progress.INTERVAL", 0.0)
        settings = [
            x for v in ("pairs=16", "batch=16", "directions=2", "points=3", "grid=0") for x in ("--set", f"landscape.{v}")
        ]
        ended = cli("score", good, *DATA, "--measures", "landscape", *settings, "--store", tmp_path / "s.db", "--json")
        assert ended.code == 0
        lines = [line for line in ended.err.splitlines() if line.startswith("landscape of")]
        assert len(lines) == 4  # the fifth point is the last
        assert re.fullmatch(rf"landscape of {re.escape(str(good))}: 2 of 5 points \(40 %\), about .+ left", lines[1])
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith("s.db")] == ["s.db"]

    def test_again_computes_nothing_and_says_the_same(self, cli: Cli, trained: Any, scored: Any, store: Path) -> None:
        again = cli("score", *trained.paths, *DATA, "--measures", "downstream,representation", "--store", store, "--json")
        assert again.code == 0
        assert again.json == scored.ended.json
        assert again.err.splitlines() == [
            "digits: 300 images (train 120, probe 90, held-out 90); 0 of 8 cells to compute",
            f"0 cells computed, 8 taken from the store, 0 failed; kept in {store}",
        ]
        assert store.read_bytes() == scored.store.read_bytes()

    def test_without_json_stdout_is_empty(self, cli: Cli, good: Path) -> None:
        ended = cli("score", good, *DATA, *CHEAP)
        assert (ended.code, ended.raw) == (0, b"")
        assert Path("scores.db").is_file()

    @pytest.mark.parametrize("options", [(), ("--json",), ("--fail-if", "alignment<0")])
    def test_scores_are_kept_in_memory_where_something_is_said_of_them(
        self, cli: Cli, good: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
    ) -> None:
        ends: list[ScoringSummary] = []

        def run_cells(*arguments: Any, **options: Any) -> ScoringSummary:
            ends.append(scoring.run_cells(*arguments, **options))
            return ends[0]

        monkeypatch.setattr(score_verb, "run_cells", run_cells)
        assert cli("score", good, *DATA, *CHEAP, *options).code == 0
        assert bool(ends[0].scores) == bool(options)

    def test_globs_folders_and_files_once_each(self, cli: Cli, trained: Any) -> None:
        def found(*patterns: object) -> list[str]:
            rows = cli("score", *patterns, *DATA, *CHEAP, "--json").json
            return [Path(path).parent.name for path in dict.fromkeys(row["checkpoint"] for row in rows)]

        folder = trained.folder
        assert found(folder) == sorted(METHODS)
        assert found(folder / "*" / "last.pt") == sorted(METHODS)
        assert found(folder / "simclr*" / "last.pt") == ["simclr", "simclr-fourier", "simclr-sam"]
        assert found(folder / "ssa-clr", folder / "ssa-clr" / "last.pt", folder / "s[s]*") == ["ssa-clr"]

    def test_a_copy_is_measured_once_and_reported_twice(self, cli: Cli, good: Path, tmp_path: Path) -> None:
        copy = shutil.copy(good, tmp_path / "best.pt")
        ended = cli("score", good, copy, *DATA, *CHEAP, "--json")
        assert "1 of 2 cells to compute" in ended.err
        rows = ended.json
        assert {row["checkpoint"] for row in rows} == {str(good), str(copy)}
        half = len(rows) // 2
        assert [row["value"] for row in rows[:half]] == [row["value"] for row in rows[half:]]

    def test_settings_of_measures(self, cli: Cli, good: Path) -> None:
        ended = cli(
            "score", good, *DATA, "--measures", "representation,downstream", "--json", "--seed", 4, "--tau", 0.2,
            "--set", "downstream.neighbours=7", "--set", "downstream.neighbours=9", "--set", "representation.seed=5",
        )  # fmt: skip
        settings = {row["measure"]: row["settings"] for row in ended.json if row["name"] in ("alignment", "knn_accuracy")}
        assert settings["downstream"]["neighbours"] == 9  # the last one counts
        assert (settings["downstream"]["seed"], settings["representation"]["seed"]) == (4, 5)
        assert settings["representation"]["tau"] == 0.2

    @pytest.mark.parametrize("text", ["top", "curvature.top", "top=3", ".top=3", "curvature.=3", "=", ""])
    def test_settings_that_cannot_be_read(self, cli: Cli, good: Path, text: str) -> None:
        usage = cli("score", good, *DATA, "--set", text).usage()
        assert usage == f"Error: --set {text!r}: write it as MEASURE.SETTING=VALUE, for instance curvature.top=10"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--measures", "downstrem"), "unknown measure 'downstrem'; did you mean downstream?"),
            (("--measures", ""), "no measures were named"),
            (("--measures", " , "), "no measures were named"),
            (("--set", "curvatre.top=3"), "unknown measure 'curvatre'; did you mean curvature?"),
            (("--set", "curvature.tpo=3"), "unknown setting of curvature 'tpo'; did you mean top?"),
            (("--set", "curvature.top=some"), "setting top of curvature must be of type int, got 'some'"),
            (("--device", "cuda:99"), "try --device cpu"),
        ],
    )
    def test_names_that_are_wrong(self, cli: Cli, good: Path, options: tuple[str, ...], message: str) -> None:
        ended = cli("score", good, *DATA, *options)
        assert ended.code == 2
        assert ended.complaint().startswith("ssa-analyze: ")
        assert message in ended.complaint()
        assert not Path("scores.db").exists()

    def test_all_default_measures(self, cli: Cli, good: Path) -> None:
        small = {
            "curvature": "pairs=16 batch=16 top=2 max_products=12 trace_probes=3 density_probes=2 density_steps=4",
            "flatness": "pairs=16 batch=16 steps=1 restarts=1 draws=2",
            "landscape": "pairs=16 batch=16 directions=2 points=3 grid=3",
            "shift": "permutations=19 projections=5 groups=4",
            "robustness": "images=20",
            "representation": "bootstrap=5",
        }
        options = [text for m, values in small.items() for v in values.split() for text in ("--set", f"{m}.{v}")]
        ended = cli("score", good, "--data", "digits", "--subset", 150, *options, "--json")
        assert ended.code == 0, ended.err
        assert list(dict.fromkeys(row["measure"] for row in ended.json)) == default_measures()
        assert len(ended.json) > 40
        for row in ended.json:
            assert row["value"] is not None, row
            assert row["settings"]["error"], row  # what kind of error the number has
        again = cli("score", good, "--data", "digits", "--subset", 150, *options)
        assert "0 of 7 cells to compute" in again.err

    def test_an_interrupt_keeps_what_was_finished(self, cli: Cli, trained: Any, add_measure: Callable[..., None]) -> None:
        calls: list[int] = []

        def third_time_interrupted(*_: Any) -> list[Score]:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return [Score("slow", "s", float(len(calls)))]

        add_measure("slow", third_time_interrupted)
        ended = cli("score", *trained.paths, *DATA, "--measures", "slow")
        assert ended.code == 130
        assert ended.err.splitlines()[-1] == "ssa-analyze: interrupted; what was finished is kept"
        assert "Traceback" not in ended.err
        with Store("scores.db") as store:
            assert sorted(store.frame()["value"]) == [1.0, 2.0]
        ended = cli("score", *trained.paths, *DATA, "--measures", "slow")
        assert "2 of 4 cells to compute" in ended.err
        assert ended.code == 0


class TestBounds:
    def test_a_table_and_the_store_for_the_report(self, cli: Cli, trained: Any, store: Path) -> None:
        ended = cli("bounds", *trained.paths[:2], *DATA, "--store", store)
        violated = [line for line in ended.out.splitlines() if " violated" in line]
        assert ended.code == (1 if violated else 0)
        assert bool(violated) == ("violated beyond the error: R" in ended.err)
        rows = [line.split() for line in ended.out.splitlines() if re.search(r"^ *\S+ +R\d(_pac_bayes)? ", line)]
        assert [(row[0], row[1]) for row in rows] == [
            (n, r) for n in ("simclr", "simclr-sam") for r in (*(f"R{i}" for i in range(1, 10)), "R9_pac_bayes")
        ]
        told = ended.out.split("\nsimclr:\n")[1].split("\n\n")[0]
        number = r"-?\d+\.\d+"
        for line in (
            rf"R2 bounds the classification loss by {number} nats; chance 2\.30\d+: ",
            rf"from practical pairs, tightest by R\d: {number} nats, ",
            rf"the whole chain: {number} nats, .*; its slack: .*class collapse -?\d+ %",
            rf"certificate: L_K <= {number} nats with probability 0\.95; by kl {number}; by bounded differences {number}; ",
            rf"K 14, n 11 held-out blocks of m 8, KL 0, b {number}, mean {number}",
            rf"PAC-Bayes: L_s <= {number} nats with probability 0\.94 at s ",
            rf"loss {number} \+ sharpness {number} \+ Monte Carlo {number} \+ complexity {number}",
            rf"prior initialisation, KL \d.*, n 3 train blocks of m 32, b {number}, 8 scales",
            r"L\(theta\) <= L_s on blocks of another split: (yes|no|undecided) ",
        ):
            assert re.search(line, told), line
        with Store(store, must_exist=True) as opened:
            frame = opened.frame()
        assert set(frame[frame["measure"] == "bounds"]["checkpoint"]) == {"simclr", "simclr-sam"}

    def test_json(self, cli: Cli, good: Path) -> None:
        rows = cli("bounds", good, *DATA, *FEW, "--json").json
        assert {row["name"] for row in rows} >= {"R1", "R2", "R6", "R8", "ideal_bound", "practical_loss"}
        assert all(list(row) == KEYS for row in rows)
        assert not Path("scores.db").exists()  # only kept where asked

    def test_without_labels_the_rungs_left_out_are_named(self, cli: Cli, good: Path, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        np.savez(tmp_path / "bare.npz", x=rng.integers(0, 256, (200, 16, 16, 3), dtype=np.uint8))
        ended = cli("bounds", good, "--data", tmp_path / "bare.npz", "--set", "scales=0", "--set", "bootstrap=20")
        assert ended.code == 0, ended.err
        assert "skipped: R1, R2, R5, R6, R7, R8: the images have no labels" in ended.out
        assert "skipped: R9 PAC-Bayes: left out (bounds.scales=0)" in ended.out
        assert re.search(r"simclr +R3 ", ended.out)
        assert not re.search(r"simclr +R2 ", ended.out)

    def test_a_prior_checkpoint(self, cli: Cli, trained: Any) -> None:
        quick = ("--set", "scales=2", "--set", "bounds.draws=4", "--set", "bootstrap=20", "--set", "noise_block=8")
        ended = cli("bounds", trained.paths[0], *DATA, "--prior", trained.paths[1], *quick)
        assert ended.code == 0, ended.err
        assert re.search(r"prior \S+, KL \d.*, n 11 held-out blocks of m 8", ended.out)
        refused = cli("bounds", trained.paths[0], *DATA, "--prior", trained.paths[1], *quick, "--set", "blocks=train")
        assert refused.code == 1
        assert "was trained on digits" in refused.err
        missing = cli("bounds", trained.paths[0], *DATA, "--prior", "gone.pt")
        assert "gone.pt: no such file" in missing.complaint()
        wrong = cli("bounds", trained.paths[0], *DATA, "--set", "scalse=3")
        assert "did you mean scales" in wrong.complaint()

    @pytest.mark.parametrize(("verdict", "code"), [("holds", 0), ("holds within error", 0), ("violated", 1)])
    def test_the_exit_code_is_the_verdict(
        self, cli: Cli, good: Path, add_measure: Callable[..., None], verdict: str, code: int
    ) -> None:
        about = {"left": 1e-6, "right": 2e-6, "verdict": verdict, "statement": "a <= b", "chance": 2.3}
        add_measure("bounds", lambda *_: [Score("bounds", "R6", 1e-6, "nats", None, -1e-6, 3e-6, settings=about)])
        ended = cli("bounds", good, *DATA)
        assert ended.code == code
        assert "1e-06" in ended.out  # small numbers are not rounded to 0.0000
        step, *rest = ended.err.splitlines()
        assert re.fullmatch(r"\[1/1\] simclr  \d.*", step)
        assert rest == (["violated beyond the error: R6 on simclr"] if code else [])


class TestLink:
    def test_a_table_on_stdout_and_the_count_on_stderr(self, cli: Cli, scored: Any) -> None:
        ended = cli("link", scored.store)
        assert ended.code == 0
        rows = [line.split() for line in ended.out.splitlines()]
        assert rows[0][:5] == ["score", "n", "spearman", "spearman_low", "spearman_high"]
        names = ("alignment", "uniformity", "effective_rank", "feature_rank", "contrastive_loss", "weight_norm")
        assert {row[0] for row in rows if row[0].startswith("repr")} == {f"representation.{name}" for name in names}
        assert {row[1] for row in rows if row[0].startswith("repr")} == {"4"}
        assert re.search(r"\d of 6 scores have a Spearman correlation with a p-value of at most 0\.05", ended.err)

    def test_some_scores_alone(self, cli: Cli, scored: Any) -> None:
        rows = cli("link", scored.store, "--scores", "representation.alignment,representation.weight_norm", "--json").json
        assert {row["score"] for row in rows} == {"representation.alignment", "representation.weight_norm"}
        assert {row["invariance"] for row in rows} == {"function", "none"}
        assert (
            "did you mean representation.alignment"
            in cli("link", scored.store, "--scores", "representation.alignmet").complaint()
        )

    def test_json_and_another_target(self, cli: Cli, scored: Any) -> None:
        rows = cli("link", scored.store, "--target", "representation.uniformity", "--json", "--draws", 50).json
        assert all(row["score"].startswith("downstream.") for row in rows)
        assert all(-1 <= row["spearman"] <= 1 and row["n"] == 4 for row in rows)

    def test_what_cannot_be_linked(self, cli: Cli, scored: Any, good: Path) -> None:
        ended = cli("link", scored.store, "--target", "downstream.probe_acuracy")
        assert ended.code == 1
        assert "did you mean downstream.probe_accuracy" in ended.complaint()
        assert "no scores on 'svhn'; there are: digits" in cli("link", scored.store, "--data", "svhn").complaint()
        cli("score", good, *DATA, *CHEAP, "--store", "one.db")
        few = cli("link", "one.db", "--target", "representation.alignment")
        assert (few.code, "at least 4" in few.complaint()) == (1, True)

    def test_nothing_but_the_target(self, cli: Cli, trained: Any) -> None:
        cli("score", *trained.paths, *DATA, "--measures", "downstream", "--store", "s.db")
        ended = cli("link", "s.db")
        assert ended.code == 1
        assert "no score to link with downstream.probe_accuracy" in ended.complaint()


class TestReport:
    def test_the_page_and_its_files(self, cli: Cli, scored: Any) -> None:
        ended = cli("report", scored.store, "--out", "report")
        assert (ended.code, ended.complaint()) == (0, "wrote report/index.html")
        page = Path("report/index.html").read_text()
        assert "Best downstream" in page
        assert "<h1>Scores on digits</h1>" in page
        assert "<li>4 checkpoints</li>" in page
        assert 'id="views_sheet"' in page  # the digits are at hand wherever scikit-learn is
        assert Path("report/figures/score_scatter.png").stat().st_size > 1000
        assert len(pd.read_csv("report/tables/summary.csv")) == 4

    def test_the_page_and_the_findings_as_json(self, cli: Cli, scored: Any) -> None:
        ended = cli("report", scored.store, "--out", "report", "--json")
        assert ended.json["report"] == "report/index.html"
        assert ended.json["findings"][0].startswith("Best downstream: ")
        assert ended.err == "wrote report/index.html\n"

    def test_a_size_for_a_venue(self, cli: Cli, scored: Any) -> None:
        widths = {}
        for name, options in (("wide", ()), ("narrow", ("--size", "icml-column"))):
            assert cli("report", scored.store, "--out", name, *options).code == 0
            with Image.open(f"{name}/figures/score_scatter.png") as image:
                widths[name] = image.width
        assert widths == {"wide": int(6.75 * DPI), "narrow": int(3.25 * DPI)}
        assert "'icml-column'" in cli("report", scored.store, "--out", "x", "--size", "icml-colum").usage()

    def test_images_that_are_not_there(self, cli: Cli, tmp_path: Path) -> None:
        cell = Cell("a/last.pt", "a" * 64, "downstream", {"seed": 0}, "cifar10", "f" * 16, "0.1.0/1")
        with Store(tmp_path / "other.db") as store:
            store.write(CellResult(cell, [Score("downstream", "probe_accuracy", 0.5, "share")]))
        ended = cli("report", tmp_path / "other.db", "--out", "report", "--data-root", tmp_path)
        assert ended.code == 0
        assert "no contact sheet of the views: cifar10" in ended.err
        page = Path("report/index.html").read_text()
        assert "the images were not at hand" in page
        assert 'id="views_sheet"' not in page

    def test_unknown_data(self, cli: Cli, scored: Any) -> None:
        ended = cli("report", scored.store, "--out", "report", "--data", "svhn")
        assert (ended.code, "there are: digits" in ended.complaint()) == (1, True)
        assert not Path("report").exists()


class TestInspect:
    def test_text(self, cli: Cli, good: Path) -> None:
        ended = cli("inspect", good)
        assert (ended.code, ended.err) == (0, "")
        fields = dict(re.split(r"  +", line, maxsplit=1) for line in ended.out.splitlines())
        assert fields["encoder"] == "convnet, width 4, cifar stem"
        assert fields["layout"] == "ssa-analyze (certain: no other project writes such names)"
        assert fields["projector"] == "yes"
        assert fields["trained"] == "simclr on digits, epoch 2 of 2"

    def test_json(self, cli: Cli, good: Path) -> None:
        report = cli("inspect", good, "--json").json
        assert (report["layout"], report["has_projector"]) == ("ssa-analyze", True)
        assert report["training"]["data"]["name"] == "digits"


class TestExport:
    def test_csv(self, cli: Cli, scored: Any) -> None:
        rows = list(csv.DictReader(io.StringIO(cli("export", scored.store).out)))
        values = {(row["checkpoint"], row["measure"], row["name"]): float(row["value"]) for row in rows}
        expected = {(Path(r["checkpoint"]).parent.name, r["measure"], r["name"]): r["value"] for r in scored.ended.json}
        assert values == expected

    def test_json_is_that_of_score(self, cli: Cli, scored: Any) -> None:
        def order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return sorted(rows, key=lambda row: (row["checkpoint"], row["measure"], row["name"]))

        rows = cli("export", scored.store, "--format", "json").json
        assert order(rows) == order(scored.ended.json)
        assert all(list(row) == KEYS for row in rows)

    def test_latex(self, cli: Cli, scored: Any) -> None:
        text = cli("export", scored.store, "--format", "latex").out
        assert r"\begin{tabular}" in text
        assert len(re.findall(r"^(?:simclr|ssa-clr).*SimCLR|SSA-CLR.*\\\\$", text, re.M)) == 4
        assert "Data: digits; seed 0" in text

    def test_parquet(self, cli: Cli, scored: Any) -> None:
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
        ended = cli("export", scored.store, "--format", "parquet", "--out", "scores.parquet")
        assert (ended.code, ended.complaint()) == (0, "wrote scores.parquet")
        table = pd.read_parquet("scores.parquet")
        assert sorted(table["value"]) == sorted(row["value"] for row in scored.ended.json)
        assert json.loads(table["settings"][0])["data"] == "digits"

    def test_parquet_needs_a_file(self, cli: Cli, scored: Any) -> None:
        assert "parquet is binary; name a file with --out" in cli("export", scored.store, "--format", "parquet").usage()

    def test_to_a_file(self, cli: Cli, scored: Any) -> None:
        ended = cli("export", scored.store, "--out", "scores.csv")
        assert (ended.code, ended.complaint()) == (0, "wrote scores.csv")
        assert Path("scores.csv").read_bytes() == cli("export", scored.store).raw

    def test_unknown_data(self, cli: Cli, scored: Any) -> None:
        ended = cli("export", scored.store, "--data", "svhn")
        assert (ended.code, "no scores on 'svhn'; there are: digits" in ended.complaint()) == (1, True)

    def test_an_empty_store(self, cli: Cli) -> None:
        Store("empty.db").close()
        assert cli("export", "empty.db", "--format", "json").json == []
        assert len(cli("export", "empty.db").out.splitlines()) == 1


class TestConfig:
    def write(self, text: str) -> Path:
        path = Path("conf.toml")
        path.write_text(text)
        return path

    def test_defaults_from_a_file_and_the_command_line_wins(self, cli: Cli, good: Path) -> None:
        path = self.write("""
            [score]
            data = "digits"
            subset = 300
            measures = ["downstream", "representation"]
            store = "from-file.db"
            json = true
            seed = 3
            no-download = true
            [score.set.downstream]
            neighbours = 5
            temperature = 0.25
            [score.set.representation]
            bootstrap = 10
            [train]
            epochs = 7
        """)
        ended = cli("score", good, "--config", path, "--seed", 8, "--set", "downstream.neighbours=6")
        assert ended.code == 0, ended.err
        settings = {row["measure"]: row["settings"] for row in ended.json if row["name"] in ("alignment", "knn10_accuracy")}
        assert settings["downstream"]["seed"] == 8
        knn = next(row for row in ended.json if row["name"] == "knn_accuracy")["settings"]
        assert (knn["neighbours"], knn["temperature"]) == (6, 0.25)  # one setting from each
        assert settings["representation"]["bootstrap"] == 10
        assert Path("from-file.db").is_file()

    def test_settings_as_a_list(self, cli: Cli, good: Path) -> None:
        path = self.write('[score]\nset = ["downstream.neighbours=5"]\n')
        rows = cli("score", good, *DATA, "--measures", "downstream", "--config", path, "--json").json
        assert next(row for row in rows if row["name"] == "knn_accuracy")["settings"]["neighbours"] == 5

    def test_underscores_and_lists_for_train(self, cli: Cli) -> None:
        path = self.write(
            '[train]\ndata="digits"\nsubset=300\narch="convnet"\nwidth=4\nprojector=[8, 4]\nepochs=1\nbatch=64\nknn_every=0\n'
        )
        ended = cli("train", "--config", path, "--out", "run")
        assert ended.code == 0, ended.err
        settings = cli("inspect", "run/last.pt", "--json").json["training"]["settings"]
        assert (settings["projector"], settings["knn_every"]) == ([8, 4], 0)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('[score]\ndatta = "digits"', "[score] has no option 'datta'; did you mean data?"),
            ('[score]\nstore_path = "x"', "[score] has no option 'store_path'; did you mean store?"),
            ('[scores]\ndata = "digits"', "[scores] is no verb; did you mean score?"),
            ('data = "digits"', "[data] is no verb"),
            ("[score", "is no TOML"),
            ("score = 3", "[score] must be a table"),
            ("[score.data]\nname = 3", "[score.data] must be a value, not a table"),
            ("[score.set]\ncurvature = 3", "[score.set] must be tables of settings, one for each measure"),
            ('[score]\nset = "curvature.top=3"', "[score.set] must be a list or tables of settings"),
            ('[score]\nsubset = "many"', "'many' is not a valid integer range"),
            ("[score]\nsubset = 1", "x>=3"),
            ("[score.set]\ncurvature = {tpo = 3}", "unknown setting of curvature 'tpo'; did you mean top?"),
        ],
    )
    def test_files_that_are_wrong(self, cli: Cli, good: Path, text: str, message: str) -> None:
        ended = cli("score", good, "--data", "digits", "--config", self.write(text))
        assert message in ended.usage()

    def test_a_file_that_is_not_there(self, cli: Cli, good: Path) -> None:
        usage = cli("score", good, *DATA, "--config", "none.toml").usage()
        assert "none.toml" in usage
        assert "No such file" in usage

    def test_a_file_that_is_not_text(self, cli: Cli, good: Path) -> None:
        Path("conf.toml").write_bytes(b"\xff\xfe\x00")
        assert "conf.toml: is no TOML" in cli("score", good, *DATA, "--config", "conf.toml").usage()


class TestTerminals:
    @pytest.mark.parametrize("no_color", [None, "1", ""])
    def test_no_escapes_where_there_is_no_terminal(
        self, cli: Cli, good: Path, monkeypatch: pytest.MonkeyPatch, no_color: str | None
    ) -> None:
        monkeypatch.delenv("NO_COLOR", raising=False)
        if no_color is not None:
            monkeypatch.setenv("NO_COLOR", no_color)
        for ended in (cli("score", good, *DATA, *CHEAP), cli("--help"), cli("scroe"), cli("inspect", "none.pt")):
            assert "\x1b" not in ended.out + ended.err
            assert "\r" not in ended.out + ended.err

    def test_colour_is_dropped_where_no_color_is_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        for no_color, expected in ((False, "\x1b[31mred\x1b[0m\n"), (True, "red\n")):
            terminal = Terminal()
            monkeypatch.setattr(sys, "stderr", terminal)
            monkeypatch.delenv("NO_COLOR", raising=False)
            if no_color:
                monkeypatch.setenv("NO_COLOR", "1")
            say("red", colour="red")
            assert terminal.getvalue() == expected

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.0004, "0 ms"),
            (0.85, "850 ms"),
            (3.21, "3.2 s"),
            (59.0, "59.0 s"),
            (125, "2 min 05 s"),
            (3600, "1 h 00 min"),
            (4210, "1 h 10 min"),
        ],
    )
    def test_durations(self, seconds: float, text: str) -> None:
        assert duration(seconds) == text

    def test_progress_counts_and_estimates(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        now = iter([100.0, 102.0, 104.0, 130.0])
        monkeypatch.setattr("ssa_analysis.cli.common.time.monotonic", lambda: next(now))
        progress = Progress(10)
        progress.step("one")
        progress.step("two")
        progress.done = 9
        progress.step("ten")
        assert capsys.readouterr().err.splitlines() == [
            "[ 1/10] one  about 18.0 s left",
            "[ 2/10] two  about 16.0 s left",
            "[10/10] ten",
        ]

    def test_after_a_stop_no_time_is_left(self, capsys: pytest.CaptureFixture[str]) -> None:
        with gentle_interrupts(lambda: None):
            request_stop()
            Progress(10).step("one")
        assert capsys.readouterr().err == "[ 1/10] one\n"

    def test_an_interrupt_while_planning(self, cli: Cli, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(score_verb, "make_cells", interrupt)
        ended = cli("score", good, *DATA, *CHEAP)
        assert ended.code == 130
        assert ended.err.split() == ["ssa-analyze:", "interrupted;", "what", "was", "finished", "is", "kept"]

    def test_torch_and_torchvision_that_do_not_match(self, cli: Cli, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def mismatch(*_: Any) -> None:
            raise RuntimeError("operator torchvision::nms does not exist")

        monkeypatch.setattr(score_verb, "make_cells", mismatch)
        ended = cli("score", good, *DATA, *CHEAP)
        assert ended.code == 1
        assert "not a matching pair" in ended.complaint()
        assert "pip install --upgrade torch torchvision" in ended.complaint()


class TestSeveralProcesses:
    @pytest.mark.parametrize("verb", sorted(set(VERBS) - {"score", "train"}))
    def test_verbs_that_cannot_share_their_work_refuse_to_run(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        ended = cli(verb, "--out", tmp_path / "out")
        assert ended.code == 2
        assert f"{verb} runs in one process, but torchrun has started 2; only score and train share" in ended.err
        assert not (tmp_path / "out").exists()

    def test_one_process_of_torchrun_is_like_any_other(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "1")
        monkeypatch.setenv("RANK", "0")
        assert cli("list", "methods").code == 0
