"""A misread capture is recognised: rooms of exact geometry, and the real captures where present."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.features import decode_scene
from vega3d.pipeline.scenes.diagnosis import Diagnosis, diagnose
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.reprojection import PosedDepth
from vega3d.pipeline.scenes.scene import Scene

Told = Callable[[PosedDepth], PosedDepth]


def poses(change: Callable[[np.ndarray], np.ndarray]) -> Told:
    return lambda v: PosedDepth(v.depth_m, v.K, change(v.world_from_camera))


def depth(scale: float) -> Told:
    return lambda v: PosedDepth(v.depth_m * np.float32(scale), v.K, v.world_from_camera)


def intrinsics(change: Callable[[np.ndarray], np.ndarray]) -> Told:
    return lambda v: PosedDepth(v.depth_m, change(v.K), v.world_from_camera)


def both(one: Told, other: Told) -> Told:
    return lambda v: other(one(v))


def longer(K: np.ndarray, factor: float) -> np.ndarray:
    return K * np.array([[factor, 1, 1], [1, factor, 1], [1, 1, 1]])


OPENGL = np.diag([1.0, -1, -1, 1])
MIRROR = np.diag([1.0, -1, 1, 1])
MILLIMETRES = np.array([[1, 1, 1, 1000]] * 3 + [[1, 1, 1, 1]])
ON_ITS_SIDE = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

POSES: dict[str, Told] = {
    "--poses opengl would": poses(lambda pose: pose @ OPENGL),
    "--poses inverse would": poses(np.linalg.inv),
    "--poses opengl-inverse would": poses(lambda pose: np.linalg.inv(pose @ OPENGL)),
}
UNITS: dict[str, Told] = {
    "--depth-scale 0.1 would": depth(10),
    "--depth-scale 10 would": depth(0.1),
    "--depth-scale 0.001 would": depth(1000),
    "--depth-scale 1000 would": depth(0.001),
    "--depth-scale 0.2 would": depth(5),
    "positions of the poses times 0.001 .* would": poses(lambda pose: pose * MILLIMETRES),
    "--poses opengl and --depth-scale 0.2 would": both(depth(5), poses(lambda pose: pose @ OPENGL)),
}
LENSES: dict[str, Told] = {
    "focal length .* about 0.5 times as long": intrinsics(partial(longer, factor=2)),
    "focal length .* about 2 times as long": intrinsics(partial(longer, factor=0.5)),
    "rows and columns exchanged": intrinsics(lambda K: K[[1, 0, 2]][:, [1, 0, 2]]),
}
AXES: dict[str, Told] = {
    r"camera axes right, up, forward \(a left-handed world\)": poses(lambda p: MIRROR @ p @ MIRROR),
    "camera axes down, left, forward": poses(lambda pose: pose @ ON_ITS_SIDE),
}


def posed_depths(scene: Scene) -> list[PosedDepth]:
    return [PosedDepth(v.read_depth_m(), v.K_depth, v.world_from_camera) for v in scene.views]


def told_as(views: list[PosedDepth], told: Told) -> Diagnosis:
    views = [told(view) for view in views]
    last = len(views) - 5
    near = [(views[i], views[i + 1]) for i in np.unique(np.linspace(0, last, 5).astype(int))]
    wide = [(views[i], views[i + 4]) for i in np.unique(np.linspace(0, last, 5).astype(int))]
    return diagnose(near, wide)


def as_it_is(view: PosedDepth) -> PosedDepth:
    return view


@pytest.fixture(scope="module")
def room() -> list[PosedDepth]:
    source = read_scenes("rooms:1?height=60&width=80")
    return posed_depths(source.read("room0000"))


def test_exact_geometry_fits(room: list[PosedDepth]) -> None:
    found = told_as(room, as_it_is)
    assert found.state == "fits"
    assert found.lines() == []
    assert found.error_share < 0.006  # what is left is the width of a pixel: 80 see a room
    medians = [np.median(view.depth_m[view.depth_m > 0]) for view in room]
    assert found.median_depth_m == pytest.approx(np.median(medians), rel=0.2)  # of ten views


@pytest.mark.one_quick
@pytest.mark.parametrize("expected", [*POSES, *UNITS, *LENSES, *AXES])
def test_a_misread_room_is_recognised(room: list[PosedDepth], expected: str) -> None:
    found = told_as(room, (POSES | UNITS | LENSES | AXES)[expected])
    assert found.state == "misread"
    (line,) = found.lines()
    assert re.search(expected, line), line
    assert found.meant_error_m == pytest.approx(told_as(room, as_it_is).error_m, rel=0.05)


def test_noisy_depth_and_drifting_poses_raise_no_alarm(room: list[PosedDepth]) -> None:
    """2 % of the depth and 2 cm: worse than any of the real captures."""
    rng = np.random.default_rng(0)

    def noisy(view: PosedDepth) -> PosedDepth:
        pose = view.world_from_camera.copy()
        pose[:3, 3] += rng.normal(scale=0.02, size=3)
        noise = rng.normal(1, 0.02, view.depth_m.shape).astype(np.float32)
        return PosedDepth(view.depth_m * noise, view.K, pose)

    found = told_as(room, noisy)
    assert found.state == "fits"
    assert 0.01 < found.error_share < 0.03


def test_poses_of_other_views_fit_under_no_reading(room: list[PosedDepth]) -> None:
    strangers = np.random.default_rng(1).permutation(len(room))
    views = [
        PosedDepth(view.depth_m, view.K, room[other].world_from_camera)
        for view, other in zip(room, strangers, strict=True)
    ]
    found = told_as(views, as_it_is)
    assert found.state == "disagrees"
    assert "are these the poses and intrinsics of these images" in found.lines()[0]


def test_a_scene_in_millimetres_agrees_with_itself_and_is_noticed(room: list[PosedDepth]) -> None:
    found = told_as(room, both(depth(1000), poses(lambda pose: pose * MILLIMETRES)))
    assert found.state == "fits"
    (line,) = found.lines()
    assert re.search(r"median depth is \d{4} m, .*--depth-scale 0.001 would make it \d\.", line)


@pytest.mark.parametrize(
    ("depth_m", "is_plausible"), [(0.1, False), (0.3, True), (19, True), (25, False)]
)
def test_the_median_depth_is_asked(depth_m: float, is_plausible: bool) -> None:
    view = PosedDepth(np.full((12, 16), depth_m, np.float32), np.eye(3) + 7, np.eye(4))
    assert bool(diagnose([(view, view)]).lines()) != is_plausible


def test_nothing_is_said_where_nothing_can_be_compared(room: list[PosedDepth]) -> None:
    assert diagnose([]).state == "unknown"
    assert diagnose([]).lines() == []
    apart = PosedDepth(room[0].depth_m, room[0].K, np.eye(4) + 1000 * np.eye(4, k=3))
    found = diagnose([(room[0], apart)])
    assert found.state == "unknown"
    assert found.error_m is None


CAPTURES = {"corridor_lidar": 13, "tum_fr3_structure": 6, "chair_lidar": 5}


@pytest.mark.one_quick
@pytest.mark.parametrize("name", CAPTURES)
def test_real_captures_fit_as_they_are_and_under_no_other_reading(data: Path, name: str) -> None:
    views = posed_depths(read_scenes(str(data / name)).read(name))
    found = told_as(views, as_it_is)
    assert found.state == "fits"
    assert found.lines() == []
    for expected in (*POSES, "--depth-scale 0.1 would"):
        misread = told_as(views, (POSES | UNITS)[expected])
        assert re.search(expected, misread.lines()[0]), misread


@pytest.mark.slow
@pytest.mark.parametrize("views", [6, 12, 16])
def test_a_real_capture_of_few_views_is_not_called_misread(data: Path, views: int) -> None:
    """Its neighbours are so far apart that a tenth of the readings meet, and others by chance."""
    source = read_scenes(str(data / "corridor_lidar"))
    (entry,) = source.entries()
    decoded = decode_scene(source, entry.scene_id, ExtractConfig(num_views=views))
    found = decoded.seen.diagnosed.result()
    assert found.state in ("fits", "unknown")
    assert found.lines() == []
