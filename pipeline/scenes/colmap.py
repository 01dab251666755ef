"""COLMAP reconstructions: `images/` and a sparse model, text or binary; poses without depth.

The model lies in `sparse/0`, `sparse`, `colmap/sparse/0`, `colmap/sparse`, `colmap` or beside the
images. Distorted images are undistorted. A reconstruction's scale is its own: unless it was aligned
to metres, poses and what follows from them are up to scale.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.cameras import check_intrinsics, check_pose
from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.colmap_model import ColmapCamera, ColmapImage, count_images, read_model
from vega3d.pipeline.scenes.encoded import EncodedView, build_scene
from vega3d.pipeline.scenes.files import Folder, list_folder, read_file
from vega3d.pipeline.scenes.lenses import colmap_camera
from vega3d.pipeline.scenes.scene import Scene

_MODELS = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "colmap", ".")
_NOTE = "has no depth: its tokens get no positions; its scale is the reconstruction's own"


class Colmap:
    """The reader of COLMAP reconstructions."""

    name = "COLMAP"
    looks = "<scene>/images/ sparse/0/cameras.bin images.bin (or .txt)"

    def claims(self, folder: Folder) -> bool:
        """Say whether there is a sparse model."""
        return find_model(folder) is not None

    def places(self, folder: Folder) -> Sequence[Place]:
        """Return the one reconstruction that the folder is; its head says how many images."""
        model = find_model(folder)
        try:
            count = count_images(model[1]) if model else 0
        except (SceneError, OSError, ValueError, IndexError):
            count = 0  # reading it says why
        return [Place(path=folder.path, num_views=count, data=(_images(folder), *(model or ())))]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Read the cameras of every registered image."""
        folder = list_folder(place.path)
        model = find_model(folder)
        if model is None:
            raise SceneError(f"{scene_id}: {place.path} holds no COLMAP model")
        cameras, images = read_model(*model, scene_id)
        root = _images(folder)
        makers = [
            (PurePosixPath(image.name).with_suffix("").as_posix(),
             partial(image_view, scene_id, root, cameras, image))
            for image in images
        ]  # fmt: skip
        notes = [_NOTE] + [
            f"{name}/ looks like depth, and COLMAP's own is not metric; not read"
            for name in folder.folders
            if "depth" in name.lower()
        ]
        return build_scene(scene_id, makers, notes)


def find_model(folder: Folder) -> tuple[str, str] | None:
    """Return the files of cameras and images of the model below a folder; None without one."""
    if not {"sparse", "colmap"} & {*folder.folders} and not any(
        name.startswith("cameras.") for name in folder.files
    ):
        return None
    for place in _MODELS:
        for ending in ("bin", "txt"):
            pair = tuple(folder.join(place, f"{name}.{ending}") for name in ("cameras", "images"))
            if all(map(os.path.isfile, pair)):
                return os.path.normpath(pair[0]), os.path.normpath(pair[1])
    return None


def image_view(
    scene_id: str, root: str, cameras: dict[int, ColmapCamera], image: ColmapImage
) -> EncodedView:
    """Return a registered image below `root` as a view; raises SceneError where it cannot be."""
    view_id = PurePosixPath(image.name).with_suffix("").as_posix()
    where = f"{scene_id}/view {view_id}"
    parts = PurePosixPath(image.name).parts
    if os.path.isabs(image.name) or ".." in parts:
        raise SceneError(f"{where}: {image.name!r} is no path below {root}")
    camera = cameras.get(image.camera_id)
    if camera is None:
        raise SceneError(f"{where}: the model has no camera {image.camera_id}")
    K, bent = colmap_camera(camera.model, camera.params, where)
    check_intrinsics(K, where)
    pose = image.world_from_camera(where)
    check_pose(pose, where)
    return EncodedView(
        scene_id=scene_id,
        view_id=view_id,
        load_color=partial(read_file, os.path.join(root, *parts)),
        K_color=K,
        K_color_size=camera.size,
        lens=bent,
        world_from_camera=pose,
    )


def _images(folder: Folder) -> str:
    return folder.join("images") if "images" in folder.folders else folder.path
