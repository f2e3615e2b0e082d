"""Files that a real Lightning trainer writes for modules with solo-learn's and lightly's names."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from project_modules import mlp, resnet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.normalisation import NORMALISATIONS
from ssa_analysis.numerics.seeding import seeded


def lightning() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")


def trained(module: Any, file: Path) -> Any:
    """One step by the trainer, with a checkpoint callback, an optimiser and a scheduler in the file."""
    library = lightning()
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8) % 4
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=8)
    keep = library.callbacks.ModelCheckpoint(dirpath=file.parent / "kept", save_last=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = library.Trainer(max_steps=1, accelerator="cpu", logger=False, callbacks=[keep], enable_progress_bar=False,
                                  enable_model_summary=False)  # fmt: skip
        trainer.fit(module, loader)
        trainer.save_checkpoint(file)
    return module.eval()


def module_of(parts: dict[str, nn.Module], features: Any, hyper_parameters: Any) -> Any:
    class Module(lightning().LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)
            self.save_hyperparameters({"cfg": hyper_parameters, "root": Path("/data/set")})

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return cross_entropy(self.classifier(features(self, batch[0])), batch[1])

        def configure_optimizers(self) -> Any:
            optimiser = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
            return [optimiser], [torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10)]

    return Module()


def same(file: Path, net: Any, head: Any, normalisation: str) -> str:
    loaded, images = load_checkpoint(file), torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in NORMALISATIONS[normalisation])
    with torch.no_grad():
        features = net((images - mean) / std).flatten(1)
        torch.testing.assert_close(loaded.encoder.features(images), features, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(loaded.encoder.embed(images), normalize(head(features), dim=1), atol=1e-5, rtol=1e-5)
    assert loaded.report.left_over["optimizer_states"] == "optimizer state"
    return loaded.report.layout


def test_solo_learn_with_its_configuration(tmp_path: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf", reason="omegaconf is not installed")
    lightning()
    with seeded(0, "solo"):
        parts = {"backbone": resnet(stem="padding 2"), "projector": mlp(512, 32, 8), "classifier": nn.Linear(512, 4),
                 "momentum_backbone": resnet(stem="padding 2"), "momentum_projector": mlp(512, 32, 8)}  # fmt: skip
    cfg = omegaconf.OmegaConf.create({"method": "byol", "optimizer": {"lr": 0.1}, "data": {"dataset": "cifar10"}})
    module = trained(module_of(parts, lambda self, x: self.backbone(x), cfg), tmp_path / "byol.ckpt")
    assert same(tmp_path / "byol.ckpt", module.backbone, module.projector, "cifar10") == "solo-learn-cifar"


def test_solo_learn_with_a_vision_transformer(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    lightning()
    with seeded(0, "solo vit"):
        net = timm.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, num_classes=0
        )
        parts = {"backbone": net, "projector": mlp(128, 32, 8), "classifier": nn.Linear(128, 4)}
    module = trained(module_of(parts, lambda self, x: self.backbone(x), {"method": "simclr"}), tmp_path / "vit.ckpt")
    assert same(tmp_path / "vit.ckpt", module.backbone, module.projector, "imagenet") == "solo-learn-vit"


def test_lightly_s_benchmark(tmp_path: Path) -> None:
    library = lightning()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("lightly", reason="lightly is not installed")
        from lightly.models import ResNetGenerator
        from lightly.models.modules import SimCLRProjectionHead
    with seeded(0, "lightly"):
        net = nn.Sequential(*list(ResNetGenerator("resnet-18", 1, num_splits=0).children())[:-1], nn.AdaptiveAvgPool2d(1))
        parts = {"backbone": net, "projection_head": SimCLRProjectionHead(512, 64, 16), "classifier": nn.Linear(512, 4)}
    module = module_of(parts, lambda self, x: self.classifier_input(x), {"method": "simclr"})
    module.classifier_input = lambda x: module.backbone(x).flatten(1)
    trained(module, tmp_path / "last.ckpt")
    assert isinstance(module, library.LightningModule)
    assert same(tmp_path / "last.ckpt", module.backbone, module.projection_head, "imagenet") == "lightly-cifar"
