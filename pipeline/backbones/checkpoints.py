"""Where a model's files are, and what they say of the model; no torch here.

A model is a hub id or a folder in the same layout, with the parts that its family names. Only JSON,
SentencePiece and safetensors files are ever fetched or read: nothing here unpickles.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.fetching import PIPELINE_INDEX, announce, fetch
from vega3d.pipeline.backbones.settings import DESK, Configs, ModelFacts
from vega3d.pipeline.errors import CheckpointError, UsageError
from vega3d.pipeline.local_files import read_plain
from vega3d.pipeline.places import absolute

B = TypeVar("B", bound=BackboneConfig)
_MAX_CONFIG_BYTES = 1 << 24
_MAX_LAYERS = 1000
_MAX_SIZE = 1 << 24
"""Of numbers in a config.json: published models have some 80 layers, vocabularies of 2^18."""

INDEX = PIPELINE_INDEX
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def model_facts(config: BackboneConfig) -> ModelFacts:
    """Return what planning needs to know of a config's model; fetches its config.json at most."""
    if not config.parts:
        return config.describe({})
    model = model_name(config)
    code = config.ignores_code
    folder = resolve_model(model, config.parts, weights=False, ignores_code=code)
    return describe(config, model, read_configs(folder, config.parts))


def planned_facts(config: BackboneConfig) -> ModelFacts:
    """Return the same without a network where the model's published sizes are known."""
    model = model_name(config)
    if model in config.published:
        return describe(config, model, config.published[model])
    return model_facts(config)


def describe(config: BackboneConfig, model: str, configs: Configs) -> ModelFacts:
    """Return what a config says of a model; its errors name the model."""
    try:
        return config.describe(configs)
    except UsageError:
        raise  # of a setting, such as a block that this model has not
    except CheckpointError as error:
        raise CheckpointError(f"{model}: {error}") from error
    except KeyError as error:
        raise CheckpointError(
            f"{model}: a config.json lacks the field {error}; is this a model of {config.name}?"
        ) from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{model}: config.json is not {config.name}'s: {error!r}") from error


def model_name(config: BackboneConfig) -> str:
    """Return the hub id or folder; "" where an encoder has no weights."""
    return str(getattr(config, "model", ""))


def named_from_root(config: B) -> B:
    """Return a config with its model, where that is a folder here, named from the root.

    Workers stand in other folders, and so does who computes a store anew.
    """
    model = model_name(config)
    if not model or not Path(model).expanduser().is_dir():
        return config  # no weights, a hub id, or a model that comes with the package
    changed: dict[str, Any] = {"model": absolute(model)}
    return cast("B", replace(cast("Any", config), **changed))


def model_folder(config: BackboneConfig) -> Path:
    """Return the folder with a model's weights, fetched if need be; "." where there are none."""
    if not config.parts:
        return Path()
    announce(model_name(config), config.parts, reads=config.reads)
    return resolve_model(
        model_name(config), config.parts, ignores_code=config.ignores_code, reads=config.reads
    )


def resolve_model(
    model: str,
    parts: Sequence[str],
    *,
    weights: bool = True,
    ignores_code: bool = False,
    reads: str = "",
) -> Path:
    """Return the folder that holds a model's parts, fetching only these from the hub if need be.

    Args:
        model: Hub id or folder, or `desk` for the small models that come with the package.
        parts: Subfolders, or "." for the root.
        weights: False fetches and checks the configs alone.
        ignores_code: A config may name code of its own; no library is given that config.
        reads: Pattern of the tensors that are needed of a model on the hub; "" for all.

    Raises:
        CheckpointError: The folder lacks a part or holds only pickled weights, or the hub id can
            neither be fetched nor found in the local cache.
    """
    folder = _packaged(parts) if model == DESK else Path(model).expanduser()
    if not folder.is_dir():
        if model.startswith((".", "/", "~")) or model.count("/") != 1:
            raise CheckpointError(
                f"{model!r} is neither a folder nor a hub id like 'owner/name', nor {DESK!r}, the "
                "small models of the package"
            )
        folder = fetch(model, parts, weights=weights, reads=reads)
    for part in parts:
        _check_part(model, folder, part, weights)
        if not ignores_code:
            _check_no_code(folder / part)
    return folder


def _packaged(parts: Sequence[str]) -> Path:
    """Return the folder of the desk model that has these parts: see desk/README.md."""
    return Path(__file__).parent / "desk" / ("semantic" if "." in parts else "generator")


def read_config(folder: Path, part: str, name: str = "config.json") -> dict[str, Any]:
    """Return the config.json of one part."""
    path = folder / part / name
    try:
        config = json.loads(read_plain(str(path), _MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no readable {name}: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: must be a JSON object, got {type(config).__name__}")
    if name == "config.json":
        _check_sizes(config, str(path))
    return config


def _check_sizes(config: Mapping[str, Any], where: str) -> None:
    """Refuse sizes that no checkpoint has: a model would be built for minutes, or fill memory."""
    for name, value in config.items():
        if name == "norm_stats":  # counts of a robot's data
            continue
        if isinstance(value, Mapping):
            _check_sizes(value, where)
            continue
        values = value if isinstance(value, list) else [value]
        limit = _MAX_LAYERS if "layers" in name else _MAX_SIZE
        for one in values:
            if isinstance(one, int) and abs(one) > limit:
                raise CheckpointError(f"{where}: {name} is {one:.6g}, and at most {limit} is taken")


def _check_no_code(place: Path) -> None:
    """Refuse a part that brings code of its own: nothing from a checkpoint is ever run."""
    for path in sorted(place.glob("*config*.json")):
        try:
            config = json.loads(read_plain(str(path), _MAX_CONFIG_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: no readable {path.name}: {error}") from error
        if isinstance(config, dict) and "auto_map" in config:
            raise CheckpointError(
                f"{path}: names code of its own (auto_map), which is never run; give a checkpoint "
                "of a class that transformers or diffusers has"
            )


def read_configs(folder: Path, parts: Sequence[str]) -> Configs:
    """Return the config.json of each part, and the pipeline's model_index.json where it has one."""
    found = {part: read_config(folder, part) for part in parts}
    if (folder / INDEX).is_file():
        found[INDEX] = read_config(folder, ".", INDEX)
    return found


def check_class(configs: Configs, part: str, expected: str) -> dict[str, Any]:
    """Return the config.json of a diffusers part after checking which class wrote it."""
    config = dict(configs[part])
    found = config.get("_class_name")
    if found != expected:
        raise CheckpointError(f"{part}: must hold a {expected}, found {found!r}")
    return config


def _check_part(model: str, folder: Path, part: str, weights: bool) -> None:
    """Check that one part is there, with safetensors weights where it has weights."""
    place = folder / part
    if not place.is_dir():
        found = sorted(path.name for path in folder.iterdir())
        raise CheckpointError(f"{model!r} has no folder {part}/ in {folder}; found {found}")
    if part.startswith("tokenizer") or not weights or any(place.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in place.iterdir() if path.suffix in _PICKLES)
    remedy = (
        f"found only {pickles}, which would have to be unpickled; convert them once with "
        f"`save_pretrained(folder, safe_serialization=True)` where you trust their source"
        if pickles
        else f"found {sorted(path.name for path in place.iterdir())}"
    )
    raise CheckpointError(f"{place}: weights must be .safetensors; {remedy}")
