"""Where a model's files are, what they hash to, and what they say of the model; no torch here.

A model is a hub id or a folder in the same layout. Wan has diffusers' parts (`transformer/`,
`vae/`, and for the prompt `text_encoder/`, `tokenizer/`); SigLIP has its files at the root.
Only JSON, SentencePiece and safetensors files are ever fetched or read: nothing here unpickles.
"""

import hashlib
import itertools
import json
import logging
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vega3d.pipeline.backbones.grid import auto_canvas
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import CheckpointError, UsageError

logger = logging.getLogger(__name__)

WAN_PARTS = ("transformer", "vae")
TEXT_PARTS = ("text_encoder", "tokenizer")
SIGLIP_PARTS = (".",)

TEXT_ROWS = 512
"""Rows of text that Wan attends to. Source: Wan-Video/Wan2.1, wan/configs/shared_config.py."""

WAN_AUTO_TOKENS = 1560
"""Tokens of a 480x832 view, which `resolution auto` keeps."""

_SIGLIP_TYPES = ("siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_KINDS = ("*.json", "*.safetensors", "*.model")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What a plan needs to know of a model, from its config.json and its files' hashes."""

    channels: int
    """Width C of every tap."""

    num_blocks: int
    blocks: tuple[int, ...]
    """The config's blocks, counted from 0."""

    taps: tuple[str, ...]
    ffn_dim: int
    patch_px: int
    """Side of a token, in px of the backbone's input."""

    native_px: int
    """Side of the checkpoint's own square input; 0 where it has none (Wan, SigLIP 2 NaFlex)."""

    native_tokens: int
    """Tokens of the checkpoint's own input, which `auto` keeps."""

    vae_width: int
    """Channels of the VAE's first level; 0 for SigLIP."""

    text_dim: int = 0
    """Width of the prompt's embedding; 0 for SigLIP."""


def cache_dir() -> Path:
    """Return the folder of small remembered things: VEGA3D_CACHE, else ~/.cache/vega3d."""
    return Path(os.environ.get("VEGA3D_CACHE") or Path.home() / ".cache" / "vega3d")


def resolve_model(model: str, parts: Sequence[str], *, weights: bool = True) -> Path:
    """Return the folder that holds a model's parts, fetching only these from the hub if need be.

    Args:
        model: Hub id or folder.
        parts: Subfolders, or "." for the root.
        weights: False fetches and checks the configs alone.

    Raises:
        CheckpointError: The folder lacks a part or holds only pickled weights, or the hub id can
            neither be fetched nor found in the local cache.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.startswith((".", "/", "~")) or model.count("/") != 1:
            raise CheckpointError(f"{model!r} is neither a folder nor a hub id like 'owner/name'")
        folder = _fetch(model, parts, _KINDS if weights else ("config.json",))
    for part in parts:
        _check_part(model, folder, part, weights)
    return folder


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """Return the config.json of one part."""
    path = folder / part / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: no readable config.json: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: must be a JSON object, got {type(config).__name__}")
    return config


def check_class(folder: Path, part: str, expected: str) -> dict[str, Any]:
    """Return the config.json of a diffusers part after checking which class wrote it."""
    config = read_config(folder, part)
    found = config.get("_class_name")
    if found != expected:
        raise CheckpointError(
            f"{folder / part}: must hold a {expected}, found {found!r}; "
            f"give a Wan2.1 text-to-video model in diffusers layout"
        )
    return config


def siglip_vision_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the model type and the vision half's config of a SigLIP checkpoint."""
    config = read_config(folder, ".")
    kind = config.get("model_type")
    if kind not in _SIGLIP_TYPES:
        raise CheckpointError(
            f"{folder}: model_type must be one of {list(_SIGLIP_TYPES)}, found {kind!r}"
        )
    return str(kind), config.get("vision_config", config)


def weights_sha256(folder: Path, parts: Sequence[str]) -> str:
    """Hash the parts' names and bytes; remembered by path, size and time of change.

    Gigabytes are read once per machine: each file's hash is kept as its own small JSON in the
    cache folder, written whole and renamed, so that any number of writers do no harm.
    """
    total = hashlib.sha256()
    for path in part_files(folder, parts):
        name = path.relative_to(folder).as_posix()
        total.update(f"{len(name)}:{name}:{_file_sha256(path)};".encode())
    return total.hexdigest()


def model_sha256(config: ExtractConfig) -> str:
    """Return the hash of the weights that a config's backbone computes with."""
    parts = SIGLIP_PARTS if config.backbone == "siglip" else WAN_PARTS
    return weights_sha256(resolve_model(config.model, parts), parts)


def part_files(folder: Path, parts: Sequence[str]) -> list[Path]:
    """List the files that decide what the parts compute, sorted by name."""
    found = {path for part in parts for kind in _KINDS for path in (folder / part).glob(kind)}
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def resolve_blocks(blocks: Sequence[int], num_blocks: int) -> tuple[int, ...]:
    """Return block indices counted from 0; negative ones count from the end."""
    if bad := [block for block in blocks if not -num_blocks <= block < num_blocks]:
        raise UsageError(
            f"blocks must lie in {-num_blocks}..{num_blocks - 1} for this model, got {bad}"
        )
    resolved = tuple(block % num_blocks for block in blocks)
    if len(set(resolved)) != len(resolved):
        raise ValueError(f"blocks {tuple(blocks)} name a block twice: {resolved}")
    return resolved


def tap_names(config: ExtractConfig, blocks: Sequence[int]) -> tuple[str, ...]:
    """Name the taps in the order of samples, timesteps, blocks: `k300_b20`, `k300_b20_n1`."""
    if config.backbone == "siglip":
        return tuple(f"b{block}" for block in blocks)
    return tuple(
        tap_name(timestep, block, sample)
        for sample in range(config.noise_samples)
        for timestep in config.timesteps
        for block in blocks
    )


def tap_name(timestep: int, block: int, sample: int) -> str:
    """Name one tap of Wan; the first noise sample goes without a suffix."""
    return f"k{timestep}_b{block}" + (f"_n{sample}" if sample else "")


def model_facts(config: ExtractConfig) -> ModelFacts:
    """Return what planning needs to know of the config's model."""
    if config.backbone == "siglip":
        return _siglip_facts(config)
    folder = resolve_model(config.model, WAN_PARTS, weights=False)
    dit = check_class(folder, "transformer", "WanTransformer3DModel")
    vae = check_class(folder, "vae", "AutoencoderKLWan")
    num_blocks = int(dit["num_layers"])
    blocks = resolve_blocks(config.blocks, num_blocks)
    return ModelFacts(
        channels=int(dit["num_attention_heads"]) * int(dit["attention_head_dim"]),
        num_blocks=num_blocks,
        blocks=blocks,
        taps=tap_names(config, blocks),
        ffn_dim=int(dit["ffn_dim"]),
        patch_px=16,
        native_px=0,
        native_tokens=WAN_AUTO_TOKENS,
        vae_width=int(vae["base_dim"]),
        text_dim=int(dit.get("text_dim", 4096)),
    )


def flops_per_view(config: ExtractConfig, facts: ModelFacts, image_hw: tuple[int, int]) -> float:
    """Estimate the floating-point operations of one view, a multiply-add counted as two.

    Blocks up to the last tap, once for each timestep and noise sample, and the VAE's encoder
    once. Views that share a context attend to one another, so they cost more than alone; with
    `num_views` 0 (all of them) a scene is taken to have 32.
    """
    rows, cols = canvas_size(config, facts, *image_hw)
    tokens = (rows // facts.patch_px) * (cols // facts.patch_px)
    depth = max(facts.blocks) + 1
    if config.backbone == "siglip":
        embed = 2 * tokens * facts.channels * 3 * facts.patch_px**2
        return float(embed + depth * _block_flops(tokens, facts, text_rows=0))
    views = config.num_views or 32
    latents = {"frame": 1, "stack": views, "clip": 1 + math.ceil((views - 1) / 4)}[config.context]
    passes = len(config.timesteps) * config.noise_samples
    blocks = passes * depth * _block_flops(latents * tokens, facts, text_rows=TEXT_ROWS)
    shared = views if config.context != "frame" else 1
    return float(blocks / shared + _vae_flops(rows, cols, facts.vae_width))


def canvas_size(
    config: ExtractConfig, facts: ModelFacts, image_height: int, image_width: int
) -> tuple[int, int]:
    """Return rows and columns of the backbone's input for an image of that size, px."""
    if isinstance(config.resolution, tuple):
        return config.resolution
    if config.resolution == "native" and facts.native_px:
        return facts.native_px, facts.native_px
    return auto_canvas(image_height, image_width, facts.native_tokens, facts.patch_px)


def _block_flops(tokens: int, facts: ModelFacts, text_rows: int) -> int:
    """Count one block: self-attention, cross-attention to the text where there is one, and MLP."""
    width = facts.channels
    attention = 8 * tokens * width**2 + 4 * tokens**2 * width
    cross = 4 * (tokens + text_rows) * width**2 + 4 * tokens * text_rows * width
    return attention + (cross if text_rows else 0) + 4 * tokens * width * facts.ffn_dim


def _vae_flops(rows: int, cols: int, width: int) -> int:
    """Count the convolutions of Wan's VAE encoder on one frame, zero-padded taps included.

    Source: diffusers, autoencoder_kl_wan.py, WanEncoder3d (two residual blocks a level, levels of
    1, 2, 4, 4 times the width, three of them followed by a halving of the side).
    """
    taps, area = 2 * 27, rows * cols
    total = taps * area * 3 * width
    levels = [width, width, 2 * width, 4 * width, 4 * width]
    for level, (before, after) in enumerate(itertools.pairwise(levels)):
        total += taps * area * (before * after + 3 * after**2)
        if level < 3:
            area //= 4
            total += 2 * 9 * area * after**2
    return total + taps * area * (4 * levels[-1] ** 2 + levels[-1] * 32)


def _siglip_facts(config: ExtractConfig) -> ModelFacts:
    folder = resolve_model(config.model, SIGLIP_PARTS, weights=False)
    kind, raw = siglip_vision_config(folder)
    # A published config.json holds only what differs from the class's defaults, filled in here.
    # Source: transformers 5, SiglipVisionConfig and Siglip2VisionConfig.
    defaults = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
    vision = {**defaults, "patch_size": 16, "image_size": 224, "num_patches": 256, **raw}
    naflex = kind.startswith("siglip2")
    blocks = resolve_blocks(config.blocks, int(vision["num_hidden_layers"]))
    side = 0 if naflex else int(vision["image_size"])
    patch = int(vision["patch_size"])
    return ModelFacts(
        channels=int(vision["hidden_size"]),
        num_blocks=int(vision["num_hidden_layers"]),
        blocks=blocks,
        taps=tap_names(config, blocks),
        ffn_dim=int(vision["intermediate_size"]),
        patch_px=patch,
        native_px=side,
        native_tokens=int(vision["num_patches"]) if naflex else (side // patch) ** 2,
        vae_width=0,
    )


def _fetch(model: str, parts: Sequence[str], kinds: Sequence[str]) -> Path:
    """Return the hub snapshot with the parts' files, from the network or the local cache."""
    from huggingface_hub import snapshot_download  # slow to import
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    prefixes = ["" if part == "." else f"{part}/" for part in parts]
    patterns = [prefix + kind for prefix in prefixes for kind in kinds]
    # A bare pattern also matches in subfolders, which only the root part must not fetch.
    ignore = ["*/*"] if "." in parts else None
    try:
        return Path(snapshot_download(model, allow_patterns=patterns, ignore_patterns=ignore))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{model!r} is no folder here, and the Hugging Face hub and its local cache did not "
            f"give {', '.join(patterns)}: {type(error).__name__}: {error}. Check the id and the "
            f"network, or give a folder that holds the model"
        ) from error


def _check_part(model: str, folder: Path, part: str, weights: bool) -> None:
    """Check that one part is there, with safetensors weights where it has weights."""
    place = folder / part
    if not place.is_dir():
        found = sorted(path.name for path in folder.iterdir())
        raise CheckpointError(f"{model!r} has no folder {part}/ in {folder}; found {found}")
    if part == "tokenizer" or not weights or any(place.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in place.iterdir() if path.suffix in _PICKLES)
    remedy = (
        f"found only {pickles}, which would have to be unpickled; convert them once with "
        f"`save_pretrained(folder, safe_serialization=True)` where you trust their source"
        if pickles
        else f"found {sorted(path.name for path in place.iterdir())}"
    )
    raise CheckpointError(f"{place}: weights must be .safetensors; {remedy}")


def _file_sha256(path: Path) -> str:
    """Return a file's sha256, from the cache while its path, size and time are the same."""
    real = path.resolve()
    stat = real.stat()
    key = [str(real), stat.st_size, stat.st_mtime_ns]
    note = cache_dir() / "hashes" / f"{hashlib.sha256(str(real).encode()).hexdigest()[:32]}.json"
    try:
        remembered = json.loads(note.read_text("utf-8"))
        if remembered["key"] == key:
            return str(remembered["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent or damaged: hash again
    with real.open("rb") as stream:
        value = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        write_whole(note, json.dumps({"key": key, "sha256": value}).encode())
    except OSError as error:
        logger.warning("%s: cannot remember hashes, every start reads %s: %s", note, real, error)
    return value


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file under a temporary name and rename it, so that no reader sees half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
