"""Layouts whose files are not as they should be: a reason, never a traceback, nothing wrong."""

import io
import json
import os
import pickle
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from layout_writers import WRITERS, quaternion
from PIL import Image
from planes import PlaneScene, pixel_rays

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.decoding import decode_views
from vega3d.pipeline.scenes.depth_images import decode_depth_m
from vega3d.pipeline.scenes.images import decode_rgb
from vega3d.pipeline.scenes.lenses import colmap_camera, distort, lens
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.scene import Scene
from vega3d.pipeline.scenes.timestamps import nearest, pairs

SCENE = PlaneScene(num_views=3)


def write(name: str, root: Path) -> tuple[Path, str]:
    written = WRITERS[name](root, SCENE)
    return written.location, written.scene_id


def read(location: Path) -> Scene:
    source = read_scenes(str(location))
    (entry,) = source.entries()
    return source.read(entry.scene_id)


def reason(location: Path) -> str:
    with pytest.raises(SceneError) as caught:
        read(location)
    return str(caught.value)


@pytest.mark.one_quick
@pytest.mark.parametrize("name", WRITERS)
def test_damage_anywhere_gives_scenes_or_reasons_and_nothing_else(
    name: str, tmp_path: Path
) -> None:
    """Cut, zeroed and flipped bytes in every kind of file of every layout."""
    rng = np.random.default_rng(len(name))
    reasons = []
    (tmp_path / "whole").mkdir()
    location, _ = write(name, tmp_path / "whole")
    files = sorted(path for path in (tmp_path / "whole").rglob("*") if path.is_file())
    kinds = {(path.suffix, path.parent.name): path for path in files}.values()
    for path in kinds:
        whole = path.read_bytes()
        for _ in range(6):
            at = int(rng.integers(0, max(1, len(whole))))
            damaged = bytearray(whole)
            for _ in range(3):
                damaged[int(rng.integers(len(whole)))] = int(rng.integers(256))
            for data in (whole[:at], whole[:at] + bytes(len(whole) - at), bytes(damaged)):
                path.write_bytes(data)
                try:
                    source = read_scenes(str(location))
                    for entry in source.entries():
                        try:
                            scene = source.read(entry.scene_id)
                            decode_views(scene, num_views=0, sampling="uniform")
                        except SceneError as error:
                            reasons.append(str(error))
                except ValueError as error:  # the location holds nothing any more
                    reasons.append(str(error))
        path.write_bytes(whole)
    assert reasons
    assert all(reasons)


# ScanNet .sens


def test_a_truncated_sens_file_loses_the_frames_it_lost(tmp_path: Path) -> None:
    location, _ = write("scannet_sens", tmp_path)
    (path,) = location.rglob("*.sens")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 100])
    scene = read(location)
    assert [view.view_id for view in scene.views] == ["0", "1"]
    assert [bad.view_id for bad in scene.bad_views] == ["2"]
    assert "the .sens file ends before it; fetch it again" in scene.bad_views[0].reason
    path.write_bytes(data[:200])
    assert "its .sens file is truncated at byte 200" in reason(location)
    path.write_bytes(struct.pack("<I", 3) + data[4:])
    assert "is no .sens file of version 4 (3)" in reason(location)
    shutil.copyfile(path, tmp_path / "alone.sens")
    (tmp_path / "alone.sens").write_bytes(data)
    source = read_scenes(str(tmp_path / "alone.sens"))
    assert [entry.scene_id for entry in source.entries()] == ["alone"]
    assert len(source.read("alone").views) == 3


# TUM RGB-D


def test_stamps_are_matched_one_to_one_within_the_tolerance() -> None:
    assert nearest([0.0, 1.0, 2.0, 9.0], [0.02, 0.99, 2.021], 0.02) == [0, 1, -1, -1]
    assert nearest([1.0], [], 0.02) == [-1]
    assert nearest([1.0], [1.01], 0.02) == [0]
    assert pairs([0.0, 0.01, 0.03], [0.012], 0.02) == [-1, 0, -1]
    assert pairs([0.0, 0.5], [0.001, 0.499], 0.02) == [0, 1]


def test_tum_images_without_depth_or_pose_are_left_out(tmp_path: Path) -> None:
    location, _ = write("tum_rgbd", tmp_path)
    (path,) = location.rglob("depth.txt")
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    scene = read(location)
    assert len(scene.views) == 2
    assert scene.notes == ("1 of 3 colour images left out",)
    (path.parent / "calibration.txt").unlink()
    assert "TUM sequences name their camera" in reason(location)


def test_tum_cameras_have_published_intrinsics_by_the_sequences_name(tmp_path: Path) -> None:
    for number, focal in ((1, 517.3), (2, 520.9), (3, 535.4)):
        folder = tmp_path / f"rgbd_dataset_freiburg{number}_desk"
        (folder / "rgb").mkdir(parents=True)
        Image.new("RGB", (640, 480), (90, 90, 90)).save(folder / "rgb/1.0.png")
        (folder / "rgb.txt").write_text("1.0 rgb/1.0.png\n")
        (view,) = read(folder).views
        assert view.K_color[0, 0] == focal
        assert view.K_color_size == (480, 640)
        assert (view.read_color_bytes is None) == (number < 3)  # the lens is undone


def test_a_real_sequence_reads_as_its_scannet_export_does(data: Path, tmp_path: Path) -> None:
    """The real capture written back as TUM publishes it: stamps, quaternions, 1/5000 metre."""
    source = data / "tum_fr3_structure"
    stamps = [
        Path(name).stem
        for name in json.loads((source / "source.json").read_text())["source_frames"]
    ]
    folder = tmp_path / "rgbd_dataset_freiburg3_structure_notexture_far"
    lists: dict[str, list[str]] = {"rgb": [], "depth": [], "groundtruth": []}
    for i in range(0, 64, 8):
        depth = np.asarray(Image.open(source / f"depth/{i}.png")).astype(np.uint16)
        for name, ending in (("rgb", "jpg"), ("depth", "png")):
            (folder / name).mkdir(parents=True, exist_ok=True)
            lists[name].append(f"{stamps[i]} {name}/{stamps[i]}.{ending}")
        shutil.copyfile(source / f"color/{i}.jpg", folder / f"rgb/{stamps[i]}.jpg")
        Image.fromarray((depth * 5).astype(np.uint16)).save(folder / f"depth/{stamps[i]}.png")
        pose = np.loadtxt(source / f"pose/{i}.txt")
        numbers = [*pose[:3, 3], *quaternion(pose[:3, :3])]
        lists["groundtruth"].append(f"{stamps[i]} " + " ".join(f"{x:.9f}" for x in numbers))
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines))
    expected = read_scenes(str(source)).read("tum_fr3_structure").views[::8]
    found = read(folder).views
    assert len(found) == len(expected) == 8
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.world_from_camera, other.world_from_camera, atol=1e-4)
        np.testing.assert_allclose(one.K_color, other.K_color, atol=0.5)
        depth_m, truth = one.read_depth_m(), other.read_depth_m()
        is_whole = truth * 5 < 65.535  # 16 bits of 1/5000 m end at 13.1 m
        np.testing.assert_allclose(depth_m[is_whole], truth[is_whole], atol=1e-6)


# Replica, ARKitScenes, ScanNet++


def test_replica_needs_its_camera_and_a_line_a_view(tmp_path: Path) -> None:
    location, _ = write("replica", tmp_path)
    (path,) = location.rglob("traj.txt")
    path.write_text("\n".join(path.read_text().splitlines()[:2]))
    assert "traj.txt has 2 lines for 3 views" in read(location).bad_views[0].reason
    (location / "cam_params.json").unlink()
    assert "cam_params.json must lie in the scene's folder or above it" in reason(location)


def test_arkit_frames_turn_by_their_poses_where_no_table_says_how(tmp_path: Path) -> None:
    location, scene_id = write("arkitscenes", tmp_path)
    (location / "metadata.csv").unlink()
    path = location / scene_id / "lowres_wide.traj"
    for sky, turns in (((0, -1), 0), ((-1, 0), 1), ((0, 1), 2), ((1, 0), 3)):
        # World z points to the sky: a camera's right or down axis along it, or against it.
        up = np.array([*sky, 0.0])
        forward = np.array([0.0, 0.0, 1.0])
        camera_from_world = np.stack([np.cross(forward, up), forward, up], axis=1)
        x, y, z, w = quaternion(camera_from_world)
        axis = np.array([x, y, z])
        angle = 2 * np.arctan2(np.linalg.norm(axis), w)
        vector = axis / max(np.linalg.norm(axis), 1e-12) * angle
        times = [line.split()[0] for line in path.read_text().splitlines()]
        numbers = " ".join(repr(float(v)) for v in (*vector, 0, 0, 0))
        path.write_text("\n".join(f"{time} {numbers}" for time in times))
        assert read(location).views[0].read_turns() == turns


def test_scannetpp_without_extracted_frames_says_how_to_get_them(tmp_path: Path) -> None:
    location, scene_id = write("scannetpp_iphone", tmp_path)
    shutil.rmtree(location / scene_id / "rgb")
    assert "python -m iphone.prepare_iphone_data" in reason(location)


# nerfstudio and COLMAP


def frames(location: Path, **changes: object) -> None:
    (path,) = location.rglob("transforms.json")
    meta = json.loads(path.read_text())
    for frame in meta["frames"]:
        for name, value in changes.items():
            if value is None:
                frame.pop(name, None)
            else:
                frame[name] = value
    path.write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_path": "../../etc/passwd"}, "must be a path below the folder of its JSON"),
        ({"file_path": "/etc/passwd"}, "must be a path below the folder of its JSON"),
        ({"file_path": "images/x\0.png"}, "must be a path below the folder of its JSON"),
        ({"file_path": "images/gone.png"}, "the file .*gone.png must exist, as the JSON names it"),
        ({"file_path": None}, "its frame cannot be understood .KeyError"),
        ({"camera_model": "EQUIRECTANGULAR"}, "camera model EQUIRECTANGULAR .* is not read"),
        ({"k4": 0.1}, "with k4 0.1 is not read; undistort the images first"),
        ({"fl_x": None}, "has no focal length"),
        ({"fl_x": "wide"}, "its frame cannot be understood"),
        ({"transform_matrix": [[1, 2], [3, 4]]}, r"transform_matrix is \[2, 2\], must be 4x4"),
        ({"transform_matrix": np.diag([2.0, 2, 2, 1]).tolist()}, "pose is not rigid"),
    ],
)
def test_nerfstudio_frames_that_cannot_be_used(tmp_path: Path, changes: dict, message: str) -> None:
    location, _ = write("nerfstudio_polycam", tmp_path)
    frames(location, **changes)
    with pytest.raises(SceneError, match=message):
        read(location)


def test_nerfstudio_intrinsics_may_be_an_angle(tmp_path: Path) -> None:
    location, _ = write("nerfstudio_polycam", tmp_path)
    width = SCENE.color_size[1]
    angle = 2 * np.arctan(width / 2 / 150)
    frames(location, fl_x=None, fl_y=None, cx=None, cy=None, w=None, h=None, camera_angle_x=angle)
    view = read(location).views[0]
    np.testing.assert_allclose(view.K_color, [[150, 0, 96], [0, 150, 72], [0, 0, 1]])
    assert view.K_color_size == SCENE.color_size


def test_intrinsics_of_another_size_are_scaled_and_that_is_said(tmp_path: Path) -> None:
    location, _ = write("nerfstudio_polycam", tmp_path)
    height, width = SCENE.color_size
    K = SCENE.K * 2
    frames(location, w=2 * width, h=2 * height, fl_x=K[0, 0], fl_y=K[1, 1], cx=K[0, 2], cy=K[1, 2])
    scene = read(location)
    np.testing.assert_allclose(scene.views[0].K_color, SCENE.K)
    assert scene.notes == (
        f"intrinsics are of {2 * height}x{2 * width} and images {height}x{width} (rows x columns); "
        "scaled to them",
    )


def test_colmap_models_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    location, _ = write("colmap_binary", tmp_path)
    path = location / "hall/sparse/images.bin"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "its COLMAP model cannot be understood" in reason(location)
    path.write_bytes(data)
    cameras = location / "hall/sparse/cameras.bin"
    whole = cameras.read_bytes()
    cameras.write_bytes(whole[:12] + struct.pack("<i", 99) + whole[16:])
    assert "camera model number 99 is not known" in reason(location)
    for model, params in (("FOV", [1.0] * 5), ("THIN_PRISM_FISHEYE", [1.0] * 12), ("PINHOLE", [1])):
        with pytest.raises(SceneError, match=f"the camera model {model} .* image_undistorter"):
            colmap_camera(model, params, "v")


def test_simple_colmap_cameras_share_one_focal_length() -> None:
    K, bent = colmap_camera("SIMPLE_RADIAL", [500, 320, 240, 0.1], "v")
    np.testing.assert_array_equal(K, [[500, 0, 320], [0, 500, 240], [0, 0, 1]])
    assert bent == lens("opencv", [0.1])
    assert colmap_camera("SIMPLE_PINHOLE", [500, 320, 240], "v")[1] is None
    assert colmap_camera("OPENCV", [500, 510, 320, 240, 0, 0, 0, 0], "v")[1] is None


def test_a_lens_polynomial_that_turns_back_sees_nothing_beyond() -> None:
    bent = lens("opencv", [-0.5])  # r (1 - r^2 / 2) grows up to r = sqrt(2 / 3)
    x = np.linspace(0, 2, 201)
    found, _ = distort(x, np.zeros_like(x), bent)
    assert np.isnan(found[x > 0.83]).all()
    np.testing.assert_allclose(found[x < 0.81], (x - x**3 / 2)[x < 0.81])


# Record3D and EmbodiedScan


def test_r3d_files_are_checked_and_say_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("record3d", tmp_path)
    (path,) = tmp_path.glob("*.r3d")
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("rgbd/1.depth")
    at = info.header_offset + 60
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    scene = read(tmp_path)
    with pytest.raises(SceneError, match=r"view 1: rgbd/1.depth is damaged .*CRC"):
        scene.views[1].read_depth_m()
    path.write_bytes(whole[:-300])
    assert "is no readable .r3d file" in reason(tmp_path)
    path.write_bytes(whole)
    monkeypatch.setitem(sys.modules, "lzfse", None)
    with pytest.raises(SceneError, match=r"pip install 'vega3d\[record3d\]'"):
        read(tmp_path).views[0].read_depth_m()


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/vega3d-evil",)


def test_a_pickle_that_names_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "embodiedscan_infos_val.pkl"
    path.write_bytes(pickle.dumps({"data_list": [Evil()]}))
    assert "it names posix.system, which no info file needs" in reason(path)
    assert not Path("/tmp/vega3d-evil").exists()
    for protocol in range(2, 6):
        plain = {"data_list": [], "metainfo": {"a": np.eye(3), "b": np.float32(2), "c": {1}}}
        path.write_bytes(pickle.dumps(plain, protocol=protocol))
        os.utime(path, ns=(protocol, protocol))
        assert read_scenes(str(path)).entries() == []


# Formats of images


def test_depth_of_every_format_is_the_same(tmp_path: Path) -> None:
    import OpenEXR

    depth = SCENE.depth(0).astype(np.float32)
    depth[3, 4] = np.nan
    expected = np.nan_to_num(depth)
    np.save(tmp_path / "d.npy", depth)
    np.save(tmp_path / "h.npy", depth[..., None].astype(np.float64))
    Image.fromarray(depth).save(tmp_path / "d.tiff")
    OpenEXR.File({}, {"Z": depth}).write(str(tmp_path / "d.exr"))
    for name in ("d.npy", "h.npy", "d.tiff", "d.exr"):
        found = decode_depth_m((tmp_path / name).read_bytes(), name)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    whole = np.rint(expected * 1000).astype(np.uint16)
    Image.fromarray(whole).save(tmp_path / "d.png")
    Image.fromarray(whole).save(tmp_path / "i.tiff")
    rows, cols = whole.shape
    (tmp_path / "d.pgm").write_bytes(
        f"P5\n{cols} {rows}\n65535\n".encode() + whole.astype(">u2").tobytes()
    )
    for name in ("d.png", "i.tiff", "d.pgm"):
        found = decode_depth_m((tmp_path / name).read_bytes(), name)
        np.testing.assert_array_equal(found, whole.astype(np.float32) / 1000)
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(SceneError, match="depth image is damaged"):
        decode_depth_m((tmp_path / "object.npy").read_bytes(), "v")


def test_exr_without_its_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(SceneError, match=r"pip install 'vega3d\[exr\]', or save it as .npy"):
        decode_depth_m(b"v/1\x01" + bytes(40), "v")


def test_heic_is_read_by_the_optional_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import pillow_heif

    rgb = SCENE.rgb(0)
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(rgb)).save(buffer, quality=100, chroma=444)
    data = buffer.getvalue()
    assert np.abs(decode_rgb(data, "v").astype(int) - rgb).mean() < 3
    with pytest.raises(SceneError, match="no readable HEIC"):
        decode_rgb(data[:200], "v")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(SceneError, match=r"pip install 'vega3d\[heic\]', or export JPEG"):
        decode_rgb(data, "v")


def test_rays_of_the_writers_are_those_of_the_lenses() -> None:
    """The independent writers invert by iteration what `distort` does."""
    from layout_writers import fisheye_rays, opencv_rays

    truth = pixel_rays(SCENE.K, SCENE.color_size)
    for rays, bent in (
        (
            opencv_rays(SCENE, (0.1, -0.05, 0.003, 0.001)),
            lens("opencv", (0.1, -0.05, 0.003, 0.001)),
        ),
        (fisheye_rays(SCENE, (0.04, -0.01, 0.0, 0.0)), lens("fisheye", (0.04, -0.01))),
    ):
        x, y = distort(rays[..., 0], rays[..., 1], bent)
        np.testing.assert_allclose(x, truth[..., 0], atol=1e-9)
        np.testing.assert_allclose(y, truth[..., 1], atol=1e-9)
