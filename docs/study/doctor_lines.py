"""Where the doctor draws its lines: its verdicts on networks whose training is known, read rightly and read wrongly.

    python docs/study/doctor_lines.py CIFAR-ROOT CHECKPOINT...

For each checkpoint, trained on CIFAR-10: the verdicts as it should be read, then under every other known normalisation and behind
every other stem that its weights fit. Prints a line of markdown for each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.normalisation import NORMALISATIONS
from ssa_analysis.diagnosis import fit
from ssa_analysis.diagnosis.findings import OK, SUSPICIOUS
from ssa_analysis.diagnosis.statistics import augmentations, nearest, other_stems, with_normalisation
from ssa_analysis.measures.base import resolve_recipe
from ssa_analysis.models.backbones import ResNet
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.seeding import generator
from ssa_analysis.running.plan import DataSpec, loaded_data

SAME = [{"cifar10", "cifar10-wrn", "cifar100"}]  # their means differ by at most 0.016


def verdicts(encoder: Encoder, shown: dict[str, torch.Tensor]) -> tuple[str, str, str, float]:
    """Of the statistics, of the normalisation, of the stem; and the distance."""
    own = nearest(encoder, shown)
    parts = fit.statistics(own), fit.normalisation(encoder, shown), fit.stem(encoder, own, shown)
    return (*(part.verdict for part in parts), own[1].median)  # type: ignore[return-value]


def main() -> None:
    data = loaded_data(DataSpec("cifar10", sys.argv[1], None, None, False))
    index = data.index_of("held-out")
    images = data.images[index[torch.randperm(len(index), generator=generator(0, "doctor"))[:256]]]
    print("| file | as it should be read | nats | wrong normalisations found | wrong stems found |")
    print("|---|---|---|---|---|")
    for path in map(Path, sys.argv[2:]):
        encoder = load_checkpoint(path).encoder
        shown = augmentations(images, resolve_recipe(encoder, data, "own"), 0)
        statistics, normalisation, stem, nats = verdicts(encoder, shown)
        right = f"statistics {statistics}, normalisation {normalisation}, stem {stem}"
        name = path.name if path.name != "last.pt" else path.parent.name
        print(f"| {name} | {right} | {nats:.2g} | {_normalisations(encoder, shown)} | {_stems(encoder, shown)} |", flush=True)


def _normalisations(encoder: Encoder, shown: dict[str, torch.Tensor]) -> str:
    own = next(name for name, constants in NORMALISATIONS.items() if fit._same(encoder, constants))
    near = next((group for group in SAME if own in group), {own})
    missed = []
    wrong = [name for name in NORMALISATIONS if name not in near]
    for name in wrong:
        verdict = fit.normalisation(with_normalisation(encoder, *NORMALISATIONS[name]), shown).verdict
        missed += [name] if verdict == OK else []
    return f"{len(wrong) - len(missed)} of {len(wrong)}{_but(missed)}"


def _stems(encoder: Encoder, shown: dict[str, torch.Tensor]) -> str:
    if not isinstance(encoder.backbone, ResNet):
        return "-"
    mean, std = (tuple(t.flatten().tolist()) for t in (encoder.mean, encoder.std))
    missed, others = [], other_stems(encoder.backbone)
    for name, backbone in others.items():
        wrong = Encoder(backbone, None, mean, std).eval()
        verdict = fit.stem(wrong, nearest(wrong, shown), shown).verdict
        missed += [name] if verdict != SUSPICIOUS else []
    return f"{len(others) - len(missed)} of {len(others)}{_but(missed)}"


def _but(missed: list[str]) -> str:
    return f" (not {', '.join(missed)})" if missed else ""


if __name__ == "__main__":
    main()
