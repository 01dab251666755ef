"""Every layout through its reader: known points are where they are, to the millimetre."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from layout_writers import WRITERS, Written
from planes import PlaneScene, texture

from vega3d.pipeline.scenes.decoding import decode_views
from vega3d.pipeline.scenes.packing import pack
from vega3d.pipeline.scenes.reading import FOLDER_LAYOUTS, read_scenes
from vega3d.pipeline.scenes.scene import Scene, View, skipped

SCENE = PlaneScene()


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    return WRITERS[request.param](tmp_path, SCENE)


def read(written: Written) -> Scene:
    source = pickle.loads(pickle.dumps(read_scenes(str(written.location))))
    return source.read(written.scene_id)


def to_world(written: Written, xyz: np.ndarray) -> np.ndarray:
    if written.world is None:
        return xyz
    return xyz @ written.world[:3, :3].T + written.world[:3, 3]


def unprojected(view: View) -> tuple[np.ndarray, np.ndarray]:
    depth = view.read_depth_m()
    rows, cols = np.indices(depth.shape) + 0.5
    rays = np.stack([cols, rows, np.ones(depth.shape)], axis=-1) @ np.linalg.inv(view.K_depth).T
    world = view.world_from_camera
    return (rays * depth[..., None]) @ world[:3, :3].T + world[:3, 3], depth > 0


def test_entries_need_no_pixel(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    def decodes(*args: object, **kwargs: object) -> None:
        raise AssertionError("listing decodes")

    monkeypatch.setattr("PIL.Image.open", decodes)
    monkeypatch.setattr("av.open", decodes)
    monkeypatch.setattr("zlib.decompress", decodes)
    source = read_scenes(str(written.location))
    (entry,) = source.entries()
    assert entry.scene_id == written.scene_id
    assert len(written.view_ids) <= entry.num_views <= 2 * len(written.view_ids)
    assert entry.size_bytes > 0 or written.location.suffix == ".pkl"
    assert skipped(source) == ()


def test_every_view_is_read_and_nothing_is_lost(written: Written) -> None:
    scene = read(written)
    assert [view.view_id for view in scene.views] == written.view_ids
    assert scene.bad_views == ()
    for view in scene.views:
        assert (view.read_depth_m is not None) == written.has_depth
        assert (view.K_color_size is not None) == written.size_is_stated
        assert view.K_color_size in (None, SCENE.color_size)


def test_depth_puts_points_where_they_are(written: Written) -> None:
    if not written.has_depth:
        pytest.skip("this layout has no depth")
    for index, view in enumerate(read(written).views):
        xyz, seen = unprojected(view)
        assert seen.mean() > 0.9
        error_m = np.linalg.norm(xyz - to_world(written, SCENE.xyz(index)), axis=-1)[seen]
        assert error_m[SCENE.is_flat(index)[seen]].max() < 0.001
        assert error_m.max() < written.edges_m


def test_known_points_have_their_colour_where_they_project(written: Written) -> None:
    """Intrinsics, pose, lens and pixels belong together, with depth or without."""
    for index, view in enumerate(read(written).views):
        points = SCENE.known_points(index)
        camera = (
            np.linalg.inv(view.world_from_camera)
            @ np.append(to_world(written, points), np.ones((len(points), 1)), axis=1).T
        )
        uv = (view.K_color @ camera[:3])[:2] / camera[2]
        own = np.linalg.inv(SCENE.pose(index)) @ np.append(points, np.ones((len(points), 1)), 1).T
        expected = (SCENE.K @ own[:3])[:2] / own[2]
        np.testing.assert_allclose(uv, expected, atol=0.01)
        cols, rows = np.floor(uv).astype(int)
        found = view.read_rgb()[rows, cols].astype(float)
        known = (found > 0).any(axis=1)  # a lens leaves black borders
        assert known.mean() > 0.8
        error = np.abs(found - texture(points))[known]
        assert np.median(error) < 4
        assert error.max() < 40  # a pixel mixes its surroundings


@pytest.mark.one_quick
def test_packing_keeps_cameras_and_depth(written: Written, tmp_path: Path) -> None:
    source = read_scenes(str(written.location))
    summary = pack(source, str(tmp_path / "packed"))
    assert (summary["scenes"], summary["failed"]) == (1, [])
    before = read(written)
    after = read_scenes(str(tmp_path / "packed")).read(written.scene_id)
    assert [view.view_id for view in after.views] == written.view_ids
    for one, other in zip(before.views, after.views, strict=True):
        np.testing.assert_array_equal(one.read_rgb(), other.read_rgb())
        np.testing.assert_array_equal(one.K_color, other.K_color)
        np.testing.assert_array_equal(one.world_from_camera, other.world_from_camera)
        assert one.K_color_size == other.K_color_size
        assert (one.read_turns() if one.read_turns else 0) == (
            other.read_turns() if other.read_turns else 0
        )
        if written.has_depth:
            np.testing.assert_array_equal(one.K_depth, other.K_depth)
            np.testing.assert_allclose(one.read_depth_m(), other.read_depth_m(), atol=5.1e-4)


def test_views_stand_upright(written: Written) -> None:
    decoded, report = decode_views(read(written), num_views=2, sampling="uniform")
    assert report.views == 2
    assert report.with_pose == 2
    assert report.with_depth == 2 * written.has_depth
    shape = SCENE.color_size if written.turns % 2 == 0 else SCENE.color_size[::-1]
    assert decoded[0].rgb.shape[:2] == shape
    raw = read(written).views[0].read_rgb()
    np.testing.assert_array_equal(decoded[0].rgb, np.rot90(raw, -written.turns))


def test_every_layout_says_how_it_looks() -> None:
    names = [layout.name for layout in FOLDER_LAYOUTS]
    assert len(set(names)) == len(names)
    assert all(len(layout.looks) <= 90 for layout in FOLDER_LAYOUTS)
