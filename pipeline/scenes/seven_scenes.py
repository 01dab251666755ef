"""7-Scenes: `seq-01/frame-000000.color.png`, `.depth.png`, `.pose.txt`; no intrinsics in it.

Poses are camera-to-world, OpenCV axes, metres; depth is 16-bit PNG, millimetres, 65535 where there
is no reading.

The data set's page gives one focal length, 585 px, which is the depth camera's. The colour camera
is a Kinect's, near 525 px: in the frames of red-kitchen colour agrees best across views there, and
with 585 px a quarter of the tokens move by more than 0.1 m. Colour and depth are NOT registered to
each other: the cameras stand some 25 mm apart. They are read here as if they stood in one place
(`geometry` knows nothing else), which puts a depth pixel 13 px of 640 aside at 1 m and 5 px at
2.5 m, where a token of 14 x 14 is 46 px wide.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from vega3d.pipeline.scenes.cameras import pinhole
from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.encoded import EncodedView, build_scene
from vega3d.pipeline.scenes.files import Folder, by_stem, list_folder
from vega3d.pipeline.scenes.scene import Scene
from vega3d.pipeline.scenes.view_files import ViewFiles

_COLOR, _DEPTH, _POSE = ".color.png", ".depth.png", ".pose.txt"
SEVEN_SCENES_K_DEPTH = pinhole(585.0, 585.0, 320.0, 240.0)
"""Source: the data set's page, microsoft.com, RGB-D Dataset 7-Scenes."""

SEVEN_SCENES_K_COLOR = pinhole(525.0, 525.0, 320.0, 240.0)
"""Source: the Kinect's nominal colour camera, as OpenNI has it and TUM RGB-D's page quotes it."""


class SevenScenes:
    """The reader of 7-Scenes."""

    name = "7-Scenes"
    looks = "seq-01/frame-000000.color.png .depth.png .pose.txt"

    def claims(self, folder: Folder) -> bool:
        """Say whether there is a colour image of that name."""
        return any(name.lower().endswith(_COLOR) for name in folder.files)

    def places(self, folder: Folder) -> Sequence[Place]:
        """Return the one sequence that the folder is."""
        count = len(by_stem(folder.files, (_COLOR,)))
        return [Place(path=folder.path, num_views=count, data=(folder.path,))]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Read poses."""
        folder = list_folder(place.path)

        def paths(suffix: str) -> dict[str, str]:
            named = by_stem(folder.files, (suffix,))
            return {stem: folder.join(name) for stem, name in named.items()}

        color, depth, pose = paths(_COLOR), paths(_DEPTH), paths(_POSE)
        files = ViewFiles(
            scene_id=scene_id,
            color=color,
            depth=depth or None,
            pose=pose or None,
            expected_depth=lambda stem: folder.join(f"{stem}{_DEPTH}"),
            expected_pose=lambda stem: folder.join(f"{stem}{_POSE}"),
        )

        def view(stem: str) -> EncodedView:
            return replace(
                files.view(stem), K_color=SEVEN_SCENES_K_COLOR, K_depth=SEVEN_SCENES_K_DEPTH
            )

        makers = [(stem, partial(view, stem)) for stem in color]
        return build_scene(scene_id, makers, files.notes(folder))
