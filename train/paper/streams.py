"""Feature stores of the desk paper: made once, gone on with, read as tensors.

Letters: S scenes, V views, h w cells, C channels.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import configured
from vega3d.pipeline.backbones.twins import write_random_generator, write_random_semantic
from vega3d.pipeline.config import ExtractConfig, RunConfig
from vega3d.pipeline.files import whole_folder
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.store.store import open_store
from vega3d.pipeline.together import StorePlan, extract_together
from vega3d.train.paper.config import PaperConfig

GRID = (8, 10)
RESOLUTION = (128, 160)
"""The desk models' own tokens, 16 px each."""

_SCENES_A_SHARD = 10


def prior_backbone(model: str, **settings: Any) -> BackboneConfig:  # noqa: ANN401
    """Return the generator's config: the desk model's defaults, whatever folder it lies in."""
    return configured("desk", {"model": model, **settings})


def stream_backbones(config: PaperConfig, folder: Path) -> dict[str, BackboneConfig]:
    """Return what each stream is made with; random twins are written to `folder`."""
    streams = {
        "prior": prior_backbone(config.prior),
        "semantic": configured("desk-siglip", {"model": config.semantic}),
    }
    for seed in config.seeds:
        generator, siglip = folder / f"random-prior-{seed}", folder / f"random-semantic-{seed}"
        if not generator.exists():
            with whole_folder(generator) as half:
                write_random_generator(config.prior, half, seed)
        if not siglip.exists():
            with whole_folder(siglip) as half:
                write_random_semantic(config.semantic, half, seed)
        streams[f"random prior {seed}"] = prior_backbone(str(generator))
        streams[f"random semantic {seed}"] = configured("desk-siglip", {"model": str(siglip)})
    generator = folder / f"random-prior-{config.seeds[0]}"  # with the prior's own VAE
    streams["VAE latent"] = configured(
        "wan-vae", {"model": str(generator), "resolution": RESOLUTION}
    )
    streams["RGB"] = configured("rgb", {"resolution": RESOLUTION})
    for context in config.contexts:
        streams[f"prior, {context}"] = prior_backbone(config.prior, context=context)
    return streams


def make_stores(
    scenes: str, backbones: Mapping[str, BackboneConfig], folder: Path
) -> dict[str, str]:
    """Extract every stream of the scenes into a store of its own; each view is rendered once."""
    stores = {name: str(folder / f"{_file(name)}.zarr") for name in backbones}
    plans = [
        StorePlan(
            out=stores[name],
            config=ExtractConfig(
                backbone=backbone, grid=GRID, num_views=0, scenes_per_shard=_SCENES_A_SHARD
            ),
        )
        for name, backbone in backbones.items()
    ]
    extract_together(
        read_scenes(scenes),
        plans,
        numerics=Numerics(threads=1),
        run=partial(run_inline, config=RunConfig()),
    )
    return stores


def read_features(url: str) -> Tensor:
    """Return the features of all scenes of a store of one tap, [S, V, h, w, C]."""
    store = open_store(url)
    found = [store.features(scene_id) for scene_id in sorted(store.scene_ids)]
    return torch.from_numpy(np.stack(found)).float()


def _file(name: str) -> str:
    return name.replace(",", "").replace(" ", "-").lower()
