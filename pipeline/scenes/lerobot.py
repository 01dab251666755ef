"""LeRobot v3 datasets: an episode is a scene, and the frames of its cameras are its views.

`meta/info.json` names the cameras, `meta/episodes/` has where each episode lies in which video;
many episodes share a video, and a frame is found by its time. No depth, no poses. Views are
`<camera>/<frame>`, all frames of a camera in a row. Where cameras differ in size, each camera of an
episode is a scene of its own, `episode_000000/<camera>`: a scene has one image size. Needs pyarrow
(extra `lerobot`); pixels are decoded by PyAV.

Source: huggingface/lerobot, src/lerobot/datasets/ (dataset_metadata.py, dataset_reader.py,
video_utils.py), codebase version v3.0.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from glob import escape, glob
from typing import Any

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.episodes import Group, camera_groups, view_id
from vega3d.pipeline.scenes.files import MAX_TABLE_BYTES, Folder, read_text
from vega3d.pipeline.scenes.fingerprints import of_files
from vega3d.pipeline.scenes.scene import Scene, View
from vega3d.pipeline.scenes.video_frames import TimedFrames

_INFO = "meta/info.json"
_MAX_EPISODES = 10_000_000


class LeRobot:
    """The reader of LeRobot v3 datasets."""

    name = "LeRobot v3"
    looks = "<dataset>/meta/info.json meta/episodes/ videos/<camera>/chunk-000/file-000.mp4"

    def claims(self, folder: Folder) -> bool:
        """Say whether there are metadata with episodes in parquet, as version 3 has them."""
        return "meta" in folder.folders and "episodes" in folder.open_folder("meta").folders

    def places(self, folder: Folder) -> Sequence[Place]:
        """List the episodes, from the metadata alone.

        Raises:
            SceneError: The metadata cannot be read, or pyarrow is missing.
        """
        data = _dataset(folder.path)
        return [
            Place(
                path=folder.path,
                num_views=episode.length * len(cameras),
                name=_name(episode, group),
                part=f"{episode.index}",
                data=(folder.join("meta"), *(episode.videos[camera] for camera in cameras)),
            )
            for episode in data.episodes
            for group, cameras in data.groups
        ]

    def read(self, place: Place, scene_id: str) -> Scene:
        """Return the frames of the episode, decoded when asked for."""
        data = _dataset(place.path)
        episode = next(one for one in data.episodes if str(one.index) == place.part)
        cameras = next(
            cameras for group, cameras in data.groups if _name(episode, group) == place.name
        )
        views: list[View] = []
        for camera in cameras:
            frames = TimedFrames(
                episode.videos[camera], scene_id, 1 / data.fps, episode.starts_s[camera]
            )
            views += [
                View(view_id=view_id(camera, index), read_rgb=partial(frames.read_rgb, index))
                for index in range(episode.length)
            ]
        return Scene(scene_id, tuple(views), notes=data.notes)


@dataclass(frozen=True, slots=True)
class _Episode:
    index: int
    length: int
    videos: Mapping[str, str]
    """Path of each camera's video."""

    starts_s: Mapping[str, float]
    """When the episode begins in it."""


@dataclass(frozen=True, slots=True)
class _Dataset:
    fps: float
    episodes: tuple[_Episode, ...]
    groups: tuple[Group, ...]
    """Cameras that make one scene of an episode, each with what its scene id ends with."""

    notes: tuple[str, ...]


def _name(episode: _Episode, group: tuple[str, ...]) -> str:
    return "/".join([f"episode_{episode.index:06d}", *group])


def _dataset(root: str) -> _Dataset:
    """Return a data set as its metadata describe it now."""
    return _parsed(root, tuple(of_files([f"{root}/meta"], root).values()))


@lru_cache(maxsize=2)
def _parsed(root: str, _looks: tuple[str, ...]) -> _Dataset:
    try:
        info = json.loads(read_text(f"{root}/{_INFO}"))
        version = str(info["codebase_version"])
        if not version.lstrip("v").startswith("3"):
            raise SceneError(
                f"{root}: is a LeRobot dataset of {version}; convert it to v3.0 with "
                "lerobot.scripts.convert_dataset_v21_to_v30"
            )
        features = info["features"]
        cameras = {
            name: tuple(feature["shape"])
            for name, feature in features.items()
            if feature["dtype"] == "video" and not _is_depth(feature)
        }
        if not cameras:
            raise SceneError(f"{root}: has no camera that is stored as video")
        rows = _episode_rows(root)
        episodes = tuple(_episode(root, info["video_path"], row, cameras) for row in rows)
        fps = float(info["fps"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, SceneError):
            raise
        raise SceneError(
            f"{root}: its LeRobot metadata cannot be understood ({type(error).__name__}: {error})"
        ) from error
    return _Dataset(fps, episodes, camera_groups(cameras), _notes(features))


def _is_depth(feature: Mapping[str, Any]) -> bool:
    inner = {**(feature.get("info") or {}), **(feature.get("video_info") or {})}
    return bool(inner.get("is_depth_map") or inner.get("video.is_depth_map"))


def _notes(features: Mapping[str, Any]) -> tuple[str, ...]:
    notes = ["has no poses: its tokens get no positions"]
    if depths := [name for name, feature in features.items() if _is_depth(feature)]:
        notes.append(f"depth videos are not read: {', '.join(depths)}")
    if images := [name for name, feature in features.items() if feature["dtype"] == "image"]:
        notes.append(f"cameras stored as images in parquet are not read: {', '.join(images)}")
    return tuple(notes)


def _episode_rows(root: str) -> list[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SceneError(
            f"{root}: LeRobot datasets need pyarrow; pip install 'vega3d[lerobot]'"
        ) from error
    rows: list[dict[str, Any]] = []
    for path in sorted(glob(f"{escape(root)}/meta/episodes/**/*.parquet", recursive=True)):
        _check_size(path, parquet.read_metadata(path))
        names = [
            name
            for name in parquet.read_schema(path).names
            if name in ("episode_index", "length") or name.startswith("videos/")
        ]
        rows += parquet.read_table(path, columns=names).to_pylist()
    return sorted(rows, key=lambda row: int(row["episode_index"]))


def _check_size(path: str, metadata: Any) -> None:  # noqa: ANN401 - pyarrow's, without types
    """Refuse a table that is small on disk and large when it is read."""
    groups = range(metadata.num_row_groups)
    size_bytes = sum(metadata.row_group(index).total_byte_size for index in groups)
    if metadata.num_rows > _MAX_EPISODES or size_bytes > MAX_TABLE_BYTES:
        raise ValueError(
            f"{path} has {metadata.num_rows} rows and {size_bytes} bytes, over the limit of "
            f"{_MAX_EPISODES} and {MAX_TABLE_BYTES}"
        )


def _episode(
    root: str, pattern: str, row: Mapping[str, Any], cameras: Mapping[str, Any]
) -> _Episode:
    videos, starts = {}, {}
    for camera in cameras:
        path = pattern.format(
            video_key=camera,
            chunk_index=int(row[f"videos/{camera}/chunk_index"]),
            file_index=int(row[f"videos/{camera}/file_index"]),
        )
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"video_path {pattern!r} leads out of the dataset")
        videos[camera] = f"{root}/{path}"
        starts[camera] = float(row[f"videos/{camera}/from_timestamp"])
    return _Episode(int(row["episode_index"]), int(row["length"]), videos, starts)
