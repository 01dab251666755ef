"""What a model's weights hash to: their tensors by name, in however many files they lie.

A copy that was cut into other files, or saved again by another version of a library, is the same
model; one changed bit is another. No torch here.
"""

import hashlib
import json
import logging
import mmap
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vega3d.pipeline.backbones.checkpoints import model_folder
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.fetching import KINDS
from vega3d.pipeline.errors import CheckpointError
from vega3d.pipeline.files import write_whole
from vega3d.pipeline.local_files import check_fetched
from vega3d.pipeline.places import cache_dir

logger = logging.getLogger(__name__)

_INDEX = ".safetensors.index.json"
_NOT_COMPUTED_WITH = ("_name_or_path", "_diffusers_version", "transformers_version")
"""Fields of a config.json that say who wrote it, and from where."""

_MAX_HEADER_BYTES = 100 << 20  # as safetensors itself allows


def model_sha256(config: BackboneConfig) -> str:
    """Return the hash of the weights that a config computes with."""
    return weights_sha256(model_folder(config), config.parts, config.reads)


def weights_sha256(folder: Path, parts: Sequence[str], reads: str = "") -> str:
    """Hash the parts' tensors by name, their configs, and their tokenizers' files.

    Of tensors, only those that the pattern `reads` names, where there is one: a language model
    beside them may be there or not.

    Gigabytes are read once per machine: what each file hashes to is kept as its own small JSON in
    the cache folder, written whole and renamed, so that any number of writers do no harm.
    """
    hashes: list[tuple[str, str]] = []  # no dict: another precision beside it has the same names
    for part in sorted(parts):
        place = folder / part
        for path in sorted({path for kind in KINDS for path in place.glob(kind)}):
            if not path.name.endswith(_INDEX):  # it says which file holds what
                hashes += [
                    (f"{part}/{name}", value)
                    for name, value in _hashes(path).items()
                    if not (reads and path.suffix == ".safetensors") or re.fullmatch(reads, name)
                ]
    total = hashlib.sha256()
    for name, value in sorted(hashes):
        total.update(f"{len(name.encode())}:{name}:{value};".encode())
    return total.hexdigest()


def _hashes(path: Path) -> dict[str, str]:
    """Return what a file's tensors hash to, or the file; remembered while it is untouched.

    The time of the last change of the inode cannot be set back, as the file's own time can; a file
    that was copied into its place has another inode.
    """
    try:
        check_fetched(str(path))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    real = path.resolve()
    stat = real.stat()
    key = [path.name, str(real), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns,
           stat.st_ctime_ns]  # fmt: skip
    name = hashlib.sha256(f"{real}\n{path.name}".encode()).hexdigest()[:32]
    note = cache_dir() / "hashes" / f"{name}.json"
    try:
        remembered = json.loads(note.read_text("utf-8"))
        if remembered["key"] == key:
            return {str(k): str(v) for k, v in remembered["hashes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # absent, damaged, or of an older version: hash again
    found = _read_hashes(real, path.name)
    try:
        write_whole(note, json.dumps({"key": key, "hashes": found}).encode())
    except OSError as error:
        logger.warning("%s: cannot remember hashes, every start reads %s: %s", note, real, error)
    return found


def _read_hashes(real: Path, name: str) -> dict[str, str]:
    if name.endswith(".safetensors") and (tensors := _tensor_hashes(real)) is not None:
        return tensors
    if name == "config.json":
        try:
            config = json.loads(real.read_text("utf-8"))
        except ValueError:
            config = None
        if isinstance(config, dict):
            kept = {k: v for k, v in config.items() if k not in _NOT_COMPUTED_WITH}
            text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
            return {name: hashlib.sha256(text.encode()).hexdigest()}
    with real.open("rb") as stream:
        return {name: hashlib.file_digest(stream, "sha256").hexdigest()}


def _tensor_hashes(path: Path) -> dict[str, str] | None:
    """Hash type, shape and bytes of each tensor; None where this is no safetensors file.

    Source of the layout: huggingface/safetensors, README: 8 bytes of length, a JSON header with
    dtype, shape and data_offsets, then the data.
    """
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
            return None
        try:
            header: dict[str, Any] = json.loads(stream.read(size))
            header.pop("__metadata__", None)
            spans = {
                name: (tensor["dtype"], list(tensor["shape"]), *map(int, tensor["data_offsets"]))
                for name, tensor in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = 8 + size
            found = {}
            for name, (dtype, shape, first, last) in spans.items():
                digest = hashlib.sha256(json.dumps([dtype, shape]).encode())
                with memoryview(data)[start + first : start + last] as piece:
                    digest.update(piece)
                found[name] = digest.hexdigest()
            return found
