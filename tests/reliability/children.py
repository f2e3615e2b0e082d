"""Inputs that may hang, eat memory or end the process: each is tried in a forked child, a few hundred in one child.

The packages are imported before, so that a child costs milliseconds. Of every input there are the outcome, the seconds, and by
how much it made the memory of the child grow at its peak.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trial import Tally

from ssa_analysis.errors import SSAError

SECONDS = 10.0  # for one input
ROOM = 12 << 30  # bytes of addresses that a child may take beyond its own; whoever needs them all has failed
EACH = 200  # inputs of a child
MIB = 1 << 20


@dataclass
class Seen:
    """The extremes over all inputs of a trial."""

    seconds: float = 0.0
    peak: int = 0

    def note(self, tally: Tally) -> None:
        tally.notes.append(f"slowest {self.seconds:.1f} s, most memory {self.peak / MIB:.0f} MiB")


def try_all(
    tally: Tally,
    inputs: Sequence[Any],
    function: Callable[[Any], str],
    *,
    memory: Callable[[Any], int] = lambda item: 512 * MIB,
    seconds: float = SECONDS,
    each: int = EACH,
) -> Seen:
    """Call ``function`` with every input, which returns what came of it in a word or two.

    A failure is: another exception than an SSAError of one line, more than ``seconds``, growth by more than ``memory(item)``
    bytes, or the end of the process. The input is told with it, so that it can be tried again.
    """
    seen, at = Seen(), 0
    while at < len(inputs):
        at = _one_child(tally, inputs, at, min(len(inputs), at + each), function, memory, seconds, seen)
    seen.note(tally)
    return seen


def _one_child(
    tally: Tally, inputs: Sequence[Any], begin: int, end: int, function: Callable[[Any], str], memory: Callable[[Any], int],
    seconds: float, seen: Seen,
) -> int:  # fmt: skip
    """Try ``inputs[begin:end]`` in a child; returns the number of the input that is to be tried next."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this process has threads
        child = os.fork()
    if child == 0:
        os.close(reading)
        _work(inputs, begin, end, function, writing)
    os.close(writing)
    at, buffer = begin, b""
    try:
        while at < end:
            ready, _, _ = select.select([reading], [], [], seconds * 3)
            part = os.read(reading, 1 << 16) if ready else b""
            if not part:
                how = "took too long" if not ready else "ended the process"
                tally.count(how, f"input {at} {how}: {repeatable(inputs[at])}")
                return at + 1
            buffer += part
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                found = json.loads(line)
                problem = found["problem"]
                allowed = memory(inputs[at])
                if not problem and found["seconds"] > seconds:
                    problem = f"{found['seconds']:.1f} s"
                if not problem and found["peak"] > allowed:
                    problem = f"{found['peak'] / MIB:.0f} MiB, more than {allowed / MIB:.0f}"
                seen.seconds, seen.peak = max(seen.seconds, found["seconds"]), max(seen.peak, found["peak"])
                tally.count(found["outcome"], f"input {at}: {problem}: {repeatable(inputs[at])}" if problem else "")
                at += 1
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return at


def _work(inputs: Sequence[Any], begin: int, end: int, function: Callable[[Any], str], writing: int) -> None:
    """In the child, which ends here."""
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)
        limit = _memory("VmSize") + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in range(begin, end):
            Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
            before, started = _memory("VmRSS"), time.process_time()
            problem = ""
            try:
                outcome = function(inputs[number])
            except SSAError as error:
                outcome, text = "clean errors", str(error)
                problem = "an error of several lines" if "\n" in text or "\r" in text else ""
                problem = problem or ("memory ran out" if "MemoryError" in text or "allocate" in text else "")
            except BaseException as error:
                frames = traceback.extract_tb(error.__traceback__)
                places = "; ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[-6:])
                outcome, problem = "tracebacks", f"{type(error).__name__}: {str(error)[:300]} ({places})"
            found = {
                "outcome": outcome, "problem": problem, "seconds": time.process_time() - started,
                "peak": max(0, _memory("VmHWM") - before),
            }  # fmt: skip
            os.write(writing, json.dumps(found).encode() + b"\n")
    finally:
        os._exit(0)


def _memory(name: str) -> int:
    """Bytes of this process, by the name that Linux has for them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def repeatable(item: Any) -> str:
    """An input as it can be tried again: short ones in full, others in a file."""
    text = item.hex() if isinstance(item, bytes) else repr(item)
    if len(text) <= 1500:
        return text
    folder = Path(tempfile.gettempdir()) / "ssa-analyze-hostile"
    folder.mkdir(exist_ok=True)
    content = item if isinstance(item, bytes) else text.encode(errors="backslashreplace")
    path = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.{'bin' if isinstance(item, bytes) else 'txt'}"
    path.write_bytes(content)
    return f"kept in {path}"
