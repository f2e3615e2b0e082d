"""The PAC-Bayes bound of a checkpoint: prior, noise, parts, and that nothing of the encoder is left moved."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.reading import file_hash
from ssa_analysis.checkpoints.writing import save_checkpoint
from ssa_analysis.data.datasets import Data
from ssa_analysis.data.fourier import FourierSettings
from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.scores import Score, find_score
from ssa_analysis.theory.blocks import BlocksOfPairs, batch_dependent
from ssa_analysis.theory.bounds import BoundsSettings, bounds
from ssa_analysis.theory.pac_bayes_run import evaluate, find_prior, other_split
from ssa_analysis.theory.weight_noise import NoisyLoss, batch_statistics

SETTINGS = {"bootstrap": 2, "scales": 4, "draws": 12, "noise_block": 8}


def pac_bayes(encoder: Encoder, data: Data, **settings: object) -> Score:
    return find_score(bounds(encoder, data, BoundsSettings(**{**SETTINGS, **settings})), "pac_bayes")  # type: ignore[arg-type]


def test_our_own_checkpoints_keep_their_prior(encoder: Encoder, digits: Data) -> None:
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    found = pac_bayes(encoder, digits)
    about = found.settings
    assert (about["prior"], about["split"], about["m"]) == ("initialisation", "train", 8)
    assert about["n"] == len(digits.splits["train"]) // 8
    assert encoder.initial is not None
    moved = sum(
        float((p.detach() - encoder.initial[name]).double().square().sum())
        for name, p in encoder.named_parameters()
        if name.split(".")[0] in ("backbone", "projector")
    )
    assert about["distance"] == pytest.approx(math.sqrt(moved))
    assert about["kl"] == pytest.approx(moved / (2 * about["scale"] ** 2))
    assert about["loss"] + about["sharpness"] + about["monte_carlo"] + about["complexity"] == pytest.approx(found.value)
    assert found.value == min(found.arrays["bound"])
    assert found.value <= about["b"]
    assert about["covers_theta"] in ("yes", "no", "undecided")
    assert about["sam_noisy"] <= about["sam_bound"]
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not any(m.training for m in encoder.modules())


def test_the_grid_trades_complexity_for_sharpness(encoder: Encoder, digits: Data) -> None:
    arrays = pac_bayes(encoder, digits, scale_min=1e-3, scale_max=1.0).arrays
    assert arrays["scale"] == pytest.approx(list(np.geomspace(1e-3, 1, 4)))
    assert arrays["kl"] == sorted(arrays["kl"], reverse=True)
    assert arrays["sharpness"][0] == pytest.approx(0, abs=5e-3)
    assert arrays["sharpness"][-1] > 0.05
    assert arrays["complexity"][-1] < arrays["complexity"][0]


def test_a_prior_that_is_the_checkpoint_costs_no_divergence(encoder: Encoder, digits: Data, tiny_checkpoint: Path) -> None:
    found = pac_bayes(encoder, digits, prior=str(tiny_checkpoint))
    about = found.settings
    assert (about["kl"], about["distance"], about["split"]) == (0, 0, "held-out")
    assert about["n"] == len(digits.splits["held-out"]) // 8
    assert BoundsSettings(prior=str(tiny_checkpoint)).prior_sha256 == file_hash(tiny_checkpoint)
    own = pac_bayes(encoder, digits)
    assert about["complexity"] < own.settings["complexity"]


def test_a_prior_that_saw_the_images_is_refused(encoder: Encoder, digits: Data, tiny_checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match=r"was trained on digits: .* take bounds.blocks=held-out"):
        pac_bayes(encoder, digits, prior=str(tiny_checkpoint), blocks="train")
    assert pac_bayes(encoder, digits, prior=str(tiny_checkpoint), blocks="probe").settings["split"] == "probe"


def test_a_file_without_initialisation_says_what_to_do(encoder: Encoder, digits: Data) -> None:
    encoder.initial = None
    assert find_prior(encoder, digits, "", "auto") is None
    scores = bounds(encoder, digits, BoundsSettings(**SETTINGS))  # type: ignore[arg-type]
    assert "pac_bayes" not in {s.name for s in scores}
    assert scores[0].settings["skipped"] == ["R9 PAC-Bayes: the file keeps no initialisation; name a prior checkpoint"]


def test_priors_that_do_not_fit(encoder: Encoder, digits: Data) -> None:
    noisy = NoisyLoss(encoder, 0.5, 14.0)
    assert encoder.initial is not None
    initial = dict(encoder.initial)
    name = next(k for k in initial if k.endswith("weight"))
    with pytest.raises(MeasureError, match=f"another architecture: '{name}' is absent there"):
        noisy.squared_distance({k: v for k, v in initial.items() if k != name})
    with pytest.raises(MeasureError, match="has shape"):
        noisy.squared_distance({**initial, name: torch.zeros(1)})
    with pytest.raises(MeasureError, match="NaN"):
        noisy.squared_distance({**initial, name: initial[name] * torch.nan})


def test_a_file_whose_initialisation_is_no_state_dict(tiny_checkpoint: Path, tmp_path: Path) -> None:
    payload = torch.load(tiny_checkpoint, weights_only=True)
    save_checkpoint(tmp_path / "odd.pt", {**payload, "initial": [1, 2]})
    with pytest.raises(Exception, match="initial weights are not a state dict"):
        load_checkpoint(tmp_path / "odd.pt")


def test_blocks_are_disjoint_and_each_its_own(encoder: Encoder, digits: Data) -> None:
    blocks = BlocksOfPairs(encoder, digits, "held-out", "own", 8, 0)
    assert len(blocks) == len(digits.splits["held-out"]) // 8
    drawn = torch.cat(blocks.images)
    assert len(drawn.unique()) == len(drawn)
    again = BlocksOfPairs(encoder, digits, "held-out", "own", 8, 0)
    assert torch.equal(blocks[3].first, again[3].first)
    assert not torch.equal(blocks[3].first, blocks[3].second)
    assert len(BlocksOfPairs(encoder, digits, "held-out", "own", 10_000, 0)) == 0


def test_blocks_are_normalised_by_their_own_statistics(encoder: Encoder, digits: Data) -> None:
    """The loss of a block is that of training mode, and running statistics neither matter nor move."""
    block = BlocksOfPairs(encoder, digits, "held-out", "own", 8, 0)[0]
    noisy = NoisyLoss(encoder, 0.5, 14.0)
    with batch_statistics(encoder) as normalised:
        assert normalised
        found = noisy.clean([block])[0]
    running = next(m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d))
    before = running.running_mean.clone()  # type: ignore[union-attr]
    other = dataclasses.replace(noisy)
    running.running_mean.add_(5.0)  # type: ignore[union-attr]
    with batch_statistics(encoder):
        assert other.clean([block])[0] == pytest.approx(found)
    assert torch.equal(running.running_mean, before + 5.0)  # type: ignore[arg-type]
    encoder.train()
    assert float(noisy.loss(block).detach()) == pytest.approx(found, rel=1e-6)


def test_noise_is_drawn_anew_for_each_block_and_scaled(encoder: Encoder, digits: Data) -> None:
    blocks = BlocksOfPairs(encoder, digits, "held-out", "own", 8, 0)
    noisy = NoisyLoss(encoder, 0.5, 14.0)
    with batch_statistics(encoder):
        same = [blocks[0]] * 4
        clean = noisy.clean(same)
        rises = noisy.rises(same, clean, 0.05, 0)
        assert len(set(rises.round(12).tolist())) == 4
        assert np.array_equal(rises, noisy.rises(same, clean, 0.05, 0))
        assert not np.array_equal(rises, noisy.rises(same, clean, 0.05, 1))
        assert noisy.rises(same, clean, 1e-6, 0) == pytest.approx(np.zeros(4), abs=1e-3)
        assert noisy.worst_case(same[:1], 0.5, 3) > clean[0]


def test_a_loss_beyond_numbers_is_one_line(encoder: Encoder, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    block = BlocksOfPairs(encoder, digits, "held-out", "own", 8, 0)[0]
    noisy = NoisyLoss(encoder, 0.5, 14.0)
    monkeypatch.setattr(NoisyLoss, "loss", lambda self, block: torch.tensor(math.nan))
    with pytest.raises(MeasureError, match=r"not finite under weight noise of scale 0\.1"):
        noisy.rises([block], np.zeros(1), 0.1, 0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"scales": -1}, "bounds.scales"), ({"draws": 1}, "bounds.draws"), ({"scale_min": 2.0}, "scale_min"),
        ({"noise_block": 1}, "noise_block"), ({"blocks": "trian"}, "did you mean train"),
        ({"prior_sha256": "ab"}, "belongs to"), ({"delta_draws": 1.0}, "delta_draws"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        BoundsSettings(**settings)  # type: ignore[arg-type]


def mixing(encoder: Encoder, **fourier: object) -> Encoder:
    assert encoder.recipe is not None
    encoder.recipe = dataclasses.replace(encoder.recipe, fourier=FourierSettings(**fourier))  # type: ignore[arg-type]
    return encoder


def test_views_that_mix_images_have_no_certified_chain_and_no_bounded_differences(encoder: Encoder, digits: Data) -> None:
    """Negatives of a batch then depend on the pair, and one image has a part in the views of others."""
    scores = bounds(mixing(encoder), digits, BoundsSettings(**SETTINGS))  # type: ignore[arg-type]
    names = {s.name for s in scores}
    assert {"certificate", "certificate_kl", "pac_bayes", "R9", "chain"} <= names
    assert not {"certificate_bounded_differences", "chain_pac_bayes", "share_complexity"} & names
    chain = find_score(scores, "chain")
    assert chain.settings["confidence"] is None
    assert chain.arrays["step"][-1] == "finite K"
    assert chain.settings["skipped"] == [
        "the chain's certificate: views mix images, so that R4 does not lead to the loss of a batch"
    ]
    assert find_score(scores, "pac_bayes").arrays["by_differences"] == [None] * 4


def test_partners_chosen_by_the_trained_features_have_no_pac_bayes_bound(encoder: Encoder, digits: Data) -> None:
    scores = bounds(mixing(encoder, partner="nearest"), digits, BoundsSettings(**SETTINGS))  # type: ignore[arg-type]
    assert "pac_bayes" not in {s.name for s in scores}
    assert any(text.startswith("R9 PAC-Bayes: the trained features choose") for text in scores[0].settings["skipped"])


def test_the_bound_is_checked_on_a_split_it_is_not_from() -> None:
    assert [other_split(split) for split in ("train", "probe", "held-out")] == ["held-out", "held-out", "probe"]


def test_the_check_s_error_is_that_of_the_noisy_losses_themselves(encoder: Encoder, digits: Data) -> None:
    """Clean loss and rise of a block go together, so that their errors do not add up as independent ones would."""
    prior = find_prior(encoder, digits, "", "auto")
    assert prior is not None
    found = evaluate(
        encoder, digits, prior, views="own", tau=0.5, beta=14.0, size=8, scales=np.array([0.05, 0.5]), draws=12, delta=0.05,
        delta_draws=0.01, seed=3,
    )  # fmt: skip
    noisy, unseen = NoisyLoss(encoder, 0.5, 14.0), BlocksOfPairs(encoder, digits, "held-out", "own", 8, 3)
    apart = [unseen[number] for number in range(4)]
    as_it_is = noisy.clean(apart)
    with batch_statistics(encoder):
        there = noisy.clean(apart)
        losses = there + noisy.rises(apart, there, found.best.scale, 4)
    assert found.noisy_loss == pytest.approx(losses.mean())
    assert found.noisy_stderr == pytest.approx(losses.std(ddof=1) / 2)
    assert (found.loss_as_it_is, found.loss_by_blocks) == pytest.approx((as_it_is.mean(), there.mean()))


def test_the_chain_says_what_batch_statistics_cost_and_whether_it_is_a_bound(encoder: Encoder, digits: Data) -> None:
    chain = find_score(bounds(encoder, digits, BoundsSettings(**SETTINGS)), "chain_pac_bayes")  # type: ignore[arg-type]
    assert chain.arrays["step"][-4:] == ["BatchNorm", "sharpness", "Monte Carlo", "complexity"]
    about = chain.settings
    assert about["bound"] == (about["batch_norm"] >= 0 and about["covers_theta"] == "yes")
    step = dict(zip(chain.arrays["step"], chain.arrays["value"], strict=True))["BatchNorm"]
    assert (step >= 0) == (about["batch_norm"] >= 0)
    assert sum(chain.arrays["value"]) == pytest.approx(chain.value)


def test_batchnorm_without_running_statistics_makes_images_depend_on_their_batch(encoder: Encoder, digits: Data) -> None:
    assert not batch_dependent(encoder)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    assert batch_dependent(encoder)
    with batch_statistics(encoder) as normalised:
        assert normalised
    scores = bounds(encoder, digits, BoundsSettings(**{**SETTINGS, "scales": 0}))  # type: ignore[arg-type]
    assert "certificate_bounded_differences" not in {s.name for s in scores}
