"""ScanNet++: the iPhone and the DSLR of a scene, each a capture (`<scene>/iphone`, `<scene>/dslr`).

iPhone: `rgb/frame_000000.jpg` and `depth/frame_000000.png` (as the toolkit extracts them) with
`pose_intrinsic_imu.json`, whose `aligned_pose` is camera-to-world, OpenCV axes, metres, in the
world of the scene's mesh, and whose intrinsics are of 1920x1440. Depth is millimetres at a lower
size.

DSLR: undistorted images with `nerfstudio/transforms_undistorted.json`, or else the fisheye images
with `nerfstudio/transforms.json`, which are undistorted here; no depth. The toolkit turned these
poses' world by COLMAP-to-nerfstudio axes; that is undone, so that both devices share the mesh's
world.

Source: scannetpp/scannetpp, common/scene_release.py, common/utils/nerfstudio.py and
iphone/prepare_iphone_data.py; the data set's documentation (kaldir.vc.in.tum.de/scannetpp).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.local_files import MAX_FILE_BYTES
from vega3d.pipeline.scenes.cameras import check_intrinsics, check_pose
from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.depth_images import SUFFIXES as DEPTH_SUFFIXES
from vega3d.pipeline.scenes.encoded import EncodedView, build_scene
from vega3d.pipeline.scenes.files import Folder, by_stem, list_folder, read_text
from vega3d.pipeline.scenes.nerfstudio import frame_view, read_transforms, view_ids
from vega3d.pipeline.scenes.scene import Scene
from vega3d.pipeline.scenes.view_files import COLOR_SUFFIXES, ViewFiles

_CAMERAS = "pose_intrinsic_imu.json"
_SIZE = (1440, 1920)
_COLMAP_FROM_NERFSTUDIO = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1.0]])
_UNDISTORTED = ("resized_undistorted_images", "undistorted_images")
_FISHEYE = ("resized_images", "original_images")


class ScannetppIphone:
    """The reader of ScanNet++'s iPhone captures."""

    name = "ScanNet++ iPhone"
    looks = "<scene>/iphone/rgb/frame_000000.jpg depth/ pose_intrinsic_imu.json"

    def claims(self, folder: Folder) -> bool:
        """Say whether the iPhone's cameras are there."""
        return _CAMERAS in folder.files

    def places(self, folder: Folder) -> Sequence[Place]:
        """Return the one capture that the folder is."""
        count = len(by_stem(folder.open_folder("rgb").files, COLOR_SUFFIXES))
        data = [folder.join(name) for name in ("rgb", "depth") if name in folder.folders]
        return [Place(path=folder.path, num_views=count, data=(folder.path, *data))]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Read the cameras of every extracted frame."""
        folder = list_folder(place.path)
        names = by_stem(folder.open_folder("rgb").files, COLOR_SUFFIXES)
        if not names:
            raise SceneError(
                f"{scene_id}: has no rgb/: extract the frames of rgb.mkv and depth.bin with the "
                "ScanNet++ toolkit (python -m iphone.prepare_iphone_data)"
            )
        depth = by_stem(folder.open_folder("depth").files, DEPTH_SUFFIXES)
        files = ViewFiles(
            scene_id=scene_id,
            color={stem: folder.join("rgb", name) for stem, name in names.items()},
            depth={stem: folder.join("depth", name) for stem, name in depth.items()} or None,
            pose=None,
            expected_depth=lambda stem: folder.join("depth", f"{stem}.png"),
            expected_pose=lambda stem: folder.join(_CAMERAS),
        )
        cameras = _cameras(folder.join(_CAMERAS), scene_id)

        def view(stem: str) -> EncodedView:
            return _with_camera(files.view(stem), cameras)

        notes = [note for note in files.notes(folder, read=("depth",)) if "poses" not in note]
        return build_scene(scene_id, [(stem, partial(view, stem)) for stem in names], notes)


class ScannetppDslr:
    """The reader of ScanNet++'s DSLR captures."""

    name = "ScanNet++ DSLR"
    looks = "<scene>/dslr/resized_undistorted_images/ nerfstudio/transforms_undistorted.json"

    def claims(self, folder: Folder) -> bool:
        """Say whether there are nerfstudio cameras beside one of the data set's image folders."""
        images = {*_UNDISTORTED, *_FISHEYE} & {*folder.folders}
        return bool(images) and "nerfstudio" in folder.folders

    def places(self, folder: Folder) -> Sequence[Place]:
        """Return the one capture that the folder is; its views are at most the images there."""
        images, _ = _dslr_source(folder)
        count = len(by_stem(folder.open_folder(images).files, COLOR_SUFFIXES))
        return [
            Place(
                path=folder.path,
                num_views=count,
                data=(folder.join(images), folder.join("nerfstudio")),
            )
        ]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Read the cameras of every frame."""
        folder = list_folder(place.path)
        images, name = _dslr_source(folder)
        meta = read_transforms(folder.join("nerfstudio", name), scene_id)
        frames = [*meta["frames"], *meta.get("test_frames", [])]
        usable = [frame for frame in frames if not frame.get("is_bad")]
        root = folder.join(images)

        def view(view_id: str, frame: Mapping[str, Any]) -> EncodedView:
            found = frame_view(scene_id, view_id, root, meta, frame)
            assert found.world_from_camera is not None  # a frame has a pose or is refused
            return replace(
                found, world_from_camera=_COLMAP_FROM_NERFSTUDIO @ found.world_from_camera
            )

        notes = ["has no depth: its tokens get no positions"]
        if len(usable) < len(frames):
            notes.append(f"{len(frames) - len(usable)} frames that ScanNet++ calls bad left out")
        makers = [
            (view_id, partial(view, view_id, frame))
            for view_id, frame in zip(view_ids(usable), usable, strict=True)
        ]
        return build_scene(scene_id, makers, notes)


def _cameras(path: str, scene_id: str) -> dict[str, Any]:
    try:
        cameras = json.loads(read_text(path, MAX_FILE_BYTES))
        if not isinstance(cameras, dict):
            raise TypeError("must be an object of frames")
    except (ValueError, TypeError, RecursionError) as error:
        raise SceneError(
            f"{scene_id}: {path} cannot be understood ({type(error).__name__}: {error})"
        ) from error
    return cameras


def _with_camera(view: EncodedView, cameras: Mapping[str, Any]) -> EncodedView:
    try:
        camera = cameras[view.view_id]
        K = np.array(camera["intrinsic"], dtype=np.float64).reshape(3, 3)
        pose = np.array(camera["aligned_pose"], dtype=np.float64).reshape(4, 4)
    except (KeyError, TypeError, ValueError) as error:
        raise SceneError(
            f"{view.where}: {_CAMERAS} has no intrinsic and aligned_pose of it ({error!r})"
        ) from error
    check_intrinsics(K, view.where)
    check_pose(pose, view.where)
    return replace(view, K_color=K, K_color_size=_SIZE, world_from_camera=pose)


def _dslr_source(folder: Folder) -> tuple[str, str]:
    """Return the folder of images and the name of the cameras that belong to them."""
    inner = folder.open_folder("nerfstudio").files
    for names, transforms in (
        (_UNDISTORTED, "transforms_undistorted.json"),
        (_FISHEYE, "transforms.json"),
    ):
        found = next((name for name in names if name in folder.folders), None)
        if found and transforms in inner:
            return found, transforms
    return _FISHEYE[0], "transforms.json"
