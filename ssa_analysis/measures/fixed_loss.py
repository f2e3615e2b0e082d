"""The loss whose sharpness is measured: over batches that are drawn once and then never change.

From the seed, ``pairs`` images of a split are drawn and cut into batches of ``batch``. BatchNorm uses its running
statistics, dropout is off. The loss is a deterministic function of the weights, which two passes must confirm.

* ``contrastive``: two views of each image are drawn and kept. The loss of a batch is the mean NT-Xent over its
  ``2 * batch`` anchors, each against the other ``2 * batch - 2`` rows; the loss of the set is the mean over batches.
* ``supervised``: the images as they are, and the mean cross-entropy of the checkpoint's classifier. A checkpoint
  without one gets the linear probe of its features, fitted on the probe split, as its last layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, normalize

from ssa_analysis.data.datasets import SPLITS, Data
from ssa_analysis.data.pairs import PairBatch, draw_images, fixed_batches
from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.measures.base import (
    MeasureSettings,
    loss_parameters,
    make_views,
    remembered,
    split_features,
    unit_embeddings,
)
from ssa_analysis.measures.probing import fit_probe
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.contrastive import check_temperature, nt_xent_from_similarities
from ssa_analysis.numerics.graph_memory import graph_memory
from ssa_analysis.numerics.hessian import Batch, CurvatureOperator, Loss
from ssa_analysis.registry import unknown_name

LOSSES = ("contrastive", "supervised")
MIXING = 1e-3  # relative change of an output, far above rounding, when other images join its batch
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FixedLossSettings(MeasureSettings):
    """Settings of the fixed batches.

    Attributes:
        loss: ``contrastive`` or ``supervised``.
        scope: which weights move: ``all`` that the loss depends on, ``backbone``, ``projector``, ``classifier``, or
            names of layers or weights separated by commas (``backbone.layer4,projector.0.weight``; ``*`` is a wildcard).
        split: where the images come from: ``train``, ``probe`` or ``held-out``.
        pairs: how many in all (images, for the supervised loss). batch: how many at a time; never more than ``pairs``.
        memory: GiB that the work may take beyond the network and the images; the numbers do not depend on it, the time
            does.
    """

    loss: str = "contrastive"
    scope: str = "all"
    split: str = "held-out"
    pairs: int = 256
    batch: int = 256
    memory: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in LOSSES:
            raise unknown_name("loss", self.loss, list(LOSSES))
        if self.split not in SPLITS:
            raise unknown_name("split", self.split, list(SPLITS))
        if not self.memory > 0:
            raise SettingsError(f"the memory must be positive, got {self.memory} GiB")
        if self.pairs < 1 or self.batch < 1:
            raise SettingsError(f"pairs and batch must be at least 1, got {self.pairs} and {self.batch}")


def fixed_pairs(encoder: Encoder, data: Data, settings: FixedLossSettings) -> list[PairBatch]:
    """The pairs of the contrastive loss. A split smaller than one batch makes one batch of all its images."""
    batch = min(settings.batch, settings.pairs, len(data.splits[settings.split]))
    views = make_views(encoder, data, settings.views)
    features = split_features(encoder, data, settings.split) if views.needs_features else None
    return fixed_batches(data, settings.split, views, settings.pairs, batch, settings.seed, features)


def contrastive_loss(tau: float, beta: float | None) -> Loss:
    """Mean NT-Xent of ``2 m`` rows, the second half the positives of the first; logits are the similarities."""

    def scalar(similarities: Tensor) -> Tensor:
        return nt_xent_from_similarities(similarities, beta).mean()

    return Loss(lambda z: z @ z.T / tau, scalar)


def supervised_loss(labels: Tensor) -> Loss:
    """Mean cross-entropy of logits ``(k, M)`` against ``labels (k,)``."""
    return Loss(lambda logits: logits, lambda logits: cross_entropy(logits, labels))


def probe_as_layer(encoder: Encoder, data: Data, seed: int) -> nn.Linear:
    """The linear probe of the raw features, its standardisation folded into weights and bias."""
    probe = fit_probe(encoder, data, seed)
    weight = probe.classifier.weight * probe.scale
    # without an initialisation, which would draw from the global generator
    layer: nn.Linear = nn.utils.skip_init(
        nn.Linear, weight.shape[1], weight.shape[0], device=encoder.device, dtype=next(encoder.parameters()).dtype
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(probe.classifier.bias - weight @ probe.mean)
    return layer


def fixed_operator(
    encoder: Encoder, data: Data, settings: FixedLossSettings, kind: str = "hessian", basis: int = 0
) -> CurvatureOperator:
    """The curvature operator of that loss over the weights in scope, after the determinism check.

    ``basis`` is how many vectors of all weights the caller means to hold beside it; they share ``settings.memory`` by
    the rule of :func:`~ssa_analysis.numerics.graph_memory.graph_memory`.

    Its ``names`` are those of the encoder: ``backbone.``, ``projector.`` or ``classifier.`` and the name inside. Its
    parameters are the encoder's own, and require gradients from now on; nothing else of the encoder changes.

    Raises:
        MeasureError: no projector, classes that do not fit, a network that mixes the images of a batch, a loss that is not
            finite, embeddings off the sphere, or two passes that differ.
        SettingsError: a scope that names nothing, or a memory that cannot hold the vectors of a product.
    """
    encoder.eval()
    if settings.loss == "contrastive":
        head, batches = _contrastive(encoder, data, settings)
    else:
        head, batches = _supervised(encoder, data, settings)
    part = "projector" if settings.loss == "contrastive" else "classifier"
    weights = {
        f"{name}.{key}": p
        for name, module in (("backbone", encoder.backbone), (part, head))
        for key, p in module.named_parameters()
    }
    chosen = in_scope(list(weights), settings.scope)
    frozen = {name: p.detach() for name, p in weights.items() if name not in chosen}
    for name in chosen:
        weights[name].requires_grad_()

    def network(images: Tensor) -> Tensor:
        h = _call(encoder.backbone, frozen, "backbone", encoder.normalised(images))
        out = _call(head, frozen, part, h)
        return normalize(out, dim=1) if part == "projector" else out

    _check_outputs(network, batches, data, settings)
    parameters = [weights[name] for name in chosen]
    size, each = sum(p.numel() for p in parameters), parameters[0].element_size()
    memory, _ = graph_memory(settings.memory * 2**30, size, each, basis, encoder.device.type)
    operator = CurvatureOperator(network, batches, parameters, names=chosen, kind=kind, memory=memory)
    operator.check_determinism()
    if part == "projector":
        for batch in operator.batches:
            unit_embeddings(operator.outputs(batch), f"{settings.split} views")
    return operator


def _contrastive(encoder: Encoder, data: Data, settings: FixedLossSettings) -> tuple[nn.Module, list[Batch]]:
    if encoder.projector is None:
        raise MeasureError(
            "this checkpoint has no projector: the contrastive loss needs one (--loss supervised takes a classifier or a probe, "
            "--embedding features the features as embedding)"
        )
    tau, beta = loss_parameters(encoder, settings)
    check_temperature(tau, beta)
    pairs = fixed_pairs(encoder, data, settings)
    loss = contrastive_loss(tau, beta)
    return encoder.projector, [Batch(torch.cat([b.first, b.second]).to(encoder.device), loss) for b in pairs]


def _supervised(encoder: Encoder, data: Data, settings: FixedLossSettings) -> tuple[nn.Module, list[Batch]]:
    data.require_labels()
    head = _classifier(encoder, data, settings)
    order = draw_images(data, settings.split, settings.pairs, settings.batch, settings.seed)
    images, labels = data.images_of(settings.split), data.labels_of(settings.split)
    device = encoder.device
    return head, [Batch(images[index].to(device), supervised_loss(labels[index].to(device))) for index in order]


def _classifier(encoder: Encoder, data: Data, settings: FixedLossSettings) -> nn.Module:
    if encoder.classifier is not None:
        return encoder.classifier
    data.require_classes(2)
    key = ("probe layer", data.fingerprint, settings.seed)
    layer: nn.Linear = remembered(encoder, key, lambda: probe_as_layer(encoder, data, settings.seed))
    return layer


def loss_modules(encoder: Encoder, data: Data, settings: FixedLossSettings) -> nn.ModuleDict:
    """The modules that the operator's network runs through, by the first part of its ``names``."""
    if settings.loss == "contrastive":
        assert encoder.projector is not None
        return nn.ModuleDict({"backbone": encoder.backbone, "projector": encoder.projector})
    return nn.ModuleDict({"backbone": encoder.backbone, "classifier": _classifier(encoder, data, settings)})


def _call(module: nn.Module, frozen: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    """The module with its frozen weights detached, so that autograd saves nothing for them."""
    constants = {name.removeprefix(f"{prefix}."): p for name, p in frozen.items() if name.startswith(f"{prefix}.")}
    out: Tensor = functional_call(module, constants, (x,)) if constants else module(x)
    return out


def _check_outputs(network: Network, batches: list[Batch], data: Data, settings: FixedLossSettings) -> None:
    few, more = batches[0].inputs[:2], batches[0].inputs[:4]
    with torch.no_grad():
        out, among_more = network(few), network(more)
    classes = len(data.class_names)
    if out.ndim != 2:
        raise MeasureError(f"the network's outputs for an image must be one row of numbers, got the shape {tuple(out.shape[1:])}")
    if settings.loss == "supervised" and out.shape[1] != classes:
        raise MeasureError(f"the classifier tells {out.shape[1]} classes apart, {data.name} has {classes}")
    if (among_more[: len(out)] - out).norm() > MIXING * out.norm():
        raise MeasureError(
            "the network's output for an image depends on the other images of its batch (a BatchNorm without running statistics?)"
        )


def in_scope(names: list[str], scope: str) -> list[str]:
    """The weights that a scope names, in the order of ``names``; SettingsError where a part of it names nothing.

    >>> in_scope(["backbone.conv1.weight", "backbone.bn1.bias", "projector.0.weight"], "projector,*.bias")
    ['backbone.bn1.bias', 'projector.0.weight']
    """
    chosen: set[str] = set()
    for pattern in (part.strip() for part in scope.split(",")):
        wanted = [pattern, f"{pattern}.*"] if pattern != "all" else ["*"]
        found = [name for name in names if any(fnmatchcase(name, each) for each in wanted)]
        if not found:
            layers = [".".join(name.split(".")[:depth]) for depth in (1, 2, 3, 4) for name in names]
            raise unknown_name("scope", pattern, list(dict.fromkeys(["all", *layers, *names])))
        chosen.update(found)
    return [name for name in names if name in chosen]
