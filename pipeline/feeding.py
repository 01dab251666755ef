"""What a view costs the cores beside a GPU, measured: a run whose model only waits.

The stand-in holds the thread that feeds it for so many seconds a view and hands over pooled
features, as a GPU does that resizes and pools. All else is a run's own: reading, decoding, hashing,
looking at geometry, placing tokens, previews, noise, and a store with 1,536 channels.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from vega3d.pipeline.backbones.backbone import Backbone, Pooled
from vega3d.pipeline.backbones.controls import RandomConfig
from vega3d.pipeline.backbones.grid import TokenMap, plan_placement
from vega3d.pipeline.backbones.noise import view_noise
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.config import ExtractConfig, JpegSize
from vega3d.pipeline.limits import SCANNET_COLOR, SCANNET_DEPTH
from vega3d.pipeline.plan import plan_units
from vega3d.pipeline.prepared import prepare_model
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.store.creating import create_or_resume
from vega3d.pipeline.worker import UnitWriter

_CANVAS, _TAP, _CHANNELS = (480, 832), "k300_b20", 1536


@dataclass(frozen=True, kw_only=True, slots=True)
class Fed:
    """How a run went."""

    views: int
    wall_s: float
    cpu_s_per_view: float
    """Of all threads; the stand-in takes none."""

    efficiency: float
    """Share of the time in which the stand-in was held; NaN where a backbone took its place."""

    decode_s_per_view: float
    store_s_per_view: float


@dataclass
class Waiting:
    """Looks like a backbone; its time passes without a core."""

    seconds_per_view: float
    taps: tuple[str, ...] = (_TAP,)
    channels: int = _CHANNELS
    views_at_once: int | None = 8
    busy_s: float = 0.0

    def canvas(self, image_height: int, image_width: int) -> tuple[int, int]:
        """Return rows and columns of the input."""
        return _CANVAS

    def token_map(self, image_height: int, image_width: int) -> TokenMap:
        """Say where tokens would look."""
        return plan_placement(image_height, image_width, _CANVAS, "pad").token_map(16)

    def begin_pooled(
        self, rgb: np.ndarray, grid: tuple[int, int], *, scene_id: str, view_ids: Sequence[str]
    ) -> Callable[[], Pooled]:
        """Wait, and return what hands over features that are all the same."""
        start = time.perf_counter()
        time.sleep(len(rgb) * self.seconds_per_view)
        self.busy_s += time.perf_counter() - start

        def take() -> Pooled:
            pooled = np.ones((len(rgb), *grid, _CHANNELS), dtype=np.float32)
            for view_id in view_ids:
                view_noise(0, scene_id, view_id, 300, 0, (16, 1, _CANVAS[0] // 8, _CANVAS[1] // 8))
            return {_TAP: pooled}, np.ones(grid, dtype=np.float32)

        return take


def fed_config(views: int, scenes_per_unit: int = 1, jpeg: JpegSize = "whole") -> ExtractConfig:
    """Return what is read of scenes, for an encoder of the stand-in's size.

    Args:
        views: Of a scene.
        scenes_per_unit: Scenes that are committed together.
        jpeg: At what size photographs are decoded.
    """
    backbone = RandomConfig(resolution=_CANVAS)
    return ExtractConfig(
        backbone=backbone, num_views=views, scenes_per_shard=scenes_per_unit, jpeg=jpeg
    )


def feed(captures: Path, out: Path, config: ExtractConfig, seconds_per_view: float = 0.0) -> Fed:
    """Extract all scenes of a folder with the stand-in.

    Args:
        captures: In any layout that is read.
        out: Where the store goes.
        config: From `fed_config`.
        seconds_per_view: That the stand-in is held.
    """
    return extract_with(Waiting(seconds_per_view), captures, out, config, Numerics(threads=1))


def extract_with(
    stage: Waiting | Backbone,
    captures: Path,
    out: Path,
    config: ExtractConfig,
    numerics: Numerics,
) -> Fed:
    """Extract all scenes of a folder with a backbone that is there already; see `feed`.

    The store says nothing true of where its features come from: it is made to be measured.
    """
    source = read_scenes(str(captures))
    model = prepare_model(config)
    told = {"taps": list(stage.taps), "channels": stage.channels}
    model = replace(model, identity={**model.identity, **told})
    plan = plan_units(
        source.entries(), num_views=config.num_views, scenes_per_shard=config.scenes_per_shard
    )
    store = create_or_resume(str(out), plan, model.identity, numerics.stored())
    writer = UnitWriter(source, model, store, stage)
    start, cpu = time.perf_counter(), time.process_time()
    results = list(run_inline(writer, plan.units))
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    done = sum(result.views for result in results)
    return Fed(
        views=done,
        wall_s=wall_s,
        cpu_s_per_view=cpu_s / done,
        efficiency=stage.busy_s / wall_s if isinstance(stage, Waiting) else math.nan,
        decode_s_per_view=sum(result.seconds["decode"] for result in results) / done,
        store_s_per_view=sum(result.seconds["store"] for result in results) / done,
    )


def write_captures(
    root: Path, num_views: int, size: tuple[int, int] = SCANNET_COLOR, scenes: int = 2
) -> Path:
    """Write captures in the layout of ScanNet's export, and return their folder.

    The camera moves along a wall; depth has half of the colour's sides.

    Args:
        root: The folder.
        num_views: Of a scene.
        size: Rows and columns of colour; ScanNet's are the default: 1296x968 JPEG, 640x480 PNG.
        scenes: From the third on, their files are links to those of the first two.
    """
    rows, cols = SCANNET_DEPTH if size == SCANNET_COLOR else (size[0] // 2, size[1] // 2)
    rng = np.random.default_rng(0)
    for scene in range(2):
        folder = root / f"scene{scene:04d}"
        for name in ("color", "depth", "pose", "intrinsic"):
            (folder / name).mkdir(parents=True)
        for view in range(num_views):
            # Coarse noise: about as many bytes as a photograph.
            coarse = rng.integers(0, 256, (size[0] // 12, size[1] // 12, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize(size[::-1])
            image.save(folder / "color" / f"{view}.jpg", quality=80)
            steps = rng.integers(1990, 2010, (rows // 4, cols // 4)).astype(np.uint16)
            depth = Image.fromarray(np.kron(steps, np.ones((4, 4), np.uint16)))
            depth.save(folder / "depth" / f"{view}.png")
            pose = np.eye(4)
            pose[0, 3] = 0.05 * view
            np.savetxt(folder / "pose" / f"{view}.txt", pose)
        for name, sides in (("color", size), ("depth", (rows, cols))):
            K = np.diag([0.9 * sides[1], 0.9 * sides[1], 1.0, 1.0])
            K[:2, 2] = sides[1] / 2, sides[0] / 2
            np.savetxt(folder / "intrinsic" / f"intrinsic_{name}.txt", K)
    for scene in range(2, scenes):
        for path in (root / f"scene{scene % 2:04d}").rglob("*.*"):
            place = root / f"scene{scene:04d}" / path.parent.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, place)
            except OSError:  # not every file system has links
                shutil.copyfile(path, place)
    return root
