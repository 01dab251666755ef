"""What is fetched of a model on the Hugging Face hub: its parts' files, and no shard in vain.

A repository that is cut into shards lists which tensor lies in which file; the encoder of a
language model's pictures lies in one or two of them. What was fetched is then shown as a folder of
its own, with a list of what is there, so that whoever loads it finds a whole checkpoint.
"""

import json
import logging
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from vega3d.pipeline.errors import CheckpointError
from vega3d.pipeline.files import whole_folder
from vega3d.pipeline.local_files import read_plain
from vega3d.pipeline.places import cache_dir

PIPELINE_INDEX = "model_index.json"
"""Which parts a diffusers pipeline has."""

WEIGHTS = "*.safetensors"
CONFIG = "config.json"
KINDS = ("*.json", WEIGHTS, "*.model")
"""Patterns of the files that are fetched of a part."""

_SHARDS = "model.safetensors.index.json"
"""Which file of a transformers checkpoint holds which tensor."""

_MAX_INDEX_BYTES = 1 << 26
_WORTH_SAYING_BYTES = 100 << 20

logger = logging.getLogger(__name__)


def announce(model: str, parts: Sequence[str], hint: str = "", reads: str = "") -> None:
    """Say how much of a model is not here yet and will be fetched; nothing where all of it is."""
    if Path(model).expanduser().is_dir() or model.count("/") != 1:
        return
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        patterns, ignore = _patterns(parts, _kinds(model, parts, reads))
        files = snapshot_download(
            model, allow_patterns=patterns, ignore_patterns=ignore, dry_run=True
        )
    except (HFValidationError, HfHubHTTPError, OSError):
        return  # no network: what is here may do, and fetching says what it lacks
    size = sum(file.file_size or 0 for file in files if file.will_download)
    if size > _WORTH_SAYING_BYTES:
        told = ("%s: %.1f GB are fetched from the Hugging Face hub, once: %s%s", model)
        logger.warning(*told, size / 1e9, ", ".join(parts), hint)


def fetch(model: str, parts: Sequence[str], *, weights: bool = True, reads: str = "") -> Path:
    """Return a folder with the parts' files, from the network or the local cache.

    Args:
        model: Hub id.
        parts: Subfolders, or "." for the root.
        weights: False fetches the configs alone.
        reads: Pattern of the tensors that are needed; "" for all.

    Raises:
        CheckpointError: Neither has them.
    """
    from huggingface_hub import snapshot_download  # slow to import
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    patterns, ignore = _patterns(parts, KINDS if weights else (CONFIG,))
    try:
        if weights:
            patterns, ignore = _patterns(parts, _kinds(model, parts, reads))
        folder = Path(snapshot_download(model, allow_patterns=patterns, ignore_patterns=ignore))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        told = " ".join(str(error).split()).rstrip(".")  # the hub's words fill several lines
        raise CheckpointError(
            f"{model!r} is no folder here, and the Hugging Face hub and its local cache did not "
            f"give {', '.join(patterns)}: {type(error).__name__}: {told}. Check the id and the "
            f"network, or give a folder that holds the model"
        ) from error
    return _shown(folder, reads) if reads and weights else folder


def _patterns(parts: Sequence[str], kinds: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Return which files of a hub repository the parts are, and which are left out."""
    prefixes = ["" if part == "." else f"{part}/" for part in parts]
    patterns = [PIPELINE_INDEX, *(prefix + kind for prefix in prefixes for kind in kinds)]
    # A bare pattern also matches in subfolders, which only the root part must not fetch.
    return patterns, ["*/*"] if "." in parts else None


def _kinds(model: str, parts: Sequence[str], reads: str) -> tuple[str, ...]:
    """Return the kinds of files that are fetched, needed shards by their names."""
    if not reads:
        return KINDS
    from huggingface_hub import snapshot_download

    assert list(parts) == ["."], "shards are chosen of a model that has no parts"
    folder = snapshot_download(model, allow_patterns=[_SHARDS], ignore_patterns=["*/*"])
    listed = _needed(Path(folder), reads)
    if not listed:
        return KINDS
    return (*(kind for kind in KINDS if kind != WEIGHTS), *sorted(set(listed.values())))


def _needed(folder: Path, reads: str) -> dict[str, str]:
    """Return the tensors that lie in the needed shards, and in which; {} where nothing is listed.

    Raises:
        CheckpointError: The list is none, or no tensor in it is needed.
    """
    path = folder / _SHARDS
    if not path.is_file():
        return {}
    try:
        held: dict[str, Any] = json.loads(read_plain(str(path), _MAX_INDEX_BYTES))["weight_map"]
        files = {str(name): str(file) for name, file in held.items()}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: lists no tensors: {error!r}") from error
    wanted = {file for name, file in files.items() if re.fullmatch(reads, name)}
    if strange := [file for file in wanted if "/" in file or not file.endswith(".safetensors")]:
        raise CheckpointError(f"{path}: names {strange[0]!r}, which is no file beside it")
    if not wanted:
        raise CheckpointError(f"{path}: lists no tensor that this encoder reads ({reads})")
    return {name: file for name, file in files.items() if file in wanted}


def _shown(folder: Path, reads: str) -> Path:
    """Return a folder of links to what is needed of a snapshot, which lists no other tensor."""
    listed = _needed(folder, reads)
    if not listed:
        return folder
    shards = set(listed.values())
    kept = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.name != _SHARDS
        if path.suffix != ".safetensors" or path.name in shards
    )
    key = sha256("\n".join(map(str, [folder.resolve(), *kept, reads])).encode()).hexdigest()[:32]
    place = cache_dir() / "shards" / key
    if not place.is_dir():
        with whole_folder(place) as half:
            for path in kept:
                (half / path.name).symlink_to(path.absolute())
            (half / _SHARDS).write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return place
