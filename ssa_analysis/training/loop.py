"""Train an encoder: SimCLR, with sharpness-aware minimisation, with the Fourier augmentation, or both (SSA-CLR)."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ssa_analysis.checkpoints.reading import read_file
from ssa_analysis.checkpoints.writing import FORMAT, make_folder, save_checkpoint
from ssa_analysis.data.datasets import Data
from ssa_analysis.data.recipe_parts import scaled_whole
from ssa_analysis.data.views import ViewRecipe, Views, named_recipe
from ssa_analysis.errors import DataError, MeasureError, SettingsError
from ssa_analysis.models.backbones import ARCHITECTURES, build_backbone
from ssa_analysis.models.encoder import Encoder, Projector, in_batches
from ssa_analysis.numerics.classifiers import knn_predict
from ssa_analysis.numerics.contrastive import nt_xent
from ssa_analysis.numerics.seeding import derive_seed, generator, seeded
from ssa_analysis.training.optimizers import build_optimizer, learning_rate
from ssa_analysis.training.sam import SAM
from ssa_analysis.training.settings import TrainSettings, method_row

LOG_COLUMNS = ("epoch", "step", "loss", "lr", "knn", "seconds")


@dataclass(frozen=True)
class EpochLog:
    """One row of the training log. ``knn`` is an accuracy in [0, 1] on the probe split, None where not evaluated."""

    epoch: int
    epochs: int
    step: int
    loss: float
    lr: float
    knn: float | None
    seconds: float


def training_recipe(settings: TrainSettings, data: Data) -> ViewRecipe:
    """The views of a run: the named recipe or the data set's own at the chosen strength, with Fourier if the method has it."""
    recipe = scaled_whole(named_recipe(settings.views or data.recipe), settings.strength)
    return replace(recipe, fourier=settings.fourier) if method_row(settings.method).fourier else recipe


def build_encoder(settings: TrainSettings, data: Data) -> Encoder:
    """A freshly initialised encoder; the weights depend on ``settings.seed`` alone."""
    with seeded(settings.seed, "initialisation"):
        backbone = build_backbone(settings.arch, settings.width, settings.stem)
        projector = Projector((int(backbone.feature_dim), *settings.projector))  # type: ignore[arg-type]
    loss = {"tau": settings.tau, "beta": settings.beta, "negatives": settings.negatives}
    return Encoder(backbone, projector, data.mean, data.std, training_recipe(settings, data), loss)


@contextmanager
def _autocast(amp: str, device: torch.device) -> Iterator[None]:
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp == "bf16"):
        yield


def batch_loss(encoder: Encoder, first: Tensor, second: Tensor, settings: TrainSettings, step: int) -> Tensor:
    """Mean NT-Xent of one batch of view pairs, in float32 whatever the autocast."""
    with _autocast(settings.amp, first.device):
        z = encoder.embed(torch.cat([first, second])).float()
    rng = generator(settings.seed, "negatives", step, device=z.device) if settings.negatives else None
    return nt_xent(z[: len(first)], z[len(first) :], settings.tau, settings.beta, settings.negatives, rng).mean()


def partner_features(encoder: Encoder, images: Tensor) -> Tensor:
    """``(n, feature_dim)`` features of the present encoder, for Fourier partners that are nearest in feature space."""
    was_training = encoder.training
    encoder.eval()
    features = in_batches(encoder.features, images, images.device)
    encoder.train(was_training)
    return features


class EpochRecorder(Protocol):
    """Measures an encoder during its training, which it must leave as it was; epoch 0 is before training."""

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Whether the encoder after ``epoch`` of ``epochs`` is to be measured."""
        ...

    def keep_until(self, epoch: int) -> None:
        """Called first: the run goes on after ``epoch``, and what is known of later ones will come again."""
        ...

    def __call__(self, encoder: Encoder, epoch: int) -> None:
        """Measure."""
        ...


class _Log:
    """A CSV log, and TensorBoard where it is installed."""

    def __init__(self, folder: Path, keep_epochs: int) -> None:
        self.path = folder / "log.csv"
        rows = []
        if keep_epochs and self.path.is_file():
            with open(self.path, newline="") as stream:
                rows = [row for row in csv.DictReader(stream) if int(row["epoch"]) <= keep_epochs]
        with open(self.path, "w", newline="") as stream:
            writer = csv.DictWriter(stream, LOG_COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        self.board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"))
        except ImportError:
            pass

    def write(self, row: EpochLog) -> None:
        knn = "" if row.knn is None else row.knn
        with open(self.path, "a", newline="") as stream:
            csv.writer(stream).writerow([row.epoch, row.step, row.loss, row.lr, knn, round(row.seconds, 3)])
        if self.board is not None:
            for name in ("loss", "lr", "knn"):
                if getattr(row, name) is not None:
                    self.board.add_scalar(name, getattr(row, name), row.epoch)
            self.board.flush()


def online_knn(encoder: Encoder, data: Data, device: torch.device) -> float:
    """kNN accuracy (k = 20) of the probe split against the training features, in [0, 1]."""
    was_training = encoder.training
    encoder.eval()
    bank, queries = (in_batches(encoder.features, data.images_of(s), device) for s in ("train", "probe"))
    encoder.train(was_training)
    predicted = knn_predict(bank, data.labels_of("train"), queries, len(data.class_names), k=20)
    return float((predicted == data.labels_of("probe")).float().mean())


def _state_on_cpu(encoder: Encoder) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in encoder.state_dict().items()}


def train(
    settings: TrainSettings,
    data: Data,
    out: str | Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    save_every: int = 1,
    keep_every: int = 0,
    on_epoch: Callable[[EpochLog], None] = lambda row: None,
    recorder: EpochRecorder | None = None,
) -> Path:
    """Train and write ``out/last.pt`` (atomically, after every ``save_every`` epochs) and ``out/log.csv``.

    Every random choice is a function of the seed and the step, so a run that was stopped and resumed gives the
    weights of an unbroken one, bit for bit on the CPU.

    Args:
        data: its train split is trained on. resume: continue ``out/last.pt`` if it is there.
        keep_every: also keep ``out/epochs/epoch-0000.pt`` (before training) and every so many epochs; 0 none.
        recorder: measures the encoder as it is trained, see :class:`EpochRecorder`.

    Returns:
        The path of the checkpoint.

    Raises:
        DataError: fewer training images than a batch. SettingsError: ``out`` holds a run of other settings.
        MeasureError: the loss became NaN.
    """
    device = torch.device(device)
    folder = make_folder(Path(out))
    checkpoint = folder / "last.pt"
    images, labels = data.images_of("train").to(device), data.labels_if_any("train")
    steps_per_epoch = len(images) // settings.batch
    if steps_per_epoch == 0:
        raise DataError(f"{data.name}: {len(images)} training images are fewer than a batch of {settings.batch}; lower --batch")
    encoder = build_encoder(settings, data).to(device)
    initial = _state_on_cpu(encoder)
    optimizer = build_optimizer(settings.optimizer, encoder, settings.lr, settings.weight_decay)
    done = 0
    if checkpoint.exists():
        if not resume:
            raise SettingsError(f"{checkpoint} exists; pass --resume to continue it or choose another --out")
        done = _restore(checkpoint, settings, data, encoder, optimizer)
    sharp = SAM(optimizer, encoder, settings.rho, settings.adaptive) if method_row(settings.method).sharpness_aware else None
    views = Views(training_recipe(settings, data), data.image_size)
    total, warmup = settings.epochs * steps_per_epoch, settings.warmup * steps_per_epoch
    kept = make_folder(folder / "epochs") if keep_every else None
    if kept is not None and not done:
        unseen = EpochLog(0, settings.epochs, 0, math.nan, 0.0, None, 0.0)
        _save(kept / "epoch-0000.pt", settings, data, encoder, initial, optimizer, unseen)
    log = _Log(folder, done)
    if recorder is not None:
        recorder.keep_until(done if done else -1)
        if not done and recorder.is_due(0, settings.epochs):
            recorder(encoder, 0)
    started = time.perf_counter()
    encoder.train()
    for epoch in range(done, settings.epochs):
        order = torch.randperm(len(images), generator=generator(settings.seed, "order", epoch))
        losses = []
        for number in range(steps_per_epoch):
            step = epoch * steps_per_epoch + number
            index = order[number * settings.batch : (number + 1) * settings.batch]
            chosen = images[index.to(device)]
            neighbours = partner_features(encoder, chosen) if views.needs_features else None
            known = None if labels is None else labels[index]
            first, second = views.pair(chosen, derive_seed(settings.seed, "step", step), known, neighbours)
            rate = learning_rate(step, total, warmup, settings.lr)
            for group in optimizer.param_groups:
                group["lr"] = rate

            def closure(first: Tensor = first, second: Tensor = second, step: int = step) -> Tensor:
                parts = zip(first.chunk(settings.accumulate), second.chunk(settings.accumulate), strict=True)
                losses = []
                for number, part in enumerate(parts):
                    loss = batch_loss(encoder, *part, settings, step * settings.accumulate + number) / settings.accumulate
                    loss.backward()
                    losses.append(loss.detach())
                return torch.stack(losses).sum()

            if sharp is not None:
                loss = sharp.step(closure)
            else:
                optimizer.zero_grad(set_to_none=True)
                loss = closure()
                optimizer.step()
            losses.append(loss)
        mean_loss = float(torch.stack(losses).mean())
        # the last step's damage shows in the weights only
        if not math.isfinite(mean_loss) or not all(bool(torch.isfinite(p).all()) for p in encoder.parameters()):
            left = f"; {checkpoint} is of the last good epoch" if checkpoint.exists() else ""
            raise MeasureError(f"the training diverged in epoch {epoch + 1} (loss {mean_loss:.4g}); lower --lr{left}")
        last = epoch + 1 == settings.epochs
        neighbours_due = settings.knn_every and data.labelled and ((epoch + 1) % settings.knn_every == 0 or last)
        knn = online_knn(encoder, data, device) if neighbours_due else None
        row = EpochLog(
            epoch + 1, settings.epochs, (epoch + 1) * steps_per_epoch, mean_loss, rate, knn, time.perf_counter() - started
        )
        log.write(row)
        if recorder is not None and recorder.is_due(epoch + 1, settings.epochs):
            recorder(encoder, epoch + 1)
        if kept is not None and ((epoch + 1) % keep_every == 0 or last):
            _save(kept / f"epoch-{epoch + 1:04d}.pt", settings, data, encoder, initial, optimizer, row)
        if (epoch + 1) % save_every == 0 or last:
            _save(checkpoint, settings, data, encoder, initial, optimizer, row)
        on_epoch(row)
    return checkpoint


def _save(
    path: Path, settings: TrainSettings, data: Data, encoder: Encoder, initial: dict[str, Tensor],
    optimizer: torch.optim.Optimizer, row: EpochLog,
) -> None:  # fmt: skip
    assert encoder.recipe is not None
    save_checkpoint(
        path,
        {
            "encoder": {
                "arch": settings.arch,
                "width": settings.width or ARCHITECTURES[settings.arch].default_width,
                "stem": settings.stem,
                "projector": list(settings.projector),
                "mean": list(data.mean),
                "std": list(data.std),
                "image_size": data.image_size,
            },
            "model": _state_on_cpu(encoder),
            "initial": initial,
            "recipe": encoder.recipe.to_dict(),
            "loss": encoder.loss,
            "training": {
                "settings": settings.to_dict(),
                "epoch": row.epoch,
                "step": row.step,
                "loss": row.loss if math.isfinite(row.loss) else None,  # none yet
                "data": {"name": data.name, "fingerprint": data.fingerprint},
            },
            "optimizer": optimizer.state_dict(),
            # kept for completeness; no random choice of a run depends on it
            "rng": {"torch": torch.get_rng_state()},
        },
    )


def _restore(path: Path, settings: TrainSettings, data: Data, encoder: Encoder, optimizer: torch.optim.Optimizer) -> int:
    """Load a run's state; returns the number of finished epochs."""
    payload = read_file(path)
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise SettingsError(f"{path}: not a checkpoint of ssa-analyze train; it cannot be resumed")
    saved = payload["training"]["settings"]
    wanted = settings.to_dict()
    saved = {**TrainSettings().to_dict(), **saved}  # settings that were not there yet when it was written
    different = [f"{k} was {saved.get(k)!r}, now {v!r}" for k, v in wanted.items() if saved.get(k) != v]
    if different:
        raise SettingsError(f"{path}: cannot resume with other settings: {'; '.join(different)}")
    if payload["training"]["data"]["fingerprint"] != data.fingerprint:
        raise SettingsError(f"{path}: cannot resume: it was trained on other data ({payload['training']['data']['name']})")
    encoder.load_state_dict(payload["model"])
    optimizer.load_state_dict(payload["optimizer"])
    return int(payload["training"]["epoch"])
