"""The whole main job on procedural rooms with the package's models: no download of anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import configured
from vega3d.pipeline.backbones.settings import DESK
from vega3d.pipeline.backbones.twins import write_random_generator
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.files import whole_folder
from vega3d.pipeline.pictures import write_pictures
from vega3d.pipeline.store.store import open_store

SCENES = "rooms:{}?views=6&height=128&width=160"
"""Of seed 0, on which nothing was trained and nothing chosen: see backbones/desk/README.md."""

GRID = (8, 10)
"""The models' own tokens: 16 px of 128 x 160."""

Extract = Callable[[str, str, ExtractConfig, Numerics], dict[str, Any]]


def run_demo(out: str, extract: Extract, num_rooms: int) -> dict[str, Any]:
    """Extract a trained prior, its random twin and semantics of rooms, and draw pictures.

    Args:
        out: Folder for all of it; a second run goes on where the first stopped.
        extract: Writes the features of scenes to a store with a config and numerics.
        num_rooms: How many rooms there are.

    Returns:
        Where everything is: the stores `prior`, `random` and `semantic`, models and pictures.
    """
    folder = Path(out)
    twin = folder / "models" / "random-twin"
    if not twin.exists():  # under its name only when it is whole
        with whole_folder(twin) as half:
            write_random_generator(DESK, half)
    backbones = {
        "prior": configured("wan2.1-t2v", {"model": DESK}),
        "random": configured("desk", {"model": str(twin)}),
        "semantic": configured("siglip", {"model": DESK}),
    }
    stores = {name: str(folder / f"{name}.zarr") for name in backbones}
    for name, backbone in backbones.items():
        extract(SCENES.format(num_rooms), stores[name], demo_config(backbone), Numerics(threads=1))
    written = write_pictures(
        [open_store(store) for store in stores.values()],
        str(folder / "pictures"),
        num_views=6,
        num_scenes=3,
    )
    return {
        **stores,
        "models": {"prior": DESK, "random": str(twin), "semantic": DESK},
        "pictures": [str(path) for path in written],
    }


def demo_config(backbone: BackboneConfig) -> ExtractConfig:
    """Return an encoder's config at the demo's size."""
    return ExtractConfig(backbone=backbone, grid=GRID, num_views=6, scenes_per_shard=4)
