"""Vision transformers in the files of several projects: features are those of timm's or transformers' module, to 1e-5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from project_modules import Case, check_case, lived_in, mlp
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.options import load_options
from ssa_analysis.errors import CheckpointError, MeasureError
from ssa_analysis.numerics.seeding import seeded


def dinov2_names(net: Any, folder: Path) -> dict[str, Tensor]:
    """Weights of transformers' Dinov2Model, saved in the folder, under the names of Meta's code; ``qkv`` is one layer there."""
    net.save_pretrained(folder)
    state, out = load_file(folder / "model.safetensors"), {}
    names = {"embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed",
             "embeddings.mask_token": "mask_token",
             "embeddings.register_tokens": "register_tokens", "layernorm.weight": "norm.weight", "layernorm.bias": "norm.bias",
             "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
             "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias"}  # fmt: skip
    for key, name in names.items():
        if key in state:
            out[name] = state[key]
    for number in range(net.config.num_hidden_layers):
        here, there = f"encoder.layer.{number}.", f"blocks.{number}."
        for kind in ("weight", "bias"):
            parts = [state[f"{here}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            out[f"{there}attn.qkv.{kind}"] = torch.cat(parts)
            out[f"{there}attn.proj.{kind}"] = state[f"{here}attention.output.dense.{kind}"]
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                out[f"{there}{part}.{kind}"] = state[f"{here}{part}.{kind}"]
        for part in (1, 2):
            out[f"{there}ls{part}.gamma"] = state[f"{here}layer_scale{part}.lambda1"]
    return out


@pytest.mark.parametrize("registers", [False, True])
def test_dinov2(tmp_path: Path, registers: bool) -> None:
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(library, f"{kind}Config")(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=56,
        patch_size=14,
        layerscale_value=0.5,
    )
    with seeded(0, kind):
        net = lived_in(getattr(library, f"{kind}Model")(config))
        for parameter in net.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    content = {"teacher": {f"backbone.{key}": tensor for key, tensor in dinov2_names(net, tmp_path / "hf").items()}}
    content["teacher"]["dino_head.mlp.0.weight"] = torch.zeros(3, 128)

    def trunk(x: Tensor) -> Tensor:
        return net(x).last_hidden_state[:, 0]  # type: ignore[no-any-return]

    layout = "dinov2-registers" if registers else "dinov2"
    left = {"backbone.mask_token", "dino_head.mlp.0.weight"}
    loaded = check_case(Case(layout, trunk, None, content, left=left, state=content["teacher"]), tmp_path / "meta.pth", size=56)
    square = net.embeddings.position_embeddings[:, 1:].reshape(1, 4, 4, 128).permute(0, 3, 1, 2)
    how = {"antialias": True, "size": (6, 6)} if registers else {"scale_factor": 6.1 / 4}
    with torch.no_grad():
        wanted = interpolate(square, mode="bicubic", align_corners=False, **how).permute(0, 2, 3, 1).reshape(1, 36, 128)  # type: ignore[arg-type]
        torch.testing.assert_close(loaded.encoder.backbone._positions(6, 6), wanted)  # type: ignore[operator]
    images = torch.rand(2, 3, 56, 56)
    with torch.no_grad():
        again = load_checkpoint(tmp_path / "hf")
        torch.testing.assert_close(again.encoder.features(images), loaded.encoder.features(images), atol=1e-5, rtol=1e-5)
    assert again.report.layout == "huggingface-dinov2"


def timm_vit(**changes: Any) -> Any:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    plan = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2, "num_classes": 0, **changes}
    with seeded(0, "timm"):
        return timm.models.vision_transformer.VisionTransformer(**plan).eval()


def test_openmmlab_s_vision_transformer(tmp_path: Path) -> None:
    net = timm_vit()
    names = (("patch_embed.proj.", "patch_embed.projection."), (".norm", ".ln"), (".mlp.fc1.", ".ffn.layers.0.0."),
             (".mlp.fc2.", ".ffn.layers.1."), ("norm.", "ln1."), ("blocks.", "layers."))  # fmt: skip
    state = {}
    for key, tensor in net.state_dict().items():
        for old, new in names:
            key = new + key.removeprefix(old) if old == "norm." and key.startswith(old) else key.replace(old, new)
        state[f"backbone.{key}"] = tensor
    head = mlp(128, 16, 8)
    state |= {f"neck.{('fc0.', 'bn0.', '', 'fc1.')[int(key[0])]}{key[2:]}": t for key, t in head.state_dict().items()}
    state["momentum_encoder.module.0.cls_token"] = torch.zeros(1)
    case = Case("openmmlab-vit", net, head, {"meta": {}, "state_dict": state}, left={"momentum_encoder.module.0.cls_token"})
    check_case(case, tmp_path / "file.pth", size=32)


def test_vissl_s_vision_transformer(tmp_path: Path) -> None:
    net = timm_vit()
    model = {"trunk": net.state_dict(), "heads": {"0.clf.0.weight": torch.zeros(4, 128)}}
    state = {f"{part}.{key}": tensor for part, tensors in model.items() for key, tensor in tensors.items()}
    content = {"classy_state_dict": {"base_model": {"model": model}}}
    check_case(Case("vissl-vit", net, None, content, left={"heads.0.clf.0.weight"}, state=state), tmp_path / "file.pth", size=32)


def test_a_masked_autoencoder_s_decoder_is_left_over(tmp_path: Path) -> None:
    net = timm_vit()
    more = {
        "mask_token": torch.zeros(1, 1, 64),
        "decoder_blocks.0.norm1.weight": torch.zeros(64),
        "decoder_embed.bias": torch.zeros(64),
    }
    content = {"model": {**net.state_dict(), **more}}
    check_case(Case("timm-vit", net, None, content, left=set(more)), tmp_path / "file.pth", size=32)


def test_features_of_a_block_before_the_last(tmp_path: Path) -> None:
    net = timm_vit(num_classes=3)
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    loaded = load_checkpoint(tmp_path / "vit.pth", load_options(recipe=["feature_layer=blocks.1", "normalisation=none"]))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features = net.forward_intermediates(images, indices=[1], norm=True, return_prefix_tokens=True, intermediates_only=True)
        torch.testing.assert_close(loaded.encoder.features(images), features[0][1][:, 0], atol=1e-5, rtol=1e-5)
    assert loaded.encoder.classifier is None


@pytest.mark.parametrize("grid", [(6, 6), (2, 8), (3, 4)])
def test_positions_of_other_grids_are_interpolated_bicubically(tmp_path: Path, grid: tuple[int, int]) -> None:
    net = timm_vit()
    with torch.no_grad():
        net.pos_embed.normal_()
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    backbone: Any = load_checkpoint(tmp_path / "vit.pth").encoder.backbone
    square = net.pos_embed[:, 1:].reshape(1, 4, 4, 128).permute(0, 3, 1, 2)
    wanted = interpolate(square, grid, mode="bicubic", align_corners=False).permute(0, 2, 3, 1).reshape(1, -1, 128)
    torch.testing.assert_close(backbone._positions(*grid), wanted)
    with pytest.raises(MeasureError, match="no multiple of this network's patches of 8"):
        backbone(torch.zeros(1, 3, 36, 32))


def test_tokens_that_are_no_square_and_a_pool_that_is_unknown_are_refused(tmp_path: Path) -> None:
    state = timm_vit().state_dict()
    torch.save({**state, "pos_embed": torch.zeros(1, 15, 128)}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="no square of patches"):
        load_checkpoint(tmp_path / "file.pth")
    torch.save(state, tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=r"unknown pool 'max'"):
        load_checkpoint(tmp_path / "vit.pth", load_options(recipe=["pool=max"]))


def test_features_that_are_the_mean_of_the_patches(tmp_path: Path) -> None:
    net = timm_vit()
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    options, images = load_options(recipe=["pool=mean", "normalisation=none"]), torch.rand(2, 3, 32, 32)
    loaded = load_checkpoint(tmp_path / "vit.pth", options)
    with torch.no_grad():
        wanted = net.forward_features(images)[:, 1:].mean(1)
        torch.testing.assert_close(loaded.encoder.features(images), wanted, atol=1e-5, rtol=1e-5)
