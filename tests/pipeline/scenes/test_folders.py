"""RGB-D folders: layouts, ids, cameras, damaged input, and the real captures where present."""

import contextlib
import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.depth_images import decode_depth_m
from vega3d.pipeline.scenes.images import MAX_PIXELS, decode_rgb
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.scene import Scene

K_COLOR = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
K_DEPTH = np.array([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]])
IDENTITY = "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"


def write_matrix(path: Path, matrix: np.ndarray) -> None:
    padded = np.eye(4)
    padded[: len(matrix), : len(matrix)] = matrix
    np.savetxt(path, padded)


def write_color(path: Path, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_depth(path: Path, size: tuple[int, int] = (24, 32), value_mm: int = 1234) -> None:
    depth = np.full(size, value_mm, dtype=np.uint16)
    depth[0, 0] = 0
    depth[0, 1] = 65535
    Image.fromarray(depth).save(path)


def scannet(folder: Path, num_views: int = 3) -> Path:
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    write_matrix(folder / "intrinsic/intrinsic_color.txt", K_COLOR)
    write_matrix(folder / "intrinsic/intrinsic_depth.txt", K_DEPTH)
    for i in range(num_views):
        write_color(folder / f"color/{i}.jpg", i)
        write_depth(folder / f"depth/{i}.png")
        (folder / f"pose/{i}.txt").write_text(IDENTITY.replace("0 0 1 0\n", f"0 0 1 {i}\n"))
    return folder


def posed_images(folder: Path, num_views: int = 3) -> Path:
    folder.mkdir(parents=True)
    write_matrix(folder / "intrinsic.txt", K_COLOR)
    write_matrix(folder / "depth_intrinsic.txt", K_DEPTH)
    for i in range(num_views):
        write_color(folder / f"{i * 10:05d}.jpg", i)
        write_depth(folder / f"{i * 10:05d}.png")
        (folder / f"{i * 10:05d}.txt").write_text(IDENTITY)
    return folder


def read_one(folder: Path) -> Scene:
    source = read_scenes(str(folder))
    (entry,) = source.entries()
    return source.read(entry.scene_id)


def reason_of(scene: Scene, view_id: str) -> str:
    (bad,) = scene.bad_views
    assert bad.view_id == view_id
    return bad.reason


def view_ids(scene: Scene) -> list[str]:
    return [view.view_id for view in scene.views]


# Layouts


def test_a_scannet_capture_is_read_in_natural_order_and_in_metres(tmp_path: Path) -> None:
    source = read_scenes(str(scannet(tmp_path / "scene0000_00", 12)))
    (entry,) = source.entries()
    assert (entry.scene_id, entry.num_views, entry.group) == ("scene0000_00", 12, "")
    inner = ("color", "depth", "pose", "intrinsic")
    counted = [tmp_path / "scene0000_00" / name for name in inner]
    assert entry.size_bytes == sum(p.stat().st_size for d in counted for p in d.iterdir())
    scene = source.read("scene0000_00")
    assert view_ids(scene) == [str(i) for i in range(12)]
    view = scene.views[10]
    depth = view.read_depth_m()
    assert depth.dtype == np.float32
    assert depth[5, 5] == np.float32(1.234)
    assert depth[0, 0] == 0
    assert depth[0, 1] == 0  # 65535 is what saturated: no reading, and no point at 65 m
    np.testing.assert_array_equal(view.K_color, K_COLOR)
    np.testing.assert_array_equal(view.K_depth, K_DEPTH)
    assert view.world_from_camera[2, 3] == 10
    assert view.read_rgb().shape == (48, 64, 3)
    jpeg = (tmp_path / "scene0000_00/color/10.jpg").read_bytes()
    assert view.read_color_bytes() == jpeg


def test_posed_images_scenes_lie_in_one_folder(tmp_path: Path) -> None:
    for name in ("scene0010_00", "scene0009_01"):
        posed_images(tmp_path / name)
    source = read_scenes(str(tmp_path))
    assert [e.scene_id for e in source.entries()] == ["scene0009_01", "scene0010_00"]
    scene = source.read("scene0010_00")
    assert view_ids(scene) == ["00000", "00010", "00020"]
    assert scene.views[0].read_depth_m()[5, 5] == np.float32(1.234)
    np.testing.assert_array_equal(scene.views[0].K_depth, K_DEPTH)


def test_seven_scenes_has_known_intrinsics_and_its_own_no_reading(tmp_path: Path) -> None:
    folder = tmp_path / "chess" / "seq-01"
    folder.mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", (640, 480), (9, 8, 7)).save(folder / f"frame-{i:06d}.color.png")
        write_depth(folder / f"frame-{i:06d}.depth.png", (480, 640))
        (folder / f"frame-{i:06d}.pose.txt").write_text(IDENTITY)
    source = read_scenes(str(tmp_path))
    assert [e.scene_id for e in source.entries()] == ["chess/seq-01"]
    scene = source.read("chess/seq-01")
    assert view_ids(scene) == ["frame-000000", "frame-000001"]
    depth = scene.views[0].read_depth_m()
    assert depth[0, 1] == 0  # 65535
    assert depth[1, 1] == np.float32(1.234)
    # Two cameras: 585 px is the depth camera's, a Kinect's colour camera has 525.
    np.testing.assert_array_equal(scene.views[0].K_depth, [[585, 0, 320], [0, 585, 240], [0, 0, 1]])
    np.testing.assert_array_equal(scene.views[0].K_color, [[525, 0, 320], [0, 525, 240], [0, 0, 1]])
    assert scene.views[0].read_rgb()[0, 0].tolist() == [9, 8, 7]


def test_ids_may_have_slashes_spaces_and_any_letters(tmp_path: Path) -> None:
    names = ["home/k\u00fcche 1", "home/\u5bdd\u5ba4", "lab.v2/A", "9", "10"]
    for name in names:
        scannet(tmp_path / name, 1)
    source = pickle.loads(pickle.dumps(read_scenes(str(tmp_path))))
    assert [e.scene_id for e in source.entries()] == [
        "9",
        "10",
        "home/k\u00fcche 1",
        "home/\u5bdd\u5ba4",
        "lab.v2/A",
    ]
    for name in names:
        assert source.read(name).scene_id == name


def test_per_frame_intrinsics_are_used_and_scale_depths(tmp_path: Path) -> None:
    folder = scannet(tmp_path / "phone")
    (folder / "intrinsic_per_frame").mkdir()
    own = np.array([[66.0, 0, 31], [0, 66, 25], [0, 0, 1]])
    for i in range(3):
        np.savetxt(folder / f"intrinsic_per_frame/{i}.txt", own + np.diag([i, i, 0]))
    view = read_one(folder).views[2]
    np.testing.assert_array_equal(view.K_color, own + np.diag([2, 2, 0]))
    # Depth was colour resized by one half (30 / 60, 16 / 32).
    np.testing.assert_allclose(view.K_depth, [[34, 0, 15.5], [0, 34, 12.5], [0, 0, 1]])


def test_depth_with_a_camera_of_its_own_keeps_it(tmp_path: Path) -> None:
    folder = scannet(tmp_path / "kinect")
    other = K_DEPTH + np.diag([3.0, 3, 0])
    write_matrix(folder / "intrinsic/intrinsic_depth.txt", other)
    (folder / "intrinsic_per_frame").mkdir()
    for i in range(3):
        np.savetxt(folder / f"intrinsic_per_frame/{i}.txt", K_COLOR)
    np.testing.assert_array_equal(read_one(folder).views[0].K_depth, other)


def test_plain_images_need_no_cameras(tmp_path: Path) -> None:
    (tmp_path / "flat" / "color").mkdir(parents=True)
    write_color(tmp_path / "flat/color/0.png")
    view = read_one(tmp_path / "flat").views[0]
    assert view.read_depth_m is None
    assert view.K_color is None
    assert view.world_from_camera is None


def test_nothing_known_lists_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is empty; if a command was to fill it, run that again"):
        read_scenes(str(tmp_path))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(
        ValueError, match=r"holds no scenes; layouts known:(.|\n)*7-Scenes(.|\n)*rooms:8"
    ):
        read_scenes(str(tmp_path))
    with pytest.raises(ValueError, match="no such file or folder; layouts known"):
        read_scenes(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="is no file that holds scenes; layouts known"):
        read_scenes(str(tmp_path / "notes.txt"))
    with pytest.raises(ValueError, match="scheme is not known"):
        read_scenes("ftp://host/x.tar")


def test_links_that_lead_back_do_not_loop(tmp_path: Path) -> None:
    scannet(tmp_path / "a", 1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    assert [e.scene_id for e in read_scenes(str(tmp_path)).entries()] == ["a"]


# Bad input: an error for the scene, and the others are read


def test_an_empty_scene_is_listed_and_its_reading_fails(tmp_path: Path) -> None:
    scannet(tmp_path / "full", 1)
    scannet(tmp_path / "bare", 0)
    (tmp_path / "void").mkdir()
    source = read_scenes(str(tmp_path))
    assert [(e.scene_id, e.num_views) for e in source.entries()] == [
        ("bare", 0), ("full", 1), ("void", 0),
    ]  # fmt: skip
    for name in ("bare", "void"):
        with pytest.raises(SceneError, match=f"{name}: .*holds no colour images"):
            source.read(name)
    source.read("full")


def test_scene_ids_cannot_leave_the_folder(tmp_path: Path) -> None:
    scannet(tmp_path / "in" / "a", 1)
    scannet(tmp_path / "out", 1)
    for scene_id in ("../out", str(tmp_path / "out")):
        with pytest.raises(SceneError, match="no path below"):
            read_scenes(str(tmp_path / "in")).read(scene_id)
    with pytest.raises(SceneError, match="there is no folder"):
        read_scenes(str(tmp_path / "in")).read("b")


@pytest.mark.parametrize("name", ["intrinsic_color.txt", "intrinsic_depth.txt"])
def test_missing_intrinsics_name_the_file(tmp_path: Path, name: str) -> None:
    folder = scannet(tmp_path / "s")
    (folder / "intrinsic" / name).unlink()
    with pytest.raises(
        SceneError, match=rf"s: intrinsics are missing; the file .*/intrinsic/{name} must exist"
    ):
        read_one(folder)


def test_missing_intrinsics_of_posed_images_name_the_file(tmp_path: Path) -> None:
    folder = posed_images(tmp_path / "s")
    (folder / "depth_intrinsic.txt").unlink()
    with pytest.raises(SceneError, match=r"the file .*/depth_intrinsic.txt must exist"):
        read_one(folder)


@pytest.mark.parametrize("name", ["depth/1.png", "pose/1.txt"])
def test_a_missing_file_of_a_view_is_named(tmp_path: Path, name: str) -> None:
    folder = scannet(tmp_path / "s")
    (folder / name).unlink()
    scene = read_one(folder)
    assert view_ids(scene) == ["0", "2"]
    assert re.search(rf"s/view 1: the file .*/{name} must exist", reason_of(scene, "1"))


def test_non_finite_poses_are_kept(tmp_path: Path) -> None:
    folder = scannet(tmp_path / "s")
    (folder / "pose/1.txt").write_text("-inf -inf -inf -inf\n" * 4)
    (folder / "pose/2.txt").write_text("nan " * 16)
    scene = read_one(folder)
    assert np.isneginf(scene.views[1].world_from_camera).all()
    assert np.isnan(scene.views[2].world_from_camera).all()


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        ("1 0 0 0 0 1 0 0 0 0 0 0 0 0 0 1", r"s/view 1: pose is not rigid: .* det R = 0 "),
        ("2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1", "not rigid: .* camera-to-world without scale"),
        ("1 0 0 0 0 1 0 0 0 0 -1 0 0 0 0 1", r"det R = -1 \(must be \+1\)"),
        (
            "1 0 0 0 0 1 0 0 0 0 1 0 3 2 1 1",
            "last row is .*, must be 0 0 0 1; perhaps .* transposed",
        ),
        ("1 2 3", "holds 3 numbers, must be 4x4"),
        ("one " * 16, "must hold 4x4 numbers"),
    ],
)
def test_poses_that_are_not_rigid_name_the_view(tmp_path: Path, pose: str, message: str) -> None:
    folder = scannet(tmp_path / "s")
    (folder / "pose/1.txt").write_text(pose)
    scene = read_one(folder)
    assert view_ids(scene) == ["0", "2"]
    assert re.search(message, reason_of(scene, "1"))


@pytest.mark.parametrize(
    ("intrinsics", "message"),
    [
        ("0 0 32 0 60 24 0 0 1", "focal lengths must be positive"),
        ("nan 0 32 0 60 24 0 0 1", "focal lengths must be positive"),
        ("60 5 32 0 60 24 0 0 1", "undistort and rectify"),
        ("60 0 32 0 60", "holds 5 numbers, must be 3x3"),
    ],
)
def test_intrinsics_that_cannot_be_are_refused(
    tmp_path: Path, intrinsics: str, message: str
) -> None:
    folder = scannet(tmp_path / "s")
    (folder / "intrinsic/intrinsic_color.txt").write_text(intrinsics)
    with pytest.raises(SceneError, match=message):
        read_one(folder)


@pytest.mark.parametrize(("name", "what"), [("color/1.jpg", "colour"), ("depth/1.png", "depth")])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
def test_truncated_images_name_scene_and_view(
    tmp_path: Path, name: str, what: str, kept: float
) -> None:
    folder = scannet(tmp_path / "s")
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 9000, (24, 32), dtype=np.uint16)
    Image.fromarray(noise).save(folder / "depth/1.png")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * kept)])
    scene = read_one(folder)
    read = scene.views[1].read_rgb if what == "colour" else scene.views[1].read_depth_m
    with pytest.raises(SceneError, match=f"s/view 1: {what} image"):
        read()
    scene.views[0].read_rgb()
    scene.views[2].read_depth_m()


def test_depth_of_another_size_says_what_must_hold(tmp_path: Path) -> None:
    folder = scannet(tmp_path / "s")
    write_depth(folder / "depth/2.png", (48, 64))
    with pytest.raises(
        SceneError, match=r"s/view 2: depth is 48x64, the scene's first is 24x32; export all"
    ):
        read_one(folder).views[2].read_depth_m()


def test_depth_that_does_not_fit_its_intrinsics(tmp_path: Path) -> None:
    folder = scannet(tmp_path / "s")
    for i in range(3):
        write_depth(folder / f"depth/{i}.png", (12, 16))
    with pytest.raises(
        SceneError,
        match=r"s/view 0: depth is 12x16, but .* row 12.0, column 16.0; it would lie in the middle "
        r"of an image 2.00 times as large, so scale the intrinsics",
    ):
        read_one(folder).views[0].read_depth_m()


def test_colour_that_does_not_fit_its_intrinsics(tmp_path: Path) -> None:
    folder = scannet(tmp_path / "s")
    Image.new("RGB", (16, 12)).save(folder / "color/0.jpg")
    with pytest.raises(SceneError, match="s/view 0: colour is 12x16, but its intrinsics"):
        read_one(folder).views[0].read_rgb()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_depth_must_have_sixteen_bits(tmp_path: Path, mode: str) -> None:
    folder = scannet(tmp_path / "s")
    Image.new(mode, (32, 24)).save(folder / "depth/1.png")
    with pytest.raises(
        SceneError, match=rf"s/view 1: depth is a PNG of Pillow mode '{mode}'; it must be a 16-bit"
    ):
        read_one(folder).views[1].read_depth_m()


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = scannet(tmp_path / "s")
    write_color(folder / "color/1.png")
    with pytest.raises(SceneError, match="s/view 1: two colour images have this name"):
        read_one(folder)


# Images


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_other_kinds_of_colour_become_rgb() -> None:
    grey = Image.new("L", (3, 2), 77)
    palette = Image.new("RGB", (3, 2), (200, 100, 50)).quantize(4)
    alpha = Image.new("RGBA", (3, 2), (10, 20, 30, 0))
    assert decode_rgb(encoded(grey), "v")[0, 0].tolist() == [77, 77, 77]
    assert decode_rgb(encoded(palette), "v")[0, 0].tolist() == [200, 100, 50]
    assert decode_rgb(encoded(alpha), "v")[0, 0].tolist() == [10, 20, 30]
    assert decode_rgb(encoded(Image.new("1", (3, 2), 1)), "v").shape == (2, 3, 3)
    with pytest.raises(SceneError, match="no readable JPEG or PNG"):
        decode_rgb(encoded(grey, "BMP"), "v")


def test_exif_orientation_is_left_alone_since_intrinsics_speak_of_stored_pixels() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a player would turn it by 90 degrees
    data = encoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif)
    assert decode_rgb(data, "v").shape == (2, 4, 3)


@pytest.mark.parametrize("side", [9500, 14000])
def test_images_over_the_limit_are_refused_before_decoding(side: int) -> None:
    assert MAX_PIXELS < 9500**2
    small = encoded(Image.new("L", (8, 8)))
    # A forged header: width and height stand at bytes 16..24, their checksum at 29..33.
    import zlib

    header = bytearray(small[12:29])
    header[4:12] = side.to_bytes(4, "big") * 2
    forged = small[:12] + bytes(header) + zlib.crc32(header).to_bytes(4, "big") + small[33:]
    for decode in (decode_rgb, decode_depth_m):
        with pytest.raises(SceneError, match=r"v: .* over the limit"):
            decode(forged, "v")


@pytest.mark.parametrize("seed", range(200))
def test_damaged_bytes_give_pixels_or_a_scene_error_and_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    depth = Image.fromarray(pixels[..., 0].astype(np.uint16))
    for data in (encoded(Image.fromarray(pixels), "JPEG"), encoded(depth)):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 4):
            damaged[at] = rng.integers(256)
        for decode in (decode_rgb, decode_depth_m):
            with contextlib.suppress(SceneError):
                assert decode(bytes(damaged), "v").size > 0


# Real captures

CAPTURES = {
    "corridor_lidar": (64, 192, 256),
    "tum_fr3_structure": (64, 480, 640),
    "chair_lidar": (24, 192, 256),
}


def gap_m(source: object, target: object) -> np.ndarray:
    """Distance along z between a view's points and the other view's depth, where both see."""
    depth, other = source.read_depth_m(), target.read_depth_m()
    rows, cols = np.nonzero(depth)
    xyz = np.stack([cols + 0.5, rows + 0.5, np.ones(len(rows))]) * depth[rows, cols]
    world = source.world_from_camera @ np.vstack(
        [np.linalg.inv(source.K_depth) @ xyz, np.ones(len(rows))]
    )
    camera = (np.linalg.inv(target.world_from_camera) @ world)[:3]
    camera = camera[:, camera[2] > 0.1]
    uv = np.floor((target.K_depth @ camera)[:2] / camera[2]).astype(int)
    inside = (uv >= 0).all(0) & (uv[0] < other.shape[1]) & (uv[1] < other.shape[0])
    seen = other[uv[1, inside], uv[0, inside]]
    return np.abs(camera[2, inside] - seen)[seen > 0]


@pytest.mark.parametrize("name", sorted(CAPTURES))
def test_real_captures_are_read_and_their_depth_reprojects(data: Path, name: str) -> None:
    num_views, height, width = CAPTURES[name]
    scene = read_one(data / name)
    assert view_ids(scene) == [str(i) for i in range(num_views)]
    assert scene.views[0].read_rgb().shape == (480, 640, 3)
    assert scene.views[0].read_depth_m().shape == (height, width)
    gaps = [
        np.median(gap_m(scene.views[i], scene.views[i + 1])) for i in range(0, num_views - 1, 8)
    ]
    assert np.median(gaps) < 0.03  # 5 to 13 mm in the data's README


def test_the_folder_of_real_captures_lists_them_all(data: Path) -> None:
    entries = read_scenes(str(data)).entries()
    assert {e.scene_id: e.num_views for e in entries} == {k: v[0] for k, v in CAPTURES.items()}
