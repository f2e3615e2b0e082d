"""Layouts: which names a project writes, how its architecture is rebuilt, and what of its recipe a file does not say."""

from ssa_analysis.checkpoints.layouts import own, table
from ssa_analysis.checkpoints.layouts.build import recognise
from ssa_analysis.checkpoints.layouts.row import LAYOUTS, Found, Layout, Recipe, Recognised, find, unwrap

__all__ = ["LAYOUTS", "Found", "Layout", "Recipe", "Recognised", "find", "own", "recognise", "table", "unwrap"]
