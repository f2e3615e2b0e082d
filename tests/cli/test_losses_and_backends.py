"""``--loss`` and ``--backend`` of score: each reaches the measures that know it, and no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
DATA = ("--data", "digits", "--subset", "300")
SMALL = tuple(
    part
    for setting in ("pairs=16", "top=2", "trace_probes=2", "density_probes=2", "density_steps=2")
    for part in ("--set", f"curvature.{setting}")
)


@pytest.mark.parametrize("loss", ["contrastive", "supervised"])
@pytest.mark.parametrize("backend", ["lanczos", "pyhessian", "curvlinops"])
def test_every_backend_finds_the_largest_eigenvalue_of_either_loss(cli: Cli, good: Path, backend: str, loss: str) -> None:
    if backend == "curvlinops":
        pytest.importorskip("curvlinops")
    options = ("--measures", "curvature,representation", "--loss", loss, "--backend", backend, *SMALL, "--json")
    ended = cli("score", good, *DATA, *options, "--store", "backends.db")
    assert ended.code == 0, ended.err
    scores = {score["name"]: score for score in ended.json}
    assert scores["lambda_max"]["settings"]["loss"] == loss
    assert scores["lambda_max"]["settings"]["backend"] == backend
    assert "backend" not in scores["alignment"]["settings"]
    both_ends = (*SMALL, "--set", "curvature.bottom=1", "--json", "--store", "ours.db")
    ours = {s["name"]: s for s in cli("score", good, *DATA, "--measures", "curvature", "--loss", loss, *both_ends).json}
    assert ours["lambda_max"]["settings"]["backend"] == "lanczos"
    if backend == "pyhessian":  # it finds the largest magnitude, of either sign
        assert abs(scores["lambda_max"]["value"]) == pytest.approx(ours["spectral_norm"]["value"], rel=0.05)
    else:
        assert scores["lambda_max"]["value"] == pytest.approx(ours["lambda_max"]["value"], rel=1e-3)


@pytest.mark.parametrize(("option", "known"), [("--backend", "'pyhessian'"), ("--loss", "'supervised'")])
def test_an_unknown_one_is_a_mistake_in_the_command(cli: Cli, good: Path, option: str, known: str) -> None:
    assert known in cli("score", good, *DATA, option, "nonsense").usage()
