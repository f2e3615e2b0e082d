"""Folders of Hugging Face (transformers, timm): which file holds the weights, and what its companions say of the recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssa_analysis.checkpoints.layouts.row import Beside
from ssa_analysis.checkpoints.reading import file_hash, read_file
from ssa_analysis.errors import CheckpointError
from ssa_analysis.texts import parsed_json

CONFIG, IMAGES = "config.json", "preprocessor_config.json"
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHTS = ("model.safetensors", INDEXES[0], "pytorch_model.bin", INDEXES[1])
LARGEST_JSON = 32 * 2**20  # bytes


def weights_in(folder: Path) -> Path | None:
    """The file of weights of a Hugging Face folder; None for another folder."""
    if not (folder / CONFIG).is_file():
        return None
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def companions(path: Path) -> list[Path]:
    """The files beside one with weights that decide what is computed with it: its configurations, and shards."""
    if path.name not in WEIGHTS:
        return []
    found = [path.with_name(name) for name in (CONFIG, IMAGES) if path.with_name(name).is_file()]
    return [*found, *shards(path)] if path.name in INDEXES else found


def content_hash(path: Path) -> str:
    """SHA-256 of the file, and where there are companions, of the hashes of all of them; CheckpointError as of ``file_hash``."""
    others = companions(path)
    if not others:
        return file_hash(path)
    digests = {file.name: file_hash(file) for file in (path, *others)}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def shards(index: Path) -> list[Path]:
    """The files that an index names, all beside it; CheckpointError where it names others, or is none."""
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index}: no index of shards (weight_map is missing)")
    for name in names.values():
        if Path(name).name != name or name in ("", ".", "..", *INDEXES) or "\0" in name:
            raise CheckpointError(f"{index}: names {name!r:.120}, which is no file beside it")
    return [index.with_name(name) for name in sorted(set(names.values()))]


def read_checkpoint(path: Path) -> Any:
    """The content of a file, or of all shards of an index; CheckpointError as of ``read_file``."""
    if path.name not in INDEXES or not path.is_file():
        return read_file(path)
    whole: dict[str, Any] = {}
    for shard in shards(path):
        part = read_file(shard)
        if not isinstance(part, Mapping) or whole.keys() & part.keys():
            raise CheckpointError(f"{shard}: is no shard of {path.name}: no state dict, or one with tensors of another shard")
        whole.update(part)
    return whole


def said_beside(path: Path) -> dict[str, Beside]:
    """Settings of the recipe that the companions of a file say.

    Raises:
        CheckpointError: a companion that is no JSON, or says what cannot be computed here (another activation, say).
    """
    said: dict[str, Beside] = {}
    for file in companions(path):
        if file.name in (CONFIG, IMAGES):
            content = _read_json(file)
            try:
                values = _network(content) if file.name == CONFIG else _images(content)
            except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as error:
                raise CheckpointError(f"{file}: a value of the wrong kind ({type(error).__name__}: {error})") from error
            except CheckpointError as error:
                raise CheckpointError(f"{file}: {error}") from error
            said |= {name: Beside(value, file.name) for name, value in values.items()}
    return said


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{path}: {path.stat().st_size:,} bytes are too many for a configuration")
        content = parsed_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: no JSON object")
    return content


def _network(config: Mapping[str, Any]) -> dict[str, str]:
    """Of transformers' ``config.json``, or timm's with its ``pretrained_cfg``."""
    activation = config.get("hidden_act")
    vision_transformer = "num_attention_heads" in config
    usual = "gelu" if vision_transformer else "relu"
    if activation not in (None, usual):
        raise CheckpointError(f"hidden_act {activation!r} is not known here ({usual} is)")
    for name in ("downsample_in_first_stage", "downsample_in_bottleneck"):
        if config.get(name):
            raise CheckpointError(f"{name} is not known here")
    said: dict[str, str] = {}
    if vision_transformer:
        said["heads"] = str(int(config["num_attention_heads"]))
        if "layer_norm_eps" in config:
            said["norm_eps"] = str(float(config["layer_norm_eps"]))
    if isinstance(config.get("image_size"), int):
        said["image_size"] = str(config["image_size"])
    timm = config.get("pretrained_cfg")
    if isinstance(timm, Mapping):
        if "mean" in timm and "std" in timm:
            said["normalisation"] = _normalisation(timm["mean"], timm["std"])
        if isinstance(timm.get("input_size"), list):
            said["image_size"] = str(int(timm["input_size"][-1]))
    return said


def _images(config: Mapping[str, Any]) -> dict[str, str]:
    """Of transformers' ``preprocessor_config.json``."""
    factor = config.get("rescale_factor", 1 / 255)
    if config.get("do_rescale", True) is not True or abs(float(factor) * 255 - 1) > 1e-3:
        raise CheckpointError("its pixels are not rescaled to [0, 1], which is not known here")
    if not config.get("do_normalize", True):
        return {"normalisation": "none"}
    if "image_mean" in config and "image_std" in config:
        return {"normalisation": _normalisation(config["image_mean"], config["image_std"])}
    return {}


def _normalisation(mean: Any, std: Any) -> str:
    return "/".join(",".join(str(float(number)) for number in numbers) for numbers in (mean, std))
