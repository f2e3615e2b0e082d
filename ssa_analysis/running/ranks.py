"""Joining a ``torchrun`` job: its processes measure the same cells together, and the first one keeps the scores."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from ssa_analysis.errors import SettingsError
from ssa_analysis.numerics.ranks import Ranks

TO_BE_IDLE = 0.2  # seconds that the threads of a group have to drop what they hold
TO_LEAVE = 10.0  # seconds that a rank that fails has to say why and end
PATIENCE = timedelta(days=7)  # one rank may compute alone for long; a rank that dies ends the job at once anyway
_LEFT: list[object] = []  # groups, see leave_group


@contextmanager
def joined_ranks(device: str) -> Iterator[tuple[Ranks, str]]:
    """The ranks of the torchrun job that this process belongs to, and its device; alone outside of one.

    Args:
        device: ``cpu`` or ``cuda``; a rank takes the GPU of its local number.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield Ranks(), device
        return
    if device.startswith("cuda"):
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise SettingsError(
                f"process {local} has no GPU of its own ({torch.cuda.device_count()} there); start fewer, or use --device cpu"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:  # RANK and WORLD_SIZE are also set by launchers that are not torchrun
        what = str(error).strip().splitlines()[0]
        raise SettingsError(
            f"RANK and WORLD_SIZE are set, but the processes cannot meet ({what}); start them with torchrun"
        ) from error
    try:
        yield Ranks.current(), device
    except BaseException:
        _leave_at_once()
        raise
    leave_group()


def leave_group() -> None:
    """``destroy_process_group`` that cannot wait for ever.

    Until torch 2.8 the end of a Gloo group joins its threads while it holds Python's lock, for which one of them waits that is
    about to drop a tensor (pytorch/pytorch#154976). So the group is kept until the process ends, and its threads are given the
    lock before that: one that waits for it when the interpreter ends aborts the process (pytorch/pytorch#179291).
    """
    _LEFT.append(dist.group.WORLD)
    dist.destroy_process_group()
    time.sleep(TO_BE_IDLE)


def _leave_at_once() -> None:
    """This rank fails, perhaps alone: taking the group apart may wait for ever for ranks that wait for this one, and so may the
    end of the interpreter. The system then ends the process, and torchrun the others."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, TO_LEAVE)


def first_problem(problem: str | None) -> str | None:
    """``problem``, or else that of the first rank that has one: the same yes or no on every rank."""
    ranks = Ranks.current()
    if ranks.size == 1:
        return problem
    found: list[str | None] = [None] * ranks.size
    dist.all_gather_object(found, problem)
    others = (f"process {rank} of the job: {text}" for rank, text in enumerate(found) if text is not None)
    return problem if problem is not None else next(others, None)
