"""New processes that start in milliseconds: they are forked from a server which has imported torch and the package.

Importing them takes a spawned process four to eight seconds, most of what many a test would wait for. The server has done
nothing but import, in a single thread, so that a forked process is as fresh as a spawned one: it finds functions by name, gets
its arguments pickled, and shares no state with its driver. It differs in its environment, which is that of the server's
start, and in that nothing is imported anew; tests of either spawn, or start a Python of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

IMPORTED = [
    "torch", "torch._dynamo", "torch.distributed", "sklearn.datasets", "sklearn.linear_model", "scipy.stats", "command_line",
    "ssa_analysis.running.study_run", "ssa_analysis.cli.score_verb", "ssa_analysis.cli.train_verb", "ssa_analysis.cli.study_verb",
    "ssa_analysis.reports.html", "ssa_analysis.reports.findings",
]  # fmt: skip
_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(IMPORTED)


def forking(method: str | None = None) -> multiprocessing.context.BaseContext:
    """The context of such processes, in the place of ``multiprocessing.get_context`` whatever ``method`` it is asked for."""
    return _forking


def run_script(
    script: str | Path, *arguments: object, environment: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """``python script arguments`` in such a process: a file, or the text of one. Its exit code is negative for a signal."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("out", "err")]
        for path in streams:
            path.touch()
        call = (script, [str(a) for a in arguments], dict(environment or {}), Path.cwd(), *map(str, streams))
        process = _forking.Process(target=_run, args=call)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([str(script)], timeout)
        return subprocess.CompletedProcess([str(script)], process.exitcode, *(path.read_text() for path in streams))


def _run(script: str | Path, arguments: list[str], environment: dict[str, str], cwd: Path, out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.environ.update(environment)
    os.chdir(cwd)
    if isinstance(script, Path):
        sys.path.insert(0, str(script.parent))
        sys.argv = [str(script), *arguments]
        runpy.run_path(str(script), run_name="__main__")
    else:
        sys.argv = ["-c", *arguments]
        exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
