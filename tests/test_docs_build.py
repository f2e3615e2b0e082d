"""The documentation builds without a warning: pages are reached, links between them lead somewhere, all names are there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ssa_analysis.cli.main import VERBS

import ssa_analysis

pytestmark = pytest.mark.slow
for needed in ("sphinx", "myst_parser", "furo", "sphinx_click"):
    pytest.importorskip(needed, reason="the documentation is built by the packages of the extra docs")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as HTML; built from a copy, since Sphinx writes the list of modules beside its sources."""
    folder = tmp_path_factory.mktemp("documentation")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("generated"))
    for path in ROOT.iterdir():
        if path.name not in ("docs", "build"):
            (folder / path.name).symlink_to(path)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", "html"]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONWARNINGS": ""}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


def test_every_page_is_reached_from_the_first_one(built: Path) -> None:
    first = (built / "index.html").read_text()
    pages = [
        p.relative_to(ROOT / "docs").with_suffix(".html") for kind in ("*.md", "study/*.md") for p in (ROOT / "docs").glob(kind)
    ]
    assert len(pages) > 12
    for page in pages:
        assert (built / page).is_file()
        assert page.name == "index.html" or f'href="{page}"' in first, page


def test_every_public_name_and_every_verb_is_in_the_reference(built: Path) -> None:
    package = (built / "reference" / "api.html").read_text()
    assert [name for name in ssa_analysis.__all__ if f'id="ssa_analysis.{name}"' not in package] == []
    line = (built / "reference" / "cli.html").read_text()
    assert [verb for verb in VERBS if f'id="ssa-analyze-{verb}"' not in line] == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("measures.base", "MeasureSettings"), ("theory.bounds", "BoundsSettings"), ("linking.partial", "partial_spearman"),
        ("numerics.lanczos", "krylov_space"), ("reports.figures.views", "views_ranking"), ("registry", "Registry.get"),
    ],
)  # fmt: skip
def test_docstrings_of_the_modules_are_there(built: Path, module: str, name: str) -> None:
    page = (built / "reference" / "generated" / f"ssa_analysis.{module}.html").read_text()
    assert f'id="ssa_analysis.{module}.{name}"' in page
