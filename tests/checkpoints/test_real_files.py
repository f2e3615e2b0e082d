"""Files of other projects, as their authors saved them, reach the accuracies that are known on the official test images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.models.encoder import in_batches
from ssa_analysis.numerics.classifiers import fit_logistic, standardise

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ACCURACY = {  # per cent of the 10,000 official test images
    "akamaster_resnet20-12fca82f.th": 91.73,
    "akamaster_resnet56-4bfd9763.th": 93.39,
    "losslandscape_resnet56_model_300.t7": 93.66,
    "losslandscape_resnet56_noshort_model_300.t7": 86.69,
    "pyhessian_net.pkl": 92.01,
    "distiller_checkpoint_trained_dense.pth.tar": 91.71,
    "phlippe_t5_ResNet.ckpt": 91.06,
    "captum_cifar_torchvision.pt": 59.07,
    "phlippe_t4_SGD.tar": 89.09,
    "phlippe_t4_Adam.tar": 89.46,
}
needs_files = pytest.mark.skipif(
    not (SHARED / "checkpoints").is_dir(), reason=f"no files of other projects at {SHARED}/checkpoints"
)
pytestmark = [pytest.mark.slow, needs_files]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, Tensor]]:
    """Test images ``(n, 3, h, w)`` and labels of CIFAR-10 and Fashion-MNIST."""
    import torchvision.datasets as sets

    root = tmp_path_factory.mktemp("images")
    subprocess.run([sys.executable, str(SHARED / "unpack.py"), str(root)], check=True)
    cifar, fashion = sets.CIFAR10(root, train=False), sets.FashionMNIST(root, train=False)
    training = sets.CIFAR10(root, train=True)
    grey = fashion.data[:, None].expand(-1, 3, -1, -1)
    return {
        "cifar10": (torch.from_numpy(cifar.data).permute(0, 3, 1, 2), torch.tensor(cifar.targets)),
        "cifar10, training": (torch.from_numpy(training.data).permute(0, 3, 1, 2), torch.tensor(training.targets)),
        "fashion": (grey, fashion.targets),
    }


@pytest.mark.parametrize("name", ACCURACY)
def test_the_accuracy_that_is_known(images: dict[str, tuple[Tensor, Tensor]], name: str) -> None:
    """All images for small networks; every twentieth for ResNet-56, within four standard errors."""
    encoder = load_checkpoint(SHARED / "checkpoints" / name).encoder
    pixels, labels = images["fashion" if "t4" in name else "cifar10"]
    step = 20 if "resnet" in name.lower() or name.startswith(("pyhessian", "distiller")) else 1
    right = in_batches(encoder.logits, pixels[::step], torch.device("cpu")).argmax(1) == labels[::step]
    accuracy, known = float(right.double().mean()), ACCURACY[name] / 100
    error = (known * (1 - known) / len(right)) ** 0.5
    assert abs(accuracy - known) < (4 * error if step > 1 else 5e-5)


def test_the_linear_probe_of_the_autoencoder_s_features(images: dict[str, tuple[Tensor, Tensor]]) -> None:
    """38.9 % on the test images, fitted on 20,000 training images, where the standard error is 0.5 %."""
    encoder = load_checkpoint(SHARED / "checkpoints" / "phlippe_t9_ae_128.ckpt").encoder
    (pixels, y), (test, labels) = images["cifar10, training"], images["cifar10"]
    x, held_out = (in_batches(encoder.features, part, torch.device("cpu")) for part in (pixels[:20_000], test))
    probe = fit_logistic(*standardise(x, x)[:1], y[:20_000], 10, l2=1e-3)
    accuracy = (probe.logits(standardise(x, held_out)[1]).argmax(1) == labels).double().mean()
    assert float(accuracy) == pytest.approx(0.389, abs=0.003)


def test_every_tensor_has_a_place_or_a_reason() -> None:
    for path in sorted((SHARED / "checkpoints").iterdir()):
        report = load_checkpoint(path).report
        assert report.places, path.name
        assert set(report.left_over.values()) <= {"decoder", "optimizer state", "beside the network's weights"}, path.name
