"""Certificates of one checkpoint's contrastive loss, ours and those of van Elst and Ghoshdastidar (arXiv 2412.03486).

    python docs/study/certificates.py CHECKPOINT --data NAME [--data-root DIR] [--subset N] [--block 64] [--delta 0.04]

The same embeddings, n, m, delta and KL = 0. Theirs are about the loss with ``m - 1`` negatives, so that one is certified by both;
NT-Xent proper, with all ``2m - 2``, by ours.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.data.datasets import load_data
from ssa_analysis.theory.blocks import BlocksOfPairs, embedded_blocks
from ssa_analysis.theory.r9_certificate import block_losses, certify, kl_inverse


def simplified(first: torch.Tensor, second: torch.Tensor, size: int, tau: float, extra: float = 0.0) -> np.ndarray:
    """``(n,)`` losses of blocks with ``m - 1`` negatives, the other pairs' second views, both directions averaged.

    ``extra`` is added to the sum of exponentials.
    """
    losses = []
    for a, b in zip(first.split(size), second.split(size), strict=True):
        logits = a @ b.T / tau
        sums = [torch.log(matrix.exp().sum(1) + extra) - matrix.diagonal() for matrix in (logits, logits.T)]
        losses.append(float(torch.stack(sums).mean()))
    return np.array(losses)


def theirs(first: torch.Tensor, second: torch.Tensor, size: int, tau: float, delta: float) -> dict[str, float]:
    """Their certificates of the loss with ``m - 1`` negatives at KL = 0, with the constants of their published code."""
    losses = simplified(first, second, size, tau)
    m, n, images, mean = size, len(losses), len(losses) * size, float(losses.mean())
    largest = 2 / tau + math.log(m)
    budget = math.log(2 * math.sqrt(n) / delta) / n
    # theorem 2: the range 4/tau of an anchor's own loss, and what one negative changes in the m - 1 others
    change = 4 / tau + (m - 1) * math.log((m - 1 + math.exp(2 / tau)) / m)
    # theorem 1: the loss with epsilon, its chance of failure put at alpha
    alpha = 0.4
    epsilon = (math.exp(1 / tau) - math.exp(-1 / tau)) * math.sqrt((m - 1) * math.log(2 / delta) / (2 * alpha))
    most = 1 / tau + math.log(m * math.exp(1 / tau) + epsilon)
    share = float(simplified(first, second, size, tau, 2 * epsilon).mean()) / most + (delta / 2) ** ((1 - alpha) / alpha)
    modified = kl_inverse(min(share, 1.0), math.log(math.sqrt(images) / delta) / images) + (delta / 2) ** (1 / alpha)
    return {
        "theirs: blocks, classic": mean + largest * math.sqrt(budget / 2),
        "theirs: blocks, kl": largest * kl_inverse(mean / largest, budget),
        "theirs: epsilon-modified kl (theorem 1)": most * modified,
        "theirs: bounded differences (theorem 2)": mean + change * math.sqrt(math.log(2 * images / delta) / (2 * (images - 1))),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-root")
    parser.add_argument("--subset", type=int)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--delta", type=float, default=0.04)
    options = parser.parse_args()
    data = load_data(options.data, options.data_root, subset=options.subset, download=False)
    encoder = load_checkpoint(options.checkpoint).encoder
    tau, m, delta = float(encoder.loss["tau"]), options.block, options.delta
    blocks = BlocksOfPairs(encoder, data, "held-out", "own", m, 0)
    first, second = embedded_blocks(encoder, blocks)
    n = len(blocks)
    images = n * m
    print(f"n {n} blocks, m {m}, N {images} images, tau {tau}, delta {delta}, KL 0\n")
    print("| loss | bound | value | above the mean |\n| --- | --- | --- | --- |")
    simple, full = "m - 1 negatives", "NT-Xent, 2m - 2 negatives"
    for name, losses, beta in (
        (simple, simplified(first, second, m, tau), m - 1.0),
        (full, block_losses(first, second, m, tau, 2.0 * m - 2), 2.0 * m - 2),
    ):
        mean = float(losses.mean())
        ours = certify(losses, m, tau, beta, delta)
        rows = {"mean": mean, **(theirs(first, second, m, tau, delta) if name == simple else {}), "ours: blocks, kl": ours.kl}
        if name == full:
            rows["ours: bounded differences"] = ours.bounded_differences
        rows |= {"ours: betting": ours.betting, "a constant embedding's loss": math.log1p(beta)}
        for bound, value in rows.items():
            print(f"| {name} | {bound} | {value:.4f} | {value - mean:+.4f} |")


if __name__ == "__main__":
    main()
