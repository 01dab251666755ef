"""The whole main job on procedural rooms with tiny checkpoints: no download of anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.siglip import SiglipConfig
from vega3d.pipeline.backbones.tiny import write_tiny_siglip, write_tiny_wan
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.files import whole_folder
from vega3d.pipeline.pictures import write_pictures
from vega3d.pipeline.store.store import open_store

SCENES = "rooms:3?views=12&height=240&width=320"

Extract = Callable[[str, str, ExtractConfig, Numerics], dict[str, Any]]


def run_demo(out: str, extract: Extract) -> dict[str, Any]:
    """Make tiny checkpoints, extract priors and semantics of three rooms, draw pictures.

    Args:
        out: Folder for all of it; a second run goes on where the first stopped.
        extract: Writes the features of scenes to a store with a config and numerics.

    Returns:
        Where everything is.
    """
    folder = Path(out)
    models = {"wan": folder / "models" / "wan-tiny", "siglip": folder / "models" / "siglip-tiny"}
    for name, write in (("wan", write_tiny_wan), ("siglip", write_tiny_siglip)):
        if not models[name].exists():  # under its name only when it is whole
            with whole_folder(models[name]) as half:
                write(half)
    numerics = Numerics(threads=1)
    prior = str(folder / "prior.zarr")
    semantic = str(folder / "semantic.zarr")
    extract(SCENES, prior, demo_config(str(models["wan"])), numerics)
    extract(SCENES, semantic, demo_semantic_config(str(models["siglip"])), numerics)
    written = write_pictures(
        [open_store(prior), open_store(semantic)], str(folder / "pictures"), num_views=6
    )
    return {
        "prior": prior,
        "semantic": semantic,
        "models": {name: str(path) for name, path in models.items()},
        "pictures": [str(path) for path in written],
    }


def demo_config(model: str) -> ExtractConfig:
    """Return the default config at the demo's size."""
    backbone = WanConfig(model=model, resolution=(240, 320))
    return ExtractConfig(backbone=backbone, num_views=12, scenes_per_shard=1)


def demo_semantic_config(model: str) -> ExtractConfig:
    """Return SigLIP's config at the demo's size."""
    return ExtractConfig(backbone=SiglipConfig(model=model), num_views=12, scenes_per_shard=1)
