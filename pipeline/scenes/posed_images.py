"""`posed_images`: one folder a scene, a JPEG with its depth and pose beside it, or in `depth/`.

Poses are camera-to-world, OpenCV axes, metres; depth is 16-bit PNG, millimetres.

Source: OpenMMLab's mmdetection3d, data/scannet/extract_posed_images.py, and EmbodiedScan's
embodiedscan/converter/generate_image_scannet.py, whose folders VEGA-3D reads.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.depth_images import SUFFIXES as DEPTH_SUFFIXES
from vega3d.pipeline.scenes.encoded import EncodedView, build_scene
from vega3d.pipeline.scenes.files import Folder, by_stem, list_folder
from vega3d.pipeline.scenes.scene import Scene
from vega3d.pipeline.scenes.view_files import ViewFiles, read_intrinsics, unique_colors

_SUFFIXES = (".jpg", ".jpeg")


class PosedImages:
    """The reader of `posed_images`."""

    name = "posed_images"
    looks = "<scene>/00000.jpg 00000.png 00000.txt intrinsic.txt depth_intrinsic.txt"

    def claims(self, folder: Folder) -> bool:
        """Say whether there are intrinsics, or a text file named as a JPEG is."""
        if "intrinsic.txt" in folder.files or "depth_intrinsic.txt" in folder.files:
            return True
        photos = by_stem(folder.files, _SUFFIXES)
        return any(f"{stem}.txt" in folder.files for stem in photos)

    def places(self, folder: Folder) -> Sequence[Place]:
        """Return the one capture that the folder is."""
        count = len(by_stem(folder.files, _SUFFIXES))
        depth = [folder.join("depth")] if "depth" in folder.folders else []
        return [Place(path=folder.path, num_views=count, data=(folder.path, *depth))]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Read poses and intrinsics."""
        folder = list_folder(place.path)
        names = by_stem(folder.files, _SUFFIXES)
        unique_colors(names, [n for n in folder.files if not n.lower().endswith(".png")], scene_id)
        poses = by_stem(folder.files, (".txt",))
        files = ViewFiles(
            scene_id=scene_id,
            color={stem: folder.join(name) for stem, name in names.items()},
            depth=_depth(folder, names),
            pose={stem: folder.join(poses[stem]) for stem in names.keys() & poses.keys()} or None,
            expected_depth=lambda stem: folder.join(f"{stem}.png"),
            expected_pose=lambda stem: folder.join(f"{stem}.txt"),
        )
        K_color = K_depth = None
        if names:
            K_color = read_intrinsics(folder.join("intrinsic.txt"), scene_id)
        if names and files.depth is not None:
            K_depth = read_intrinsics(folder.join("depth_intrinsic.txt"), scene_id)

        def view(stem: str) -> EncodedView:
            return replace(files.view(stem), K_color=K_color, K_depth=K_depth)

        return build_scene(
            scene_id,
            [(stem, partial(view, stem)) for stem in names],
            files.notes(folder, read=("depth",)),
        )


def _depth(folder: Folder, names: dict[str, str]) -> dict[str, str] | None:
    """Return depth files beside the images, or else those in `depth/`; None where there is none."""
    inner = folder.open_folder("depth")
    for place in (folder, inner):
        found = by_stem(place.files, DEPTH_SUFFIXES)
        if own := {stem: place.join(found[stem]) for stem in names if stem in found}:
            return own
    return None
