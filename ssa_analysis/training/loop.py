"""Train an encoder: SimCLR, with sharpness-aware minimisation, with the Fourier augmentation, or both (SSA-CLR)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from ssa_analysis.checkpoints.writing import locked_folder, make_folder, remove_leftovers
from ssa_analysis.data.datasets import Data
from ssa_analysis.data.recipe_parts import scaled_whole
from ssa_analysis.data.views import ViewRecipe, Views, named_recipe
from ssa_analysis.errors import DataError, MeasureError, SettingsError
from ssa_analysis.models.backbones import build_backbone
from ssa_analysis.models.encoder import Encoder, Projector, in_batches
from ssa_analysis.numerics.classifiers import knn_predict
from ssa_analysis.numerics.contrastive import nt_xent
from ssa_analysis.numerics.ranks import Ranks
from ssa_analysis.numerics.seeding import derive_seed, generator, seeded
from ssa_analysis.stopping import Stopped, stop_requested
from ssa_analysis.training.checkpointing import restore_run, save_run, state_on_cpu
from ssa_analysis.training.logs import EpochLog, EpochRecorder, RunLog
from ssa_analysis.training.optimizers import build_optimizer, learning_rate
from ssa_analysis.training.parallel import Replica, gathered
from ssa_analysis.training.sam import SAM
from ssa_analysis.training.settings import TrainSettings, method_row


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


def batch_loss(
    encoder: Encoder, first: Tensor, second: Tensor, settings: TrainSettings, step: int, replica: Replica | None = None
) -> Tensor:
    """Mean NT-Xent of one batch of view pairs, in float32 whatever the autocast.

    As one of several ranks: the mean over this rank's anchors, with the negatives of all of them; averaged over the ranks
    it is the loss of the whole batch, and so is its gradient.
    """
    embed: Callable[[Tensor], Tensor] = encoder if replica is None else replica.embed
    with _autocast(settings.amp, first.device):
        z = embed(torch.cat([first, second])).float()
    rng = generator(settings.seed, "negatives", step, device=z.device) if settings.negatives else None
    here, plus = z[: len(first)], z[len(first) :]
    if replica is None or replica.ranks.size == 1:
        return nt_xent(here, plus, settings.tau, settings.beta, settings.negatives, rng).mean()
    everywhere, all_plus = gathered(here), gathered(plus)
    own = torch.arange(len(first), device=z.device) + replica.ranks.rank * len(first)
    anchors = torch.cat([own, own + len(everywhere)])
    return nt_xent(everywhere, all_plus, settings.tau, settings.beta, settings.negatives, rng, anchors).mean()


def gradient_of(replica: Replica, first: Tensor, second: Tensor, settings: TrainSettings, step: int) -> Tensor:
    """Add the gradient of a step's loss to the weights' and return the loss, both of the whole batch on all ranks.

    Args:
        first, second: the views of this rank's rows, part by part where the batch is cut (``settings.accumulate``).
    """
    count = settings.accumulate
    losses = []
    for number, part in enumerate(zip(first.chunk(count), second.chunk(count), strict=True)):
        last = number + 1 == count  # gradients are averaged over the ranks once, with those of all parts
        with nullcontext() if last else replica.unsynchronised():
            loss = batch_loss(replica.encoder, *part, settings, step * count + number, replica) / count
            loss.backward()
        losses.append(loss.detach())
    return replica.mean(torch.stack(losses).sum())


def partner_features(encoder: Encoder, images: Tensor) -> Tensor:
    """``(n, feature_dim)`` features of the present encoder, for Fourier partners that are nearest in feature space."""
    was_training = encoder.training
    encoder.eval()
    features = in_batches(encoder.features, images, images.device)
    encoder.train(was_training)
    return features


def online_knn(encoder: Encoder, data: Data, device: torch.device) -> float:
    """kNN accuracy (k = 20) of the probe split against the training features, in [0, 1]."""
    was_training = encoder.training
    encoder.eval()
    bank, queries = (in_batches(encoder.features, data.images_of(s), device) for s in ("train", "probe"))
    encoder.train(was_training)
    predicted = knn_predict(bank, data.labels_of("train"), queries, len(data.class_names), k=20)
    return float((predicted == data.labels_of("probe")).float().mean())


def steps_of_an_epoch(settings: TrainSettings, data: Data) -> int:
    """Whole batches in the training images; DataError where there is none."""
    count = len(data.index_of("train"))
    if count < settings.batch:
        raise DataError(f"{data.name}: {count} training images are fewer than a batch of {settings.batch}; lower --batch")
    return count // settings.batch


def finished_epochs(
    checkpoint: Path, settings: TrainSettings, data: Data, encoder: Encoder, optimizer: Optimizer, resume: bool
) -> int:
    """Epochs of the run that is there, whose state is loaded; SettingsError where it must not be continued, or is another."""
    if not checkpoint.exists():
        return 0
    if not resume:
        raise SettingsError(f"{checkpoint} exists; pass --resume to continue it or choose another --out")
    return restore_run(checkpoint, settings, data, encoder, optimizer)


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
    channels_last: bool = False,
    compiled: bool = False,
) -> Path:
    """Train and write ``out/last.pt`` (atomically, after every ``save_every`` epochs) and ``out/log.csv``.

    Every random choice is a function of the seed and the step, so a run that was stopped and resumed gives the
    weights of an unbroken one, bit for bit on the CPU.

    The processes of a ``torchrun`` job share each batch: the step is that of one process with the whole batch, but for the
    draws of the views, which are each rank's own. The first one writes.

    Args:
        data: its train split is trained on. resume: continue ``out/last.pt`` if it is there.
        keep_every: also keep ``out/epochs/epoch-0000.pt`` (before training) and every so many epochs; 0 none.
        recorder: measures the encoder as it is trained, see :class:`EpochRecorder`.
        channels_last, compiled: memory format of the convolutions, and ``torch.compile`` of the forward pass. They change
            the speed, and the weights by rounding only.

    Returns:
        The path of the checkpoint.

    Raises:
        DataError: fewer training images than a batch. SettingsError: ``out`` holds a run of other settings.
        MeasureError: the loss became NaN. OutputError: another process trains in ``out``. Stopped: a stop was asked for; the
        epoch in hand has been finished and saved.
    """
    folder = make_folder(Path(out))
    with locked_folder(folder) if Ranks.current().rank == 0 else nullcontext():
        if Ranks.current().rank == 0:
            for place in (folder, folder / "epochs"):
                remove_leftovers(place, ".pt", ".csv")
        return _train(
            settings,
            data,
            folder,
            torch.device(device),
            resume,
            save_every,
            keep_every,
            on_epoch,
            recorder,
            channels_last,
            compiled,
        )


def _train(
    settings: TrainSettings, data: Data, folder: Path, device: torch.device, resume: bool, save_every: int, keep_every: int,
    on_epoch: Callable[[EpochLog], None], recorder: EpochRecorder | None, channels_last: bool, compiled: bool,
) -> Path:  # fmt: skip
    checkpoint = folder / "last.pt"
    images, labels = data.images_of("train").to(device), data.labels_if_any("train")
    steps_per_epoch = steps_of_an_epoch(settings, data)
    ranks = Ranks.current()
    if settings.batch % (ranks.size * settings.accumulate) or settings.batch // (ranks.size * settings.accumulate) < 1:
        parts = f"cut into {settings.accumulate} and " if settings.accumulate > 1 else ""
        raise SettingsError(f"a batch of {settings.batch} cannot be {parts}shared by {ranks.size} processes in equal parts")
    encoder = build_encoder(settings, data).to(device)
    if channels_last:
        encoder.to(memory_format=torch.channels_last)
    initial = state_on_cpu(encoder)
    replica = Replica(encoder, device, compiled)
    optimizer = build_optimizer(settings.optimizer, encoder, settings.lr, settings.weight_decay)
    done = finished_epochs(checkpoint, settings, data, encoder, optimizer, resume)
    sharp = SAM(optimizer, encoder, settings.rho, settings.adaptive) if method_row(settings.method).sharpness_aware else None
    ranks.from_first(None)  # all have looked before the first one writes
    views = Views(training_recipe(settings, data), data.image_size)
    total, warmup = settings.epochs * steps_per_epoch, settings.warmup * steps_per_epoch
    kept = make_folder(folder / "epochs") if keep_every else None
    if kept is not None and not done and ranks.rank == 0:
        unseen = EpochLog(0, settings.epochs, 0, math.nan, 0.0, None, 0.0)
        save_run(kept / "epoch-0000.pt", settings, data, encoder, initial, optimizer, unseen)
    log = RunLog(folder, done) if replica.ranks.rank == 0 else None
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
            index = replica.share(index, settings.accumulate)
            chosen = images[index.to(device)]
            neighbours = partner_features(encoder, chosen) if views.needs_features else None
            known = None if labels is None else labels[index]
            drawn = derive_seed(settings.seed, "step", step, *((ranks.rank, ranks.size) if ranks.size > 1 else ()))
            first, second = views.pair(chosen, drawn, known, neighbours)
            if channels_last:
                first, second = (view.contiguous(memory_format=torch.channels_last) for view in (first, second))
            rate = learning_rate(step, total, warmup, settings.lr)
            for group in optimizer.param_groups:
                group["lr"] = rate

            def closure(first: Tensor = first, second: Tensor = second, step: int = step) -> Tensor:
                return gradient_of(replica, first, second, settings, step)

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
        knn = online_knn(encoder, data, device) if neighbours_due and ranks.rank == 0 else None
        row = EpochLog(
            epoch + 1, settings.epochs, (epoch + 1) * steps_per_epoch, mean_loss, rate, knn, time.perf_counter() - started
        )
        if log is not None:
            log.write(row)
        if recorder is not None and recorder.is_due(epoch + 1, settings.epochs):
            recorder(encoder, epoch + 1)
        if kept is not None and ranks.rank == 0 and ((epoch + 1) % keep_every == 0 or last):
            save_run(kept / f"epoch-{epoch + 1:04d}.pt", settings, data, encoder, initial, optimizer, row)
        stop = not last and ranks.from_first(stop_requested())
        if ranks.rank == 0 and ((epoch + 1) % save_every == 0 or last or stop):
            save_run(checkpoint, settings, data, encoder, initial, optimizer, row)
        on_epoch(row)
        if stop:
            raise Stopped
    return checkpoint
