"""Corruptions beside imagecorruptions-imaug: seconds for 1,000 images, per corruption and severity and for the whole suite.

    python benchmarks/corruptions.py [--json] [--sizes 32,224] [--only fog,snow] [--severities] [--repeats R] [--images N]
        [--device cuda]

Both sides get the same images and the constants of that package (ImageNet-C's, and its own for the elastic transform), so
that at 32 px neither makes CIFAR-10-C. One thread, processor time; the two run in turn, cell by cell; medians over repeats.
The suite is the fifteen common corruptions at five severities. Ours takes a batch, that package image by image. With
``--device cuda`` our images lie on the GPU and our seconds are wall time; that package has the CPU alone.
Needs ``pip install imagecorruptions-imaug``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import IN_PROCESS, Row, clock, measured, print_rows, run_worker

SCRIPT = str(Path(__file__).resolve())
PEER = "imagecorruptions-imaug"
SEVERITIES = (1, 2, 3, 4, 5)
DEFAULT_IMAGES = {32: 250, 224: 24}
BATCH = 250
PEER_TEXTURE_SCALE = 1.1  # that package enlarges its frost textures by this
PEER_ELASTIC = (0.05, 0.065, 0.085, 0.1, 0.12)  # its elastic transform has amplitudes of its own, and no affine part


def photographs(count: int, side: int) -> Any:
    """``(count, 3, side, side)`` uint8 with structure of every size, as in photographs."""
    import torch

    from ssa_analysis.data.corruptions.weather import plasma, plasma_side

    wide = plasma_side(side, side)
    rng = torch.Generator().manual_seed(0)
    clouds = [plasma(2 * torch.rand(3, wide * wide - 1, generator=rng) - 1, wide, 1.5)[:, :side, :side] for _ in range(count)]
    return (torch.stack(clouds) * 255).to(torch.uint8)


def peer_constants(name: str, severity: int) -> Any:
    """What that package uses at every size, in the form of ours."""
    from ssa_analysis.data.corruptions.constants import LARGE_SIDE, constants_of

    constants = constants_of(name, severity, LARGE_SIDE)
    if name == "elastic_transform":
        return (250 * PEER_ELASTIC[severity - 1] * 0.005, 0.01, 0.0)
    return (*constants[:2], PEER_TEXTURE_SCALE) if name == "frost" else constants


def _ours(request: dict[str, Any]) -> Callable[[str, int], None]:
    """Batches of at most 250 images."""
    import imagecorruptions

    from ssa_analysis.data.corruptions import apply
    from ssa_analysis.data.corruptions.frost import load_frost_textures

    images = photographs(request["images"], request["side"]).to(request["device"])
    textures = load_frost_textures(Path(imagecorruptions.__file__).parent / "frost")
    seeds = list(range(len(images)))

    def run(name: str, severity: int) -> None:
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            apply(images[part], name, peer_constants(name, severity), seeds[part], textures)

    return run


def _peer(request: dict[str, Any]) -> Callable[[str, int], None]:
    """Image by image, from and to bytes; images are Pillow's beforehand, which is what that package takes."""
    import cv2
    import numpy as np
    from imagecorruptions import corruptions
    from PIL import Image

    cv2.setNumThreads(1)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in photographs(request["images"], request["side"])]

    def run(name: str, severity: int) -> None:
        corrupted = getattr(corruptions, name)
        for picture in pictures:
            np.uint8(np.asarray(corrupted(picture, severity)))

    return run


def both(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """The two sides in turn, cell by cell: a shared machine is faster at one time than at another, but not within a second."""
    import torch

    torch.set_num_threads(1)
    sides = ((_ours(request), request["device"]), (_peer(request), "cpu"))
    for name in request["names"]:
        for run, _ in sides:
            run(name, 1)  # libraries load and compile what they do when it is first used

    def work() -> dict[str, Any]:
        cells: dict[str, list[list[float]]] = {}
        for name in request["names"]:
            for severity in SEVERITIES:
                spent = cells.setdefault(f"{name} {severity}", [[], []])
                for _ in range(request["repeats"]):
                    for seconds, (run, device) in zip(spent, sides, strict=True):
                        started = clock(device)
                        run(name, severity)
                        seconds.append(clock(device) - started)
        return {"cells": {cell: [statistics.median(seconds) for seconds in spent] for cell, spent in cells.items()}}

    return work


TASKS = {"both": both}


def rows(sizes: list[int], names: list[str], images: int | None, repeats: int, by_severity: bool, device: str) -> Iterator[Row]:
    """For each size: every corruption (and severity), then the suite if all of it was run."""
    from ssa_analysis.data.corruptions import COMMON

    for side in sizes:
        count = images or DEFAULT_IMAGES.get(side, max(8, DEFAULT_IMAGES[32] * 32**2 // side**2))
        request = {"task": "both", "side": side, "images": count, "names": names, "repeats": repeats, "device": device}
        answer = run_worker(SCRIPT, request)

        def row(work: str, of: list[str], answer: dict[str, Any] = answer, count: int = count, side: int = side) -> Row:
            mine, theirs = (sum(answer["cells"][cell][k] for cell in of) * 1000 / count for k in (0, 1))
            name = f"{work}, {side} px, 1,000 images"
            return Row(name, PEER, mine, theirs, theirs / mine, device=answer["device"])

        for name in names:
            own = [f"{name} {severity}" for severity in SEVERITIES]
            if by_severity:
                yield from (row(f"{name}, severity {cell[-1]}", [cell]) for cell in own)
            yield row(f"{name}, five severities", own)
        if set(COMMON) <= set(names):
            yield row("the suite of 15 x 5", [f"{name} {severity}" for name in COMMON for severity in SEVERITIES])


def main() -> None:
    """Read the command line, print the rows."""
    from ssa_analysis.data.corruptions import CORRUPTIONS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--sizes", default="32,224", help="sides in pixels")
    parser.add_argument("--only", default=",".join(CORRUPTIONS), help="corruptions, separated by commas")
    parser.add_argument("--severities", action="store_true", help="a row for each severity too")
    parser.add_argument("--images", type=int, help="images a cell; default 250 at 32 px, 24 at 224")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--data-root", help=argparse.SUPPRESS)  # make benchmark passes it to all
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        request = json.loads(options.worker)
        print(json.dumps(measured(TASKS[request["task"]](request))))
        return
    if importlib.util.find_spec("imagecorruptions") is None:
        print("imagecorruptions-imaug is not installed: nothing to compare with", file=sys.stderr)
        return
    names = [name.strip() for name in options.only.split(",")]
    unknown = [name for name in names if name not in CORRUPTIONS]
    if unknown:
        parser.error(f"--only takes some of {', '.join(CORRUPTIONS)}, got {unknown[0]}")
    if options.smoke:
        options.sizes, options.images, options.repeats = "32", 2, 1
    if options.smoke or options.device != "cpu":
        IN_PROCESS.update(TASKS)
    sizes = [int(side) for side in options.sizes.split(",")]
    print_rows(rows(sizes, names, options.images, options.repeats, options.severities, options.device), options.json)


if __name__ == "__main__":
    main()
