"""``ssa-analyze corruptions``."""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd
from ssa_analysis.cli.common import config_option, corruption_options, data_options, json_option, print_json, say, whole_path
from ssa_analysis.cli.loudness import put

from ssa_analysis.checkpoints.writing import make_folder, write_atomically
from ssa_analysis.data.corruptions import SEVERITIES
from ssa_analysis.measures.robustness import RobustnessSettings, corrupted_twins
from ssa_analysis.running.plan import DataSpec, loaded_data
from ssa_analysis.scores import in_brackets


@click.command()
@data_options
@corruption_options
@click.option("--out", required=True, type=click.Path(), help="Folder for the contact sheet (PNG and PDF) and the table (CSV).")
@click.option("--images", default=2, show_default=True, type=click.IntRange(1, 8), help="Held-out images on the sheet.")
@click.option(
    "--compared", default=100, show_default=True, type=click.IntRange(min=1), help="Held-out images whose distortion is averaged."
)
@click.option("--only", default="", help="Comma-separated corruptions; default: all nineteen.")
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@json_option("the distances and the files")
@config_option("corruptions")
def command(
    data: str, data_root: str | None, subset: int | None, image_size: int | None, no_download: bool, corruptions: str | None,
    frost_textures: str | None, out: str, images: int, compared: int, only: str, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Draw every corruption at every severity on images of --data, and print how far each moves the pixels.

    Shows what robustness will be measured on, before it is. Needs no checkpoint.

    \b
    Example:
      ssa-analyze corruptions --data digits --out sheet/
      ssa-analyze corruptions --data digits --corruptions digits-C/ --out sheet/
    """
    import torch
    from ssa_analysis.reports.figure_files import write_figure
    from ssa_analysis.reports.figures.robustness import contact_sheet  # matplotlib only once there is something to draw
    from ssa_analysis.reports.tables import safe_csv

    settings = RobustnessSettings(
        seed=seed, corruptions=whole_path(corruptions), frost_textures=whole_path(frost_textures), only=only
    )
    loaded = loaded_data(DataSpec(data, data_root, subset, image_size, not no_download))
    twins, names = corrupted_twins(loaded, settings)
    folder = make_folder(Path(out))
    places = torch.linspace(0, len(twins.known) - 1, min(max(images, compared), len(twins.known))).round().long()
    at = twins.known[places]
    clean = loaded.images[loaded.index_of("held-out")[at]]
    shown = min(images, len(at))
    tiles, rows = {}, []
    for name in names:
        parts = [twins.batch(name, severity, at, torch.device("cpu")) for severity in SEVERITIES]
        tiles[name] = torch.stack([part[:shown] for part in parts]).permute(0, 1, 3, 4, 2).numpy()
        distances = [float((part.float() - clean.float()).abs().mean()) for part in parts]
        rows.append({"corruption": name, **{f"severity {s}": d for s, d in zip(SEVERITIES, distances, strict=True)}})
    table = pd.DataFrame(rows)
    figure = contact_sheet(tiles, clean[:shown].permute(0, 2, 3, 1).numpy(), twins.origin)
    write_figure(figure, folder, "corruptions")
    files = [folder / "corruptions.png", folder / "corruptions.pdf", folder / "corruptions.csv"]
    write_atomically(files[-1], safe_csv(table.assign(images=twins.origin)).encode())
    if as_json:
        about = {"origin": twins.origin, "images": len(at), "same_frame": twins.same_frame, **twins.about}
        print_json({"rows": rows, "about": about, "files": files})
    else:
        put(f"mean distance from the clean image in levels of 255, over {len(at)} images{in_brackets(twins.origin)}")
        put(table.to_string(index=False, float_format=lambda v: f"{v:.1f}"))
    if not twins.same_frame:
        say("these files show another frame than the images: the distances are no distortions")
    for key, value in twins.about.items():
        say(f"{key}: {value}")
    say(f"wrote {', '.join(map(str, files))}")
