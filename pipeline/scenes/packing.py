"""Packing scenes of any source into WebDataset tars with an index: `vega3d-extract pack`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
from jaxtyping import Float

from vega3d.pipeline.errors import SceneError, UsageError
from vega3d.pipeline.files import remove_partial_files, whole_file, write_whole
from vega3d.pipeline.scenes.bad_views import check_bad_views, name_bad_views
from vega3d.pipeline.scenes.conventions import as_meant
from vega3d.pipeline.scenes.depth_images import encode_depth_png
from vega3d.pipeline.scenes.images import encode_png
from vega3d.pipeline.scenes.scene import BadView, Scene, SceneSource, View
from vega3d.pipeline.scenes.settings import BadViews, ReadConfig
from vega3d.pipeline.scenes.tar_members import INDEX_FORMAT, INDEX_NAME, MATRICES, encode_id


def pack(
    source: SceneSource,
    out: str,
    *,
    scenes_per_tar: int = 8,
    reading: ReadConfig = ReadConfig(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Write every scene to tars in a folder, with their index, and say what was done.

    JPEG and PNG bytes pass through unchanged; other colour becomes PNG, depth 16-bit PNG of
    millimetres. Every image is decoded once, so that a damaged one is found here. The same scenes
    give the same bytes. A tar gets its name when it is complete, the index comes last.

    Args:
        source: Where the scenes come from.
        out: Local folder, made if need be.
        scenes_per_tar: Scenes of one tar; fewer where some fail.
        reading: How the source is understood; the tars hold OpenCV's axes and metres.

    Returns:
        Counts, bytes, scenes that failed with their reasons, and lines on the others (views that
        were left out, what was not read).

    Raises:
        UsageError: `out` holds an index already, is a store, or cannot be written to.
    """
    folder = Path(out)
    if scenes_per_tar < 1:
        raise UsageError(f"scenes_per_tar must be >= 1, got {scenes_per_tar}")
    if used := [name for name in (INDEX_NAME, "zarr.json") if (folder / name).exists()]:
        raise UsageError(f"{folder / used[0]} exists; pack into an empty folder")
    entries = source.entries()
    tars: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    notes: dict[str, list[str]] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial_files(folder)
        for number, first in enumerate(range(0, len(entries), scenes_per_tar)):
            scene_ids = [entry.scene_id for entry in entries[first : first + scenes_per_tar]]
            path = folder / f"scenes-{number:05d}.tar"
            packed = _read(source, scene_ids, reading, failed, notes, folder)
            if (one := next(packed, None)) is not None:
                tars.append(_write_tar(chain([one], packed), path))
        index = {"format": INDEX_FORMAT, "tars": tars}
        write_whole(folder / INDEX_NAME, (json.dumps(index, indent=1) + "\n").encode())
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written ({error}); make room or choose another"
        ) from error
    scenes = [scene for tar in tars for scene in tar["scenes"]]
    return {
        "out": str(folder),
        "tars": len(tars),
        "scenes": len(scenes),
        "views": sum(scene["num_views"] for scene in scenes),
        "size_bytes": sum(tar["size_bytes"] for tar in tars),
        "failed": failed,
        "notes": notes,
    }


SPOOLED_BYTES = 1 << 28
"""Of a scene's files in memory; a scene is written when all of them are known to be good."""


@dataclass(frozen=True, slots=True)
class _Packed:
    """A scene as the members of a tar."""

    scene_id: str
    cameras: bytes
    views: list[dict[str, tuple[int, int]]]
    """Of each view's files, where they begin and end in `held`."""

    held: "SpooledTemporaryFile[bytes]"

    def samples(self) -> Iterator[dict[str, bytes]]:
        """Yield its cameras, then each view's files."""
        yield {"cameras.json": self.cameras}
        for view in self.views:
            yield {name: self._bytes(*place) for name, place in view.items()}

    def _bytes(self, start: int, end: int) -> bytes:
        self.held.seek(start)
        return self.held.read(end - start)


def _read(
    source: SceneSource,
    scene_ids: list[str],
    reading: ReadConfig,
    failed: list[dict[str, str]],
    notes: dict[str, list[str]],
    folder: Path,
) -> Iterator[_Packed]:
    """Yield the scenes that can be read; fill in the others and what is to say of these.

    Each holds its files until the next one is asked for: in memory up to SPOOLED_BYTES, else in
    `folder`.
    """
    for scene_id in scene_ids:
        try:
            scene = as_meant(
                source.read(scene_id), poses=reading.poses, depth_scale=reading.depth_scale
            )
            with SpooledTemporaryFile(SPOOLED_BYTES, dir=str(folder)) as held:
                packed, bad = _packed(scene, reading.bad_views, held)
                if lines := [*scene.notes, *([name_bad_views(bad)] if bad else [])]:
                    notes[scene_id] = lines
                yield packed
        except SceneError as error:
            failed.append({"scene_id": scene_id, "reason": str(error)})


def _write_tar(packed: Iterator[_Packed], path: Path) -> dict[str, Any]:
    """Write one tar and return its part of the index."""
    from webdataset.writer import TarWriter

    scenes: list[dict[str, Any]] = []
    # GNU: names may be long. Fixed times and owners: the same scenes give the same bytes.
    with (
        whole_file(path) as temporary,
        temporary.open("wb") as file,
        TarWriter(
            file, user="", group="", mtime=0, encoder=False, keep_meta=True, format="GNU_FORMAT"
        ) as writer,
    ):
        for scene in packed:
            start = writer.tarstream.offset
            for sample in scene.samples():
                writer.write({"__key__": encode_id(scene.scene_id), **sample})
            scenes.append(
                {
                    "scene_id": scene.scene_id,
                    "num_views": len(scene.views),
                    "start": start,
                    "size_bytes": writer.tarstream.offset - start,
                }
            )
    size = path.stat().st_size
    return {"name": path.name, "size_bytes": size, "scenes": scenes}


def _packed(
    scene: Scene, policy: BadViews, held: "SpooledTemporaryFile[bytes]"
) -> tuple[_Packed, list[BadView]]:
    """Return the scene with its files in `held`, and the views that are left out.

    Raises:
        SceneError: Too many views cannot be read.
    """
    bad = list(scene.bad_views)
    cameras: list[dict[str, Any]] = []
    views: list[dict[str, tuple[int, int]]] = []
    for view in scene.views:
        try:
            files, camera = _view_files(scene, view), _camera(view)
        except SceneError as error:
            bad.append(BadView(view.view_id, str(error)))
            continue
        views.append({})
        for name, data in files.items():
            views[-1][name] = (held.tell(), held.tell() + held.write(data))
        cameras.append(camera)
    check_bad_views(scene.scene_id, bad, len(views) + len(bad), policy)
    if not views:
        raise SceneError(f"{scene.scene_id}: has no views")
    text = json.dumps({"scene_id": scene.scene_id, "views": cameras}, allow_nan=False)
    return _Packed(scene.scene_id, text.encode(), views, held), bad


def _camera(view: View) -> dict[str, Any]:
    camera: dict[str, Any] = {"view_id": view.view_id}
    for name in MATRICES:
        if getattr(view, name) is not None:
            camera[name] = _rows(getattr(view, name))
    if view.K_color_size is not None:
        camera["K_color_size"] = list(view.K_color_size)
    if view.read_turns is not None and (turns := view.read_turns()):
        camera["turns"] = turns
    return camera


def _rows(matrix: Float[np.ndarray, "side side"]) -> list[list[float | str]]:
    """JSON has no inf and nan: those become text, which float() reads back."""
    return [[x if np.isfinite(x) else str(x) for x in row] for row in matrix.astype(float).tolist()]


def _view_files(scene: Scene, view: View) -> dict[str, bytes]:
    rgb, name = view.read_rgb(), encode_id(view.view_id)
    data = b"" if view.read_color_bytes is None else view.read_color_bytes()
    is_jpeg, is_png = data.startswith(b"\xff\xd8"), data.startswith(b"\x89PNG")
    suffix = "jpg" if is_jpeg else "png"
    files = {f"{name}.color.{suffix}": data if is_jpeg or is_png else encode_png(rgb)}
    if view.read_depth_m is not None:
        where = f"{scene.scene_id}/view {view.view_id}"
        files[f"{name}.depth.png"] = encode_depth_png(view.read_depth_m(), where)
    return files
