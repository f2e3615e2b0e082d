"""Randomness from explicit seeds: every random choice has a seed derived from the user's and from what it is for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *keys: object) -> int:
    """A seed in [0, 2^62) that depends on ``seed`` and on every key, and on nothing else.

    Stateless: the views of step 700 do not depend on whether steps 1-699 ran in this process, which is what makes
    a resumed run equal an unbroken one.
    """
    text = repr((int(seed), *map(str, keys)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


def generator(seed: int, *keys: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by ``derive_seed(seed, *keys)``."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *keys))


@contextmanager
def seeded(seed: int, *keys: object, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators, of the CPU and of ``device``, inside the block and restore them after it.

    For libraries that take no generator (kornia's augmentations, module initialisation). The generators of other devices
    are left alone, which ``torch.manual_seed`` would not do.
    """
    device = torch.device(device)
    devices = [device.index if device.index is not None else torch.cuda.current_device()] if device.type == "cuda" else []
    value = derive_seed(seed, *keys)
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(value)
        for index in devices:
            torch.cuda.default_generators[index].manual_seed(value)
        yield
