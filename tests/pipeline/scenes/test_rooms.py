"""Procedural rooms: their depth, poses and colours must fit one another."""

import pickle
from itertools import pairwise

import numpy as np
import pytest

from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.rooms.rooms import Rooms
from vega3d.pipeline.scenes.scene import Scene, View


def room(options: str = "views=8&height=120&width=160", index: int = 0) -> Scene:
    return read_scenes(f"rooms:4?{options}").read(f"room{index:04d}")


def world_points(view: View) -> np.ndarray:
    """Positions of all pixels, written out anew."""
    assert view.read_depth_m is not None
    depth = view.read_depth_m().astype(float)
    rows, cols = np.indices(depth.shape) + 0.5
    rays = np.stack([cols, rows, np.ones_like(rows)], -1) @ np.linalg.inv(view.K_depth).T
    return (rays * depth[..., None]) @ view.world_from_camera[:3, :3].T + view.world_from_camera[
        :3, 3
    ]


def reproject(source: View, target: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Carry all source pixels to the target: their rows, columns (-1 outside), and z there."""
    assert target.read_depth_m is not None
    camera = np.linalg.inv(target.world_from_camera)
    xyz = world_points(source) @ camera[:3, :3].T + camera[:3, 3]
    uvw = xyz @ target.K_depth.T
    height, width = target.read_depth_m().shape
    with np.errstate(divide="ignore", invalid="ignore"):
        cols, rows = np.floor(uvw[..., 0] / uvw[..., 2]), np.floor(uvw[..., 1] / uvw[..., 2])
    inside = (xyz[..., 2] > 0) & (cols >= 0) & (cols < width) & (rows >= 0) & (rows < height)
    return (
        np.where(inside, rows, -1).astype(int),
        np.where(inside, cols, -1).astype(int),
        xyz[..., 2],
    )


def test_depth_reprojects_onto_the_depth_of_the_next_view() -> None:
    views = room("views=16&height=240&width=320").views
    for source, target in pairwise(views[:5]):
        rows, cols, z = reproject(source, target)
        inside = rows >= 0
        assert inside.mean() > 0.2
        error_m = np.abs(z[inside] - target.read_depth_m()[rows[inside], cols[inside]])
        # Within a pixel depth changes by a few mm on most surfaces; occluded points do not count.
        assert np.median(error_m) < 0.012
        assert (error_m < 0.05).mean() > 0.7


def test_views_agree_on_colours() -> None:
    views = room("views=16&height=240&width=320").views
    rows, cols, z = reproject(views[0], views[1])
    inside = rows >= 0
    depth = views[1].read_depth_m()[rows[inside], cols[inside]]
    seen = np.abs(z[inside] - depth) < 0.02
    ours = views[0].read_rgb()[inside][seen].astype(float)
    theirs = views[1].read_rgb()[rows[inside], cols[inside]][seen].astype(float)
    shuffled = np.random.default_rng(0).permutation(theirs)
    assert np.median(np.abs(ours - theirs).max(axis=-1)) < 8
    assert np.median(np.abs(ours - shuffled).max(axis=-1)) > 25  # there is something to agree on


def test_every_pixel_has_depth_and_all_points_lie_in_the_room() -> None:
    for index in range(4):
        for view in room(index=index).views:
            assert view.read_depth_m().min() > 0.3
            points = world_points(view)
            assert points[..., 2].min() > -1e-5
            assert points[..., 2].max() < 3
            assert np.abs(points[..., :2]).max() < 3.5 + 1e-5


def test_depth_of_the_floor_is_what_the_pose_says() -> None:
    view = room().views[0]
    points = world_points(view)
    floor = np.abs(points[..., 2]) < 1e-4
    assert floor.mean() > 0.02
    # z of a floor point: camera height over the ray's fall per metre of depth, pixel by pixel.
    rows, cols = np.indices(floor.shape) + 0.5
    rays = np.stack([cols, rows, np.ones_like(rows)], -1) @ np.linalg.inv(view.K_depth).T
    fall = -(rays @ view.world_from_camera[:3, :3].T)[..., 2]
    expected = view.world_from_camera[2, 3] / fall[floor]
    np.testing.assert_allclose(view.read_depth_m()[floor], expected, rtol=1e-4)


def test_poses_are_rigid_and_look_level() -> None:
    for view in room().views:
        rotation = view.world_from_camera[:3, :3]
        np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
        assert rotation[2, 1] < -0.9  # the camera's y points down in a world with z up


def test_a_seed_gives_one_room_and_rooms_differ() -> None:
    first, again = (
        room(),
        pickle.loads(pickle.dumps(read_scenes("rooms:2?views=8&height=120&width=160"))).read(
            "room0000"
        ),
    )
    np.testing.assert_array_equal(first.views[3].read_rgb(), again.views[3].read_rgb())
    np.testing.assert_array_equal(first.views[3].read_depth_m(), again.views[3].read_depth_m())
    others = [room(index=1), room("views=8&height=120&width=160&seed=5")]
    for other in others:
        difference = first.views[3].read_rgb().astype(int) - other.views[3].read_rgb()
        assert np.abs(difference).mean() > 15


def test_neighbouring_views_overlap_and_the_walk_goes_round() -> None:
    views = room("views=16&height=60&width=80").views
    forward = np.array([view.world_from_camera[:3, 2] for view in views])
    turns = np.degrees(np.arccos(np.clip((forward * np.roll(forward, -1, axis=0)).sum(1), -1, 1)))
    assert turns.max() < 50
    heading = np.degrees(np.unwrap(np.arctan2(forward[:, 1], forward[:, 0])))
    assert abs(heading[-1] - heading[0]) > 270


def test_entries_are_light_and_options_are_read() -> None:
    source = read_scenes("rooms:3?views=5&height=60&width=80&seed=7")
    assert source == Rooms(3, 5, 60, 80, 7)
    assert [(e.scene_id, e.num_views) for e in source.entries()] == [
        ("room0000", 5), ("room0001", 5), ("room0002", 5),
    ]  # fmt: skip
    assert read_scenes("rooms:2") == Rooms(2, 16, 240, 320, 0)


@pytest.mark.parametrize(
    "location",
    [
        "rooms:",
        "rooms:x",
        "rooms:0",
        "rooms:2?view=3",
        "rooms:2?views=a",
        "rooms:1?seed=-1",
        "rooms:1?x",
    ],
)
def test_wrong_room_locations_show_a_right_one(location: str) -> None:
    with pytest.raises(ValueError, match=r"write rooms:8 or rooms:8\?views=16"):
        read_scenes(location)


def test_an_unknown_room_is_a_scene_error() -> None:
    with pytest.raises(ValueError, match="room0000 to room0003 only"):
        room(index=9)
