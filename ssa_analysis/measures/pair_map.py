"""A map of pairs in the plane, for a figure: where both ends of ideal and practical pairs lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MAP_PAIRS = 60  # of each kind; more would hide each other


def map_of_pairs(ideal: tuple[Tensor, Tensor], practical: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Both ends of some pairs ``(k, d)`` on the two principal components of all of them.

    Returns:
        ``map_ideal`` and ``map_practical``, each a list of ``[x, y, x+, y+]``, and ``map_share``, the share of the
        variance that the plane shows.
    """
    every = torch.cat([*ideal, *practical]).double()
    centre = every.mean(0)
    covariance = torch.atleast_2d(torch.cov(every.T))
    values, vectors = torch.linalg.eigh(covariance)
    plane = vectors[:, -2:].flip(1)
    if plane.shape[1] < 2:  # one dimension has no plane
        plane = torch.cat([plane, torch.zeros_like(plane)], dim=1)
    # an eigenvector has no sign of its own
    plane = plane * torch.where(plane.gather(0, plane.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)

    def points(pair: tuple[Tensor, Tensor]) -> list[list[float]]:
        ends = [(side[:MAP_PAIRS].double() - centre) @ plane for side in pair]
        return [[round(v, 6) for v in row] for row in torch.cat(ends, dim=1).tolist()]

    share = float(values[-2:].sum() / values.sum()) if float(values.sum()) > 0 else 0.0
    return {"map_ideal": points(ideal), "map_practical": points(practical), "map_share": share}
