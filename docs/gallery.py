"""Draw the gallery of figures from a store: docs/gallery.md and docs/gallery/*.png.

    python docs/gallery.py STORE [STORE ...] [--data-root DIR]

Each figure is drawn from the first store that holds something for it, at the width of an ICML text.
"""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd
from ssa_analysis.reports.figure_files import write_figure
from ssa_analysis.reports.figures import FIGURES, GROUPS, TRAINING_CURVES, VIEWS_SHEET
from ssa_analysis.reports.sheets import view_sheets
from ssa_analysis.reports.style import SIZES

from ssa_analysis.checkpoints.writing import make_folder
from ssa_analysis.data.datasets import load_data
from ssa_analysis.running.histories import training_history
from ssa_analysis.running.store import Store

HERE = Path(__file__).resolve().parent
LOOK = SIZES["icml"]
OPENING = """# Gallery

Every figure is a function of a data frame, most of them of a store's table, and of the size it is set for:

```python
from ssa_analysis.reports.figures import FIGURES, score_scatter
from ssa_analysis.reports.style import SIZES
from ssa_analysis.running.store import Store

with Store("scores.db") as store:
    figure = score_scatter(store.frame(), SIZES["icml-column"])
if figure is not None:  # None: the table holds nothing for it
    figure.savefig("scatter.pdf")
```

`ssa-analyze report scores.db --out paper/ --size icml-column` writes all of them so; sizes are `neurips`, `iclr`, `icml`,
`icml-column`. Colours are Okabe and Ito's, and a method has the same one in every figure. What is here was drawn by
`docs/gallery.sh OUT`, from eight small encoders of handwritten digits.
"""


@click.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--data-root", type=click.Path(), help="Where the images of the stores' data sets lie.")
def main(stores: tuple[str, ...], data_root: str | None) -> None:
    """Draw the gallery from STORES."""
    folder = make_folder(HERE / "gallery")
    sources = [_read(Path(path), data_root) for path in stores]
    lines, group = [OPENING], ""
    entries = [*((entry, "frame") for entry in FIGURES), (TRAINING_CURVES, "history"), (VIEWS_SHEET, "tiles")]
    entries.sort(key=lambda item: list(GROUPS.values()).index(item[0].group))
    for entry, kind in entries:
        # of several training curves those with the most panels
        ordered = sorted(sources, key=lambda source: -source[kind]["score"].nunique()) if kind == "history" else sources
        figure = next((drawn for source in ordered if (drawn := entry.draw(source[kind], LOOK)) is not None), None)
        if figure is None:
            click.echo(f"nothing for {entry.name}", err=True)
            continue
        write_figure(figure, folder, entry.name, ("png",))
        if entry.group != group:
            lines.append(f"## {entry.group}\n")
            group = entry.group
        lines.append(
            f"### {entry.title}\n\n`{entry.draw.__name__}`: {entry.caption}\n\n![{entry.title}](gallery/{entry.name}.png)\n"
        )
    (HERE / "gallery.md").write_text("\n".join(lines), encoding="utf-8")


def _read(path: Path, data_root: str | None) -> dict[str, pd.DataFrame]:
    """The tables that figures are drawn from: of a store's first data set, its training curves, its first sheet of views."""
    with Store(path, must_exist=True) as store:
        name = store.data_names()[0]
        frame, checkpoints = store.frame(name), store.checkpoints()
    sheet = next(view_sheets(checkpoints, load_data(name, data_root, download=False)))
    return {"frame": frame, "history": training_history(checkpoints, path.parent), "tiles": sheet.tiles}


if __name__ == "__main__":
    main()
