"""What is wrong is noticed whatever the layout: cameras and depth that are not what it says."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from layout_writers import WRITERS, Written, png, put, units
from planes import PlaneScene, camera

from vega3d.pipeline.scenes.checking import check_scene
from vega3d.pipeline.scenes.packing import pack
from vega3d.pipeline.scenes.reading import read_scenes

OPENGL = np.diag([1.0, -1, -1, 1])


@dataclass(frozen=True)
class Mistold(PlaneScene):
    """The analytic scene whose pixels are true, and whose files tell something else of them."""

    truth: PlaneScene = field(default_factory=PlaneScene)
    pose_told: Callable[[np.ndarray], np.ndarray] = lambda pose: pose
    depth_told: float = 1.0

    def pose(self, view: int) -> np.ndarray:
        return self.pose_told(self.truth.pose(view))

    def _hits(self, view: int, size: tuple[int, int], rays: np.ndarray | None = None) -> tuple:
        depth, xyz = self.truth._hits(view, size, rays)
        return self.depth_told * depth, xyz


TRUTH = PlaneScene(num_views=5)
TOLD = {
    "as it is": (Mistold(num_views=5), None),
    "opengl": (
        Mistold(num_views=5, pose_told=lambda pose: pose @ OPENGL),
        "--poses opengl would make it",
    ),
    "centimetres": (Mistold(num_views=5, depth_told=0.1), "--depth-scale 10 would make it"),
    "half the size": (
        Mistold(num_views=5, K=np.diag([0.5, 0.5, 1]) @ TRUTH.K),
        "middle of an image 0.50 times as large",
    ),
}


def told(written: Written) -> tuple[str, str]:
    found = check_scene(read_scenes(str(written.location)), written.scene_id, num_views=0).check
    return found.verdict, "\n".join(found.lines)


@pytest.mark.one_quick
@pytest.mark.parametrize("how", TOLD)
@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_is_asked(tmp_path: Path, layout: str, how: str) -> None:
    scene, expected = TOLD[how]
    written = WRITERS[layout](tmp_path, scene)
    verdict, lines = told(written)
    if expected is None or not (written.has_depth or how == "half the size"):
        assert verdict == ("ok" if written.has_depth else "unproven"), lines
        return
    assert verdict in ("wrong", "failed"), lines
    assert expected in lines


SEVEN_SCENES = PlaneScene(
    num_views=5,
    color_size=(480, 640),
    depth_size=(480, 640),
    K=camera(585.0, 585.0, 320.0, 240.0),
)


def seven_scenes(root: Path, scene: PlaneScene) -> Written:
    """Write a sequence whose intrinsics are known and stand in no file."""
    for i in range(scene.num_views):
        stem = root / "seq-01" / f"frame-{i:06d}"
        put(stem.with_suffix(".color.png"), png(scene.rgb(i)))
        put(stem.with_suffix(".depth.png"), png(units(scene.depth(i), 1000)))
        np.savetxt(stem.with_suffix(".pose.txt"), scene.pose(i))
    return Written(root, "seq-01", [], size_is_stated=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),
        ({"pose_told": lambda pose: pose @ OPENGL}, "--poses opengl would make it"),
        ({"truth": replace(SEVEN_SCENES, K=camera(400.0, 400.0, 320.0, 240.0))}, "focal length"),
    ],
)
def test_seven_scenes_is_asked(tmp_path: Path, change: dict, expected: str | None) -> None:
    plain = {name: getattr(SEVEN_SCENES, name) for name in ("num_views", "color_size", "K")}
    scene = Mistold(**{**plain, "depth_size": (480, 640), "truth": SEVEN_SCENES, **change})
    verdict, lines = told(seven_scenes(tmp_path, scene))
    assert verdict == ("wrong" if expected else "ok"), lines
    assert (expected or "") in lines


def test_what_was_packed_is_asked(tmp_path: Path) -> None:
    for how in ("as it is", "opengl"):
        scene, expected = TOLD[how]
        written = WRITERS["scannet_export"](tmp_path / how, scene)
        pack(read_scenes(str(written.location)), str(tmp_path / how / "tars"))
        verdict, lines = told(replace(written, location=tmp_path / how / "tars"))
        assert verdict == ("wrong" if expected else "ok"), lines
        assert (expected or "") in lines
