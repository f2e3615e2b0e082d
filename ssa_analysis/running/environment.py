"""What a number was computed with: versions, machine, git commit."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ssa_analysis.version import __version__

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pandas", "kornia", "scikit-learn", "pyhessian", "safetensors")


@functools.lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Versions of Python and packages, platform, processor, git commit of ssa-analyze where it runs from a checkout."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "ssa_analysis": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def environment_id(values: dict[str, Any]) -> str:
    """A short hash of an environment."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _git_commit() -> str | None:
    """HEAD of the checkout this package lies in, with ``+`` if tracked files were changed; None elsewhere."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or not (root / "setup.py").is_file():
        return None
    try:
        head, changed = (
            subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True).stdout
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.strip() + ("+" if changed.strip() else "")
