"""How Sphinx builds the documentation: make docs."""

from itertools import groupby

from ssa_analysis.version import __version__

project = "ssa-analyze"
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
exclude_patterns = ["examples"]
smartquotes = False  # two hyphens begin an option
html_theme = "furo"
html_title = f"ssa-analyze {__version__}"

# a heading is linked as on a code host: page.md#the-heading
myst_heading_anchors = 3

# docstrings are Google's; types stand in the signatures
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_member_order = "bysource"
autosummary_generate = True
napoleon_use_ivar = True
templates_path = ["_templates"]


def examples_as_typed(app, context, lines):
    """Literal blocks of what click leaves as it is: sphinx-click makes line blocks of it, in which a * is markup."""
    blocks = [(kept, list(block)) for kept, block in groupby(lines, key=lambda line: line.startswith("|"))]
    lines[:] = [
        line for kept, block in blocks for line in (["::", "", *(f"   {line[2:]}" for line in block), ""] if kept else block)
    ]


def setup(app):
    app.connect("sphinx-click-process-description", examples_as_typed)
