"""NT-Xent against a published library: pytorch-metric-learning."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from ssa_analysis.numerics.contrastive import nt_xent

losses = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed")


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_nt_xent_and_its_gradient_equal_pytorch_metric_learning(tau: float) -> None:
    rng = torch.Generator().manual_seed(0)
    raw = torch.randn(20, 8, dtype=torch.float64, generator=rng)
    labels = torch.arange(10).repeat(2)

    def run(theirs: bool) -> tuple[torch.Tensor, torch.Tensor]:
        x = raw.clone().requires_grad_()
        z = normalize(x, dim=1)
        loss = losses.NTXentLoss(temperature=tau)(z, labels) if theirs else nt_xent(z[:10], z[10:], tau).mean()
        loss.backward()
        return loss.detach(), x.grad

    (ours, our_gradient), (peer, peer_gradient) = run(False), run(True)
    torch.testing.assert_close(ours, peer, rtol=1e-9, atol=0)
    torch.testing.assert_close(our_gradient, peer_gradient, rtol=1e-7, atol=1e-12)
