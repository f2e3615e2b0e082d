"""The table of layouts, from the most particular to the most general: the first that fits counts."""

from __future__ import annotations

from ssa_analysis.checkpoints.layouts.libraries import GENERAL, LIBRARIES
from ssa_analysis.checkpoints.layouts.methods import METHODS
from ssa_analysis.checkpoints.layouts.row import LAYOUTS
from ssa_analysis.checkpoints.layouts.small_images import SMALL_IMAGES

for _rows in (METHODS, LIBRARIES, SMALL_IMAGES, GENERAL):
    for _name, _row in _rows.items():
        LAYOUTS.add(_name, _row)
