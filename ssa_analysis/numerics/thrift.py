"""How much of its usual memory a piece of work may take: all of it, unless it has failed for want of memory before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_share: ContextVar[float] = ContextVar("memory_share", default=1.0)


def memory_share() -> float:
    """In (0, 1]; batches that no number depends on are cut by it."""
    return _share.get()


@contextmanager
def with_memory_share(share: float) -> Iterator[None]:
    """Set it inside the block."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)
