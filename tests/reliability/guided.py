"""One reader under atheris, in a process of its own: python guided.py READER [options of libFuzzer] CORPUS."""

from __future__ import annotations

import io
import pickle
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np
import torch
from safetensors.torch import save

with atheris.instrument_imports(include=["ssa_analysis.checkpoints", "ssa_analysis.data.arrays", "ssa_analysis.toml_files"]):
    from ssa_analysis.checkpoints.options import read_layout
    from ssa_analysis.checkpoints.reading import read_file
    from ssa_analysis.data.arrays import read_arrays
from ssa_analysis.errors import SSAError

atheris.enabled_hooks.add("str")


def seeds(reader: str) -> list[bytes]:
    """Good files, from which the search begins."""
    stream, state = io.BytesIO(), {"a.weight": torch.arange(6.0).view(2, 3)}
    if reader == "pickle":
        return [pickle.dumps({"a": np.arange(3), "b": [1, "x", {2.5}]}, protocol) for protocol in range(2, 6)]
    if reader == "torch":
        torch.save({"model": state}, stream, _use_new_zipfile_serialization=False)
        other = io.BytesIO()
        torch.save({"model": state}, other)
        return [stream.getvalue(), other.getvalue()]
    if reader == "safetensors":
        return [save(state)]
    if reader == "npz":
        np.savez(stream, x=np.zeros((2, 2, 2, 3), np.uint8), y=np.arange(2))
        return [stream.getvalue()]
    return [b"summary = \"x\"\nnames = [['{p}(conv1|bn1)\\.', 'backbone.\\1.']]\n[recipe]\nheads = 3\n[loss]\ntau = 0.2\n"]


def main() -> None:
    """Let atheris call the reader; it ends the process."""
    reader, folder = sys.argv.pop(1), Path(tempfile.mkdtemp())
    path = folder / {"safetensors": "x.safetensors", "npz": "x.npz", "toml": "x.toml"}.get(reader, "x.pt")
    for number, content in enumerate(seeds(reader)):
        (Path(sys.argv[-1]) / f"seed-{number}").write_bytes(content)

    def try_one(content: bytes) -> None:
        path.write_bytes(content)
        try:
            if reader == "toml":
                read_layout(path)
            elif reader == "npz":
                read_arrays(path, ["x", "y"])
            else:
                read_file(path)
        except SSAError as error:
            if "\n" in str(error):
                raise AssertionError("an error of several lines") from error

    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
