"""Files that the libraries themselves write: features and embedding are those of the library's module, to 1e-5."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.normalisation import NORMALISATIONS
from ssa_analysis.checkpoints.options import load_options
from ssa_analysis.errors import CheckpointError, MeasureError
from ssa_analysis.numerics.seeding import seeded

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def images(size: int = 32) -> Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def normalised(name: str, size: int = 32) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in NORMALISATIONS[name])
    return (images(size) - mean) / std


def disturbed(module: nn.Module) -> nn.Module:
    """Weights and statistics away from their starts, so that each of them matters; in evaluation mode."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            part.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
    return module.eval()


def timm_vit(**changes: Any) -> Any:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    plan = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2, "num_classes": 5, **changes}
    with seeded(0, "timm"):
        return disturbed(timm.models.vision_transformer.VisionTransformer(**plan))


def named(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(
    "changes", [{}, {"qkv_bias": False}, {"init_values": 0.1}, {"reg_tokens": 2, "no_embed_class": True}], ids=str
)
def test_timm_s_vision_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    net = timm_vit(**changes)
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    loaded = load_checkpoint(tmp_path / "vit.pth")
    with torch.no_grad():
        tokens = net.forward_features(normalised("imagenet"))
        torch.testing.assert_close(loaded.encoder.features(images()), tokens[:, 0], **CLOSE)
        torch.testing.assert_close(loaded.encoder.logits(images()), net(normalised("imagenet")), **CLOSE)
        mean = load_checkpoint(tmp_path / "vit.pth", load_options(recipe=["pool=mean"])).encoder.features(images())
        torch.testing.assert_close(mean, tokens[:, net.num_prefix_tokens :].mean(1), **CLOSE)
    assert loaded.report.layout == "timm-vit"
    assert loaded.report.arch == "vit of 3 blocks with 128 channels/8, for 32 pixels"


def test_a_vision_transformer_takes_other_sizes_as_timm_does_and_refuses_what_is_no_multiple(tmp_path: Path) -> None:
    net = timm_vit(dynamic_img_size=True)
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    encoder = load_checkpoint(tmp_path / "vit.pth").encoder
    with torch.no_grad():
        # timm smooths as it resizes, DINO does not: the same to a few per cent
        theirs = net.forward_features(normalised("imagenet", 48))[:, 0]
        assert float((encoder.features(images(48)) - theirs).norm() / theirs.norm()) < 0.05
    with pytest.raises(MeasureError, match=r"images of 36 pixels are no multiple of .* patches of 8; pass --image-size 32"):
        encoder.features(images(36))


def test_the_hessian_of_a_vision_transformer_can_be_had(tmp_path: Path) -> None:
    torch.save(timm_vit().state_dict(), tmp_path / "vit.pth")
    encoder = load_checkpoint(tmp_path / "vit.pth").encoder
    weight = encoder.backbone.blocks[0].attn.qkv.weight
    loss = encoder.logits(images()).square().sum()
    (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), weight)
    assert float(second.abs().max()) > 0


def test_the_number_of_heads_is_not_in_the_file(tmp_path: Path) -> None:
    """Another number is another function, which is why it is told."""
    net = timm_vit(num_heads=4)
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    with torch.no_grad():
        theirs = net.forward_features(normalised("imagenet"))[:, 0]
        said = load_checkpoint(tmp_path / "vit.pth", load_options(recipe=["heads=4"]))
        torch.testing.assert_close(said.encoder.features(images()), theirs, **CLOSE)
        assumed = load_checkpoint(tmp_path / "vit.pth")
        assert float((assumed.encoder.features(images()) - theirs).abs().max()) > 1e-3
    assert any(text.startswith("2 heads") for text in assumed.report.assumptions)
    with pytest.raises(CheckpointError, match="3 heads do not share 128 channels"):
        load_checkpoint(tmp_path / "vit.pth", load_options(recipe=["heads=3"]))


def test_dino_s_teacher(tmp_path: Path) -> None:
    net = timm_vit(num_classes=0)
    with seeded(0, "dino"):
        mlp = disturbed(nn.Sequential(nn.Linear(128, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 16)))
        last = nn.Linear(16, 50, bias=False)
    teacher = {**named(net, "backbone."), **named(mlp, "head.mlp."), **named(last, "head.last_layer.")}
    student = {f"module.{name}": torch.zeros_like(tensor) for name, tensor in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 100}, tmp_path / "dino.pth")
    loaded = load_checkpoint(tmp_path / "dino.pth")
    with torch.no_grad():
        features = net.forward_features(normalised("imagenet"))[:, 0]
        torch.testing.assert_close(loaded.encoder.features(images()), features, **CLOSE)
        torch.testing.assert_close(loaded.encoder.embed(images()), normalize(mlp(features), dim=1), **CLOSE)
    assert (loaded.report.layout, loaded.report.left_over["head.last_layer.weight"]) == ("dino", "prototypes")
    assert "student" in loaded.report.left_over


def test_moco_v3_s_vision_transformer_has_twelve_heads(tmp_path: Path) -> None:
    net = timm_vit(embed_dim=96, num_heads=12, num_classes=0)
    with seeded(0, "moco"):
        first, second = nn.Linear(96, 32, bias=False), nn.Linear(32, 16, bias=False)
        head = disturbed(nn.Sequential(first, nn.BatchNorm1d(32), nn.ReLU(), second, nn.BatchNorm1d(16, affine=False)))
    state = {**named(net, "module.base_encoder."), **named(head, "module.base_encoder.head.")}
    state |= {name.replace("base_encoder", "momentum_encoder"): tensor for name, tensor in state.items()}
    torch.save({"state_dict": state, "arch": "vit_small"}, tmp_path / "moco.pth")
    loaded = load_checkpoint(tmp_path / "moco.pth")
    with torch.no_grad():
        features = net.forward_features(normalised("imagenet"))[:, 0]
        torch.testing.assert_close(loaded.encoder.features(images()), features, **CLOSE)
        torch.testing.assert_close(loaded.encoder.embed(images()), normalize(head(features), dim=1), **CLOSE)
    assert loaded.report.layout == "moco-v3-vit"


def test_timm_s_resnet(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    with seeded(0, "timm"):
        net = disturbed(timm.create_model("resnet18", num_classes=3))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    with torch.no_grad():
        ours = load_checkpoint(tmp_path / "net.pth").encoder.logits(images(64))
        torch.testing.assert_close(ours, net(normalised("imagenet", 64)), **CLOSE)


def transformers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.parametrize("classifier", [False, True])
def test_hugging_face_s_vision_transformer(tmp_path: Path, classifier: bool) -> None:
    library = transformers()
    config = library.ViTConfig(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=4,
    )
    with seeded(0, "hf"):
        net = disturbed((library.ViTForImageClassification if classifier else library.ViTModel)(config))
    net.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    with torch.no_grad():
        trunk = net.vit if classifier else net
        features = trunk(normalised("half")).last_hidden_state[:, 0]
        torch.testing.assert_close(loaded.encoder.features(images()), features, **CLOSE)
        if classifier:
            torch.testing.assert_close(loaded.encoder.logits(images()), net(normalised("half")).logits, **CLOSE)
    assert loaded.report.layout == "huggingface-vit"


def test_a_hugging_face_folder_says_heads_eps_and_normalisation(tmp_path: Path) -> None:
    """Four heads of 32 channels, where the usual would be two of 64; the file of weights alone cannot say."""
    library = transformers()
    config = library.ViTConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32,
                               patch_size=8, layer_norm_eps=1e-3)  # fmt: skip
    with seeded(0, "hf"):
        net = disturbed(library.ViTModel(config))
    net.save_pretrained(tmp_path)
    preprocessor = {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "rescale_factor": 1 / 255}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (tmp_path / "training_args.bin").write_bytes(b"not weights")
    loaded = load_checkpoint(tmp_path)
    mean, std = (torch.tensor(preprocessor[name]).view(1, 3, 1, 1) for name in ("image_mean", "image_std"))
    with torch.no_grad():
        features = net((images() - mean) / std).last_hidden_state[:, 0]
        torch.testing.assert_close(loaded.encoder.features(images()), features, **CLOSE)
    said = loaded.report.assumptions
    assert "4 heads (from config.json)" in said
    assert "LayerNorm eps 0.001 (from config.json)" in said
    assert "input normalisation: 0.4,0.5,0.6/0.2,0.3,0.4 (from preprocessor_config.json)" in said
    assert (
        "input normalisation: none, pixels in [0, 1] (as you say)"
        in load_checkpoint(tmp_path, load_options(recipe=["normalisation=none"])).report.assumptions
    )
    before = loaded.report.sha256
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**preprocessor, "do_normalize": False}))
    again = load_checkpoint(tmp_path / "model.safetensors")
    assert "input normalisation: none, pixels in [0, 1] (from preprocessor_config.json)" in again.report.assumptions
    assert again.report.sha256 != before, "other numbers need another key"


def test_a_hugging_face_folder_in_shards(tmp_path: Path) -> None:
    library = transformers()
    config = library.ViTConfig(hidden_size=128, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=32,
                               patch_size=8)  # fmt: skip
    with seeded(0, "hf"):
        net = disturbed(library.ViTModel(config))
    net.save_pretrained(tmp_path, max_shard_size="200KB")
    index = tmp_path / "model.safetensors.index.json"
    assert index.is_file()
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = load_checkpoint(tmp_path)
    with torch.no_grad():
        features = net(normalised("half")).last_hidden_state[:, 0]
        torch.testing.assert_close(loaded.encoder.features(images()), features, **CLOSE)
    content = json.loads(index.read_text())
    for bad in ("../model.safetensors", str(tmp_path / "x.safetensors")):
        index.write_text(json.dumps({**content, "weight_map": {**content["weight_map"], "layernorm.bias": bad}}))
        with pytest.raises(CheckpointError, match="which is no file beside it"):
            load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"num_attention_heads": 2, "hidden_act": "quick_gelu"}', "hidden_act 'quick_gelu' is not known here"),
        ("config.json", '{"num_attention_heads": "two"}', "a value of the wrong kind"),
        ("config.json", "[1]", "no JSON object"),
        ("config.json", "{", "cannot be read as JSON"),
        ("preprocessor_config.json", '{"do_rescale": false}', "not rescaled"),
        ("preprocessor_config.json", '{"image_mean": 3, "image_std": [1]}', "a value of the wrong kind"),
        ("preprocessor_config.json", '{"image_mean": [0.5], "image_std": [0.5]}', "write three means"),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    save_file(timm_vit().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "model.safetensors")


def test_a_timm_folder_says_its_normalisation(tmp_path: Path) -> None:
    net = timm_vit()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "vit", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_checkpoint(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encoder.logits(images()), net(normalised("half")), **CLOSE)
    assert loaded.report.image_size == 32


def test_hugging_face_s_names_in_memory(tmp_path: Path) -> None:
    """transformers 5 has other names in memory than in its files, and state dicts are saved from there, too."""
    library = transformers()
    config = library.ViTConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32,
                               patch_size=8)  # fmt: skip
    with seeded(0, "hf"):
        net = disturbed(library.ViTModel(config))
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    with torch.no_grad():
        features = net(normalised("half")).last_hidden_state[:, 0]
        torch.testing.assert_close(load_checkpoint(tmp_path / "vit.pth").encoder.features(images()), features, **CLOSE)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_hugging_face_s_resnet(tmp_path: Path, kind: str) -> None:
    library = transformers()
    sizes = [16, 32, 64, 128] if kind == "basic" else [64, 128, 256, 512]
    config = library.ResNetConfig(embedding_size=16, hidden_sizes=sizes, depths=[2, 1, 1, 1], layer_type=kind, num_labels=4)
    with seeded(0, "hf"):
        net = disturbed(library.ResNetForImageClassification(config))
    net.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(loaded.encoder.logits(images(64)), net(normalised("imagenet", 64)).logits, **CLOSE)
    assert loaded.report.layout == "huggingface-resnet"


def test_lightly_s_cifar_benchmark(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("lightly", reason="lightly is not installed")
        from lightly.models import ResNetGenerator
        from lightly.models.modules import SimCLRProjectionHead
    with seeded(0, "lightly"):
        children = list(ResNetGenerator("resnet-18", 1, num_splits=0).children())[:-1]
        net = disturbed(nn.Sequential(*children, nn.AdaptiveAvgPool2d(1)))
        head = disturbed(SimCLRProjectionHead(512, 64, 16))
    state = {**named(net, "backbone."), **named(head, "projection_head.")}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.6.6"}, tmp_path / "last.ckpt")
    loaded = load_checkpoint(tmp_path / "last.ckpt")
    with torch.no_grad():
        features = net(normalised("imagenet")).flatten(1)
        torch.testing.assert_close(loaded.encoder.features(images()), features, **CLOSE)
        torch.testing.assert_close(loaded.encoder.embed(images()), normalize(head(features), dim=1), **CLOSE)
    assert loaded.report.layout == "lightly-cifar"
