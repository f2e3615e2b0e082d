"""Seeds: a function of what they are for, and of nothing else."""

from __future__ import annotations

import pytest
import torch

from ssa_analysis.numerics.seeding import derive_seed, generator, seeded


def test_seeds_differ_by_seed_and_by_every_key() -> None:
    variants = [
        (0,),
        (1,),
        (0, "a"),
        (0, "b"),
        (0, "a", "b"),
        (0, "ab"),
        (0, "a', 'b"),
        (0, "a", 1),
        (0, "a", 11),
        (0, "a", 1, 1),
    ]
    seeds = [derive_seed(*variant) for variant in variants]  # type: ignore[arg-type]
    assert len(set(seeds)) == len(variants)
    assert all(0 <= seed < 2**62 for seed in seeds)


def test_a_seed_is_the_same_in_every_process() -> None:
    """Python's own hash of strings is not; resumed runs and stored scores depend on this number staying what it is."""
    assert derive_seed(7, "views", 3) == 1094130199519702197


def test_seeded_restores_the_global_generator_even_after_an_error() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(0, "block"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(5)
    with pytest.raises(ZeroDivisionError), seeded(0, "block"):
        _ = 1 / 0
    assert torch.equal(torch.rand(3), expected)
    with seeded(0, "block"):
        assert torch.equal(torch.rand(3), inside)


def test_generators_of_one_seed_and_purpose_agree() -> None:
    draw = torch.rand(4, generator=generator(3, "noise"))
    assert torch.equal(torch.rand(4, generator=generator(3, "noise")), draw)
    assert not torch.equal(torch.rand(4, generator=generator(3, "views")), draw)
    with seeded(3, "noise"):
        assert torch.equal(torch.rand(4), draw)


def test_seeded_on_the_cpu_leaves_the_generators_of_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or scores of a network in training would give its dropout the same draws after every record."""
    touched: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched.append)
    with seeded(0, "block"):
        pass
    assert not touched
