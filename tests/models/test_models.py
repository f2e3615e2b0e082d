"""Backbones equal torchvision's, and the Encoder hides nothing: normalisation inside, unit embeddings, no silent defaults."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.models.backbones import ARCHITECTURES, ConvNet, ResNet, build_backbone
from ssa_analysis.models.encoder import Encoder, Projector, in_batches
from ssa_analysis.numerics.seeding import seeded

MEAN, STD = (0.2, 0.5, 0.7), (0.1, 0.3, 0.4)


def some_images(count: int = 4, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def small_encoder(projector: bool = True) -> Encoder:
    with seeded(0, "test encoder"):
        backbone = build_backbone("convnet", 4)
        return Encoder(backbone, Projector((16, 12, 6)) if projector else None, MEAN, STD).eval()


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50"])
def test_torchvision_s_weights_load_as_they_are_and_give_the_same_features(arch: str) -> None:
    with seeded(1, arch):
        theirs = torchvision.models.get_model(arch, weights=None)
        # running statistics away from 0 and 1, as after training, so that they matter
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
    theirs.fc = nn.Identity()
    ours = build_backbone(arch, 64, "imagenet")
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, got = theirs.eval()(x), ours.eval()(x)
    assert got.shape == (2, ours.feature_dim)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_the_cifar_stem_keeps_the_resolution_and_the_imagenet_stem_quarters_it(arch: str) -> None:
    for stem, side in (("cifar", 32), ("imagenet", 8)):
        net = build_backbone(arch, 4, stem)
        assert isinstance(net, ResNet)
        x, sides = net.maxpool(net.relu(net.bn1(net.conv1(torch.zeros(2, 3, 32, 32))))), []
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            sides.append(tuple(x.shape[-2:]))
        assert sides == [(side // 2**k,) * 2 for k in range(4)]


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_the_width_factor_scales_every_channel(stem: str) -> None:
    for arch, factor in (("resnet18", 8), ("resnet50", 32)):
        narrow, wide = build_backbone(arch, 4, stem), build_backbone(arch, 8, stem)
        assert (narrow.feature_dim, wide.feature_dim) == (4 * factor, 8 * factor)
        shapes = zip(narrow.state_dict().values(), wide.state_dict().values(), strict=True)
        for small, large in shapes:
            assert all(b in (a, 2 * a) for a, b in zip(small.shape, large.shape, strict=True))
            assert not small.ndim or large.shape[0] == 2 * small.shape[0]


def test_default_widths_and_the_convnet() -> None:
    assert isinstance(build_backbone("convnet"), ConvNet)
    net = build_backbone("convnet", 5)
    assert net.feature_dim == 20
    assert tuple(net(torch.zeros(2, 3, 16, 16)).shape) == (2, 20)
    assert build_backbone("resnet18").feature_dim == 512
    assert {row.default_width for row in ARCHITECTURES.values()} == {16, 64}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet19", 4, "cifar"), "unknown architecture 'resnet19'; did you mean .*resnet18"),
        (("resnet18", 4, "cifra"), "unknown stem 'cifra'; did you mean cifar"),
        (("resnet18", 0, "cifar"), "width must be at least 1, got 0"),
    ],
)
def test_wrong_names_are_refused(arguments: tuple[str, int, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build_backbone(*arguments)


def test_normalisation_is_part_of_the_encoder() -> None:
    encoder, images = small_encoder(), some_images()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        expected = encoder.backbone((images.double() / 255 - mean).div(std).float())
        torch.testing.assert_close(encoder.features(images), expected)
        assert float((encoder.features(images) - encoder.backbone(images.float() / 255)).abs().max()) > 0.01


def test_bytes_and_floats_give_the_same_features() -> None:
    encoder, images = small_encoder(), some_images()
    with torch.no_grad():
        assert torch.equal(encoder.features(images), encoder.features(images.float() / 255))
        assert torch.equal(encoder.embed(images), encoder(images.float() / 255))


def test_the_embedding_has_unit_rows_and_is_the_projector_of_the_features() -> None:
    encoder, images = small_encoder(), some_images(7)
    with torch.no_grad():
        z, h = encoder.embed(images), encoder.features(images)
        projected = encoder.projector(h)  # type: ignore[misc]
    assert tuple(z.shape) == (7, 6)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(z, projected / projected.norm(dim=1, keepdim=True))
    assert torch.equal(encoder.embed_features(h), z)


def test_without_a_projector_there_are_features_but_no_embedding() -> None:
    encoder = small_encoder(projector=False)
    assert tuple(encoder.features(some_images()).shape) == (4, 16)
    with pytest.raises(MeasureError, match="no projector"):
        encoder.embed(some_images())


def test_normalisation_is_no_weight() -> None:
    """Mean and std come from the data set's row, so a state dict must not carry or expect them."""
    assert not {"mean", "std"} & small_encoder().state_dict().keys()


@pytest.mark.parametrize("sizes", [(16, 8), (16, 12, 6), (16, 12, 12, 6)])
def test_the_projector_has_batchnorm_and_relu_between_its_layers(sizes: tuple[int, ...]) -> None:
    kinds = [type(layer) for layer in Projector(sizes)]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * (len(sizes) - 2) + [nn.Linear]


def test_batches_of_any_size_give_the_same_features() -> None:
    encoder, images = small_encoder(), some_images(11)
    whole = in_batches(encoder.features, images, encoder.device)
    torch.testing.assert_close(in_batches(encoder.features, images, encoder.device, batch=4), whole)
    assert not whole.requires_grad
