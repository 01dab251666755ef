"""Procedural rooms: their depth, poses and colours must fit one another."""

import math
import pickle
from itertools import pairwise, product

import numpy as np
import pytest

from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.rooms.casting import UNLIT, meet, on_face
from vega3d.pipeline.scenes.rooms.film import Film, film_room
from vega3d.pipeline.scenes.rooms.lamps import _point_of
from vega3d.pipeline.scenes.rooms.rooms import Rooms
from vega3d.pipeline.scenes.rooms.truth import LABELS, boxes, view_truth
from vega3d.pipeline.scenes.scene import Scene, View

ROOMS = Rooms(4, 8, 120, 160)


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


def test_a_surface_keeps_its_colour_but_not_its_light() -> None:
    """Exposure, white balance and the camera's own light are the view's; the paint is not."""
    views = room("views=8&height=240&width=320").views
    rows, cols, z = reproject(views[0], views[1])
    inside = rows >= 0
    depth = views[1].read_depth_m()[rows[inside], cols[inside]]
    seen = np.abs(z[inside] - depth) < 0.02
    ours = views[0].read_rgb()[inside][seen].astype(float)
    theirs = views[1].read_rgb()[rows[inside], cols[inside]][seen].astype(float)
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.7
    gains = np.log((theirs.mean(0) + 1) / (ours.mean(0) + 1))
    assert np.abs(gains).max() > 0.05


def test_every_pixel_has_depth_and_all_points_lie_in_the_room() -> None:
    for index in range(4):
        film = ROOMS.film(f"room{index:04d}")
        half = np.array(film.room.size) / 2
        for view in room(index=index).views:
            assert view.read_depth_m().min() > 0.02
            points = world_points(view) - (0, 0, half[2])
            assert (np.abs(points) < half + 1e-4).all()


def test_depth_of_the_floor_is_what_the_pose_says() -> None:
    view = next(v for v in room().views if (np.abs(world_points(v)[..., 2]) < 1e-4).mean() > 0.02)
    floor = np.abs(world_points(view)[..., 2]) < 1e-4
    # z of a floor point: camera height over the ray's fall per metre of depth, pixel by pixel.
    rows, cols = np.indices(floor.shape) + 0.5
    rays = np.stack([cols, rows, np.ones_like(rows)], -1) @ np.linalg.inv(view.K_depth).T
    fall = -(rays @ view.world_from_camera[:3, :3].T)[..., 2]
    expected = view.world_from_camera[2, 3] / fall[floor]
    np.testing.assert_allclose(view.read_depth_m()[floor], expected, rtol=1e-4)


def test_poses_are_rigid_and_cameras_are_held_upright() -> None:
    for view in room().views:
        rotation = view.world_from_camera[:3, :3]
        np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
        assert rotation[2, 1] < -0.5  # the camera's y points down in a world with z up


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


def test_neighbouring_views_overlap_and_the_walk_leads_somewhere() -> None:
    ways = []
    for index in range(4):
        views = room("views=16&height=60&width=80", index).views
        forward = np.array([view.world_from_camera[:3, 2] for view in views])
        turns = np.degrees(np.arccos(np.clip((forward[1:] * forward[:-1]).sum(1), -1, 1)))
        eyes = np.array([view.world_from_camera[:3, 3] for view in views])
        assert turns.max() < 45
        assert np.linalg.norm(np.diff(eyes, axis=0), axis=1).max() < 0.5
        ways.append(np.linalg.norm(np.diff(eyes, axis=0), axis=1).sum())
    assert np.median(ways) > 1


def test_a_longer_walk_begins_as_the_shorter_one() -> None:
    short, long = room("views=3&height=60&width=80"), room("views=9&height=60&width=80")
    for ours, theirs in zip(short.views, long.views, strict=False):
        np.testing.assert_array_equal(ours.world_from_camera, theirs.world_from_camera)
        np.testing.assert_array_equal(ours.read_rgb(), theirs.read_rgb())


def test_the_fast_caster_meets_what_a_plain_one_meets() -> None:
    film = ROOMS.film("room0001")
    depth_m, solid, _ = film.cast(2)
    expected, first = plain_cast(film, 2)
    np.testing.assert_allclose(depth_m, expected, rtol=1e-9)
    assert (solid == first).mean() > 0.9995  # faces that touch have two right answers


def plain_cast(film: Film, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Meet every solid with every ray, by surfaces: six planes, or a quadric and two caps."""
    pose, K = film.poses[index], film.K
    rows, cols = np.indices((film.height, film.width)) + 0.5
    rays = np.stack([cols, rows, np.ones_like(rows)], -1) @ np.linalg.inv(K).T @ pose[:3, :3].T
    ways = []
    for part in (part for thing in film.room.things for part in thing.parts):
        c, s = np.cos(part.yaw), np.sin(part.yaw)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        eye, ray, half = (pose[:3, 3] - part.center) @ turn, rays @ turn, np.array(part.size) / 2
        hits = []
        axes = {"box": (0, 1, 2), "cylinder": (2,), "sphere": ()}[part.shape]
        with np.errstate(divide="ignore", invalid="ignore"):
            for axis, side in ((axis, side) for axis in axes for side in (-1, 1)):
                t = (side * half[axis] - eye[axis]) / ray[..., axis]
                at = np.abs(eye + t[..., None] * ray)
                others = [k for k in range(3) if k != axis]
                if part.shape == "box":
                    on = (at[..., others] <= half[others]).all(-1)
                else:
                    on = np.hypot(at[..., 0], at[..., 1]) <= half[0]
                hits.append(np.where(on & (t > 1e-4), t, np.inf))
            if part.shape != "box":
                keep = (1, 1, part.shape == "sphere")
                a, b = (ray * ray * keep).sum(-1), (ray * eye * keep).sum(-1)
                t = (-b - np.sqrt(b * b - a * ((eye * eye * keep).sum() - half[0] ** 2))) / a
                on = (t > 1e-4) & (np.abs((eye + t[..., None] * ray)[..., 2]) <= half[2] + 1e-9)
                hits.append(np.where(on, t, np.inf))
        ways.append(np.min(hits, axis=0))
    return np.min(ways, axis=0), np.argmin(ways, axis=0)


def test_shadows_are_those_of_every_ray_against_every_solid() -> None:
    film = ROOMS.film("room0001")
    film.rgb(0)
    s, lights = film.solids, film.lights
    lit = [
        (i, face, at)
        for i, face in np.ndindex(s.maps.shape[:2])
        for at in range(math.prod(s.maps[i, face, 1:]) if s.maps[i, face, 0] >= 0 else 0)
        if s.light[s.maps[i, face, 0] + at] != UNLIT
    ]
    assert 100 < len(lit) < len(s.light) / 2, "only what is seen is lit"
    shadowed = 0
    for i, face, at in lit[:: len(lit) // 100]:
        start, columns, rows = s.maps[i, face]
        p, q = 2 * (at % columns) / (columns - 1) - 1, 2 * (at // columns) / (rows - 1) - 1
        x, y, z = _point_of(s, i, face, 0.998 * p, 0.998 * q)
        normal = np.array(on_face(s.shape, s.body, i, face, x, y, z)[4:])
        origin = np.array([x, y, z]) + 2e-3 * normal
        light = 0.0
        for lamp, k in product(lights.lamps, range(5)):
            turn = 2 * np.pi * k / 5
            way = lamp + 0.3 * np.array([np.cos(turn), np.sin(turn), 0]) - origin
            met = [meet(s.shape, s.body, j, *origin, *way)[0] < 1 for j in np.flatnonzero(s.casts)]
            cosine = normal @ way / np.linalg.norm(way)
            shadowed += bool(cosine > 0 and any(met))
            light += 0.0 if any(met) else max(cosine, 0) * 3.2 / (1 + 0.55 * way @ way) / 5
        assert s.light[start + at] == pytest.approx(light, rel=1e-5, abs=1e-6)
    assert shadowed > 50


def test_normals_are_those_of_the_depth() -> None:
    film = ROOMS.film("room0000")
    truth = view_truth(film, 1)
    rows, cols = np.indices(truth.depth_m.shape) + 0.5
    rays = np.stack([cols, rows, np.ones_like(rows)], -1) @ np.linalg.inv(film.K).T
    points = rays * truth.depth_m[..., None].astype(float)
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    cosine = np.abs((normal * truth.normal[1:-1, 1:-1]).sum(-1))
    same = np.stack([np.roll(truth.thing, shift, axis) == truth.thing
                     for shift in (-1, 1) for axis in (0, 1)]).all(0)[1:-1, 1:-1]  # fmt: skip
    assert np.median(cosine[same]) > 0.9999
    assert (cosine[same] > 0.99).mean() > 0.85
    towards = (truth.normal * rays).sum(-1)
    assert (towards < 1e-6).all()  # what is seen faces the camera


def test_pixels_of_an_object_lie_in_its_box_and_have_its_class() -> None:
    film = ROOMS.film("room0002")
    objects = [thing for thing in film.room.things if not thing.is_shell]
    for index, view in enumerate(ROOMS.read("room0002").views):
        truth, points = view_truth(film, index), world_points(view)
        for number, thing in enumerate(film.room.things):
            seen = truth.thing == number
            assert (truth.label[seen] == LABELS.index(thing.label)).all()
            if thing.is_shell or not seen.any():
                continue
            box = boxes(film)[objects.index(thing)]
            c, s = np.cos(box.yaw), np.sin(box.yaw)
            local = (points[seen] - box.center) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            assert (np.abs(local) <= np.array(box.size) / 2 + 1e-3).all()


def test_phrases_name_what_is_seen_largest_first() -> None:
    for index in range(3):
        film = ROOMS.film(f"room{index:04d}")
        for view, said in enumerate(ROOMS.phrases(f"room{index:04d}")):
            truth = view_truth(film, view)
            classes = [phrase.split()[-1] for phrase in said]
            assert set(classes) <= {LABELS[i] for i in np.unique(truth.label)}
            shares = [(truth.label == LABELS.index(name)).mean() for name in classes]
            assert min(shares) > 0.012
            assert len(set(said)) == len(said)


@pytest.mark.slow
def test_position_alone_explains_little_of_the_depth() -> None:
    """Otherwise a probe that knows where a token lies would need no picture at all."""
    depths = np.log([[cells(film_room((seed, i), 4, 64, 80).depth_m(v)) for v in range(4)]
                     for seed in (31, 32) for i in range(16)])  # fmt: skip
    known, asked = depths[:16], depths[16:]
    gap = ((asked - known.mean((0, 1))) ** 2).mean()
    assert 1 - gap / asked.var() < 0.35


def cells(depth_m: np.ndarray) -> np.ndarray:
    return np.median(depth_m.reshape(8, 8, 10, 8).swapaxes(1, 2).reshape(8, 10, -1), -1)


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
