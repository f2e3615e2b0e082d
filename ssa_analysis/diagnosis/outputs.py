"""Checks of what comes out: features and embeddings that have collapsed, units that never move, a projector that is missing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssa_analysis.diagnosis.findings import BROKEN, OK, SUSPICIOUS, UNKNOWN, Finding
from ssa_analysis.models.encoder import Encoder, in_batches

SPREAD = 0.05  # of the coordinates of unit vectors, as a share of what vectors spread evenly over the sphere have
THIN = 0.2
FEW = 3.0  # directions
DEAD, MOSTLY_DEAD = 0.1, 0.5


def spread(rows: Tensor) -> float:
    """Standard deviation of the coordinates of ``(n, d)`` rows made unit vectors, times sqrt(d): 1 where they fill the sphere,
    0 where all are one (Chen and He 2021, section 4.1)."""
    unit = normalize(rows.double(), dim=1)
    return float(unit.std(0).square().mean().sqrt() * rows.shape[1] ** 0.5)


def directions(rows: Tensor) -> float:
    """Effective number of directions of ``(n, d)`` rows: exponential of the entropy of the shares of the variance."""
    centred = rows.double() - rows.double().mean(0)
    variances = torch.linalg.svdvals(centred).square()
    share = variances / variances.sum().clamp_min(1e-300)
    return float(torch.exp(-(share * share.clamp_min(1e-300).log()).sum()))


def collapse(name: str, rows: Tensor) -> Finding:
    """Whether ``(n, d)`` features or embeddings say anything of their images."""
    how = (
        f"spread of the unit vectors against even spread on the sphere (below {SPREAD} broken, below {THIN} suspicious), and the "
        f"effective number of their directions (below {FEW:g} suspicious), on {len(rows)} images"
    )
    if not torch.isfinite(rows).all():
        return Finding(name, BROKEN, "NaN or infinite numbers on these images", how)
    width, count = spread(rows), directions(rows)
    seen = f"spread {width:.2g} of 1, {count:.1f} directions of {min(len(rows) - 1, rows.shape[1])}"
    if width < SPREAD:
        return Finding(name, BROKEN, f"{seen}: collapsed, all images give nearly one vector", how)
    if width < THIN or count < FEW:
        return Finding(name, SUSPICIOUS, f"{seen}: nearly collapsed", how)
    return Finding(name, OK, seen, how)


def dead_units(h: Tensor) -> Finding:
    """Features that are the same for every image."""
    how = f"units that are the same for all of {len(h)} images; above {DEAD:.0%} suspicious, above {MOSTLY_DEAD:.0%} broken"
    still = (h.amax(0) - h.amin(0)) <= 1e-6 * h.abs().amax().clamp_min(1e-30)
    share = float(still.float().mean())
    seen = f"{int(still.sum())} of {h.shape[1]} never change"
    verdict = BROKEN if share > MOSTLY_DEAD else SUSPICIOUS if share > DEAD else OK
    return Finding("dead units", verdict, seen, how)


def projector(has: bool, encoder: Encoder) -> Finding:
    """Whether there is an embedding for the contrastive loss."""
    how = "the names of the file's tensors"
    if has:
        return Finding("projector", OK, "there is one", how)
    if encoder.classifier is not None:
        return Finding("projector", OK, "none, as usual for a classifier: take --loss supervised, or --embedding features", how)
    seen = "none: the contrastive loss and the embedding need one; take --embedding features, or --loss supervised with a probe"
    return Finding("projector", SUSPICIOUS, seen, how)


def outputs(encoder: Encoder, images: Tensor) -> list[Finding]:
    """Features, dead units and embeddings on ``(n, 3, h, w)`` images."""
    h = in_batches(encoder.features, images, encoder.device, 128)
    found = [collapse("features", h), dead_units(h) if torch.isfinite(h).all() else _untold("dead units")]
    if encoder.projector is None:
        return found
    z = in_batches(encoder.embed_features, h, encoder.device, 512)
    return [*found, collapse("embedding", z)]


def _untold(check: str) -> Finding:
    return Finding(check, UNKNOWN, "not tried: the features are not finite", "")
