"""Three small rooms as ScanNet exports, and a run over them that needs no weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from vega3d.pipeline import read_scenes
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import preset
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.extract import Summary, extract
from vega3d.pipeline.runners import Runner, run_inline

CONFIG = ExtractConfig(
    backbone=replace(preset("rgb"), resolution=(48, 64)), grid=(3, 4), scenes_per_shard=2
)
VIEWS = 3
SCENES = ("a", "b", "c")


def write_captures(root: Path) -> Path:
    """Write three rooms as ScanNet exports."""
    rooms = read_scenes(f"rooms:3?views={VIEWS}&height=48&width=64")
    for name, entry in zip(SCENES, rooms.entries(), strict=True):
        for part in ("color", "depth", "pose", "intrinsic"):
            (root / name / part).mkdir(parents=True)
        for view in rooms.read(entry.scene_id).views:
            stem = str(int(view.view_id))
            Image.fromarray(view.read_rgb()).save(root / name / "color" / f"{stem}.png")
            depth = (1000 * view.read_depth_m()).astype(np.uint16)
            Image.fromarray(depth).save(root / name / "depth" / f"{stem}.png")
            np.savetxt(root / name / "pose" / f"{stem}.txt", view.world_from_camera)
        for kind in ("color", "depth"):
            np.savetxt(root / name / "intrinsic" / f"intrinsic_{kind}.txt", view.K_color)
    return root


def run(
    captures: Path | str, out: Path | str, *, refresh: bool = False, runner: Runner = run_inline
) -> Summary:
    return extract(
        read_scenes(str(captures)), str(out), CONFIG,
        numerics=Numerics(threads=1), run=runner, refresh=refresh,
    )  # fmt: skip


def move_poses(captures: Path, scene_id: str, metres: float = 10.0) -> None:
    """Move a scene's cameras along the world's x axis."""
    for path in (captures / scene_id / "pose").iterdir():
        pose = np.loadtxt(path)
        pose[0, 3] += metres
        np.savetxt(path, pose)
