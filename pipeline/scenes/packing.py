"""Packing scenes of any source into WebDataset tars with an index: `vega3d-extract pack`."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.images import encode_depth_png, encode_png
from vega3d.pipeline.scenes.scene import Scene, SceneSource, View
from vega3d.pipeline.scenes.tar_members import INDEX_FORMAT, INDEX_NAME, MATRICES, encode_id


def pack(source: SceneSource, out: str, *, scenes_per_tar: int = 8) -> dict[str, Any]:
    """Write every scene to tars in a folder, with their index, and say what was done.

    JPEG and PNG bytes pass through unchanged; other colour becomes PNG, depth 16-bit PNG of
    millimetres. Every image is decoded once, so that a damaged one is found here. The same scenes
    give the same bytes. A tar gets its name when it is complete, the index comes last.

    Args:
        source: Where the scenes come from.
        out: Local folder, made if need be.
        scenes_per_tar: Scenes of one tar; fewer where some fail.

    Returns:
        Counts, bytes, and scenes that failed with their reasons.

    Raises:
        ValueError: `out` holds an index already, or cannot be written to.
    """
    folder = Path(out)
    if scenes_per_tar < 1:
        raise ValueError(f"scenes_per_tar must be >= 1, got {scenes_per_tar}")
    if (folder / INDEX_NAME).exists():
        raise ValueError(f"{folder / INDEX_NAME} exists; pack into an empty folder")
    entries = source.entries()
    tars: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, first in enumerate(range(0, len(entries), scenes_per_tar)):
            scene_ids = [entry.scene_id for entry in entries[first : first + scenes_per_tar]]
            tars.append(_write_tar(source, scene_ids, folder / f"scenes-{number:05d}.tar", failed))
        tars = [tar for tar in tars if tar["scenes"]]
        index = {"format": INDEX_FORMAT, "tars": tars}
        temporary = folder / f".{INDEX_NAME}.partial"
        temporary.write_text(json.dumps(index, indent=1) + "\n")
        os.replace(temporary, folder / INDEX_NAME)
    except OSError as error:
        raise ValueError(
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
    }


def _write_tar(
    source: SceneSource, scene_ids: list[str], path: Path, failed: list[dict[str, str]]
) -> dict[str, Any]:
    """Write one tar and return its part of the index; scenes that fail are added to `failed`."""
    from webdataset.writer import TarWriter

    temporary = path.with_name(f".{path.name}.partial")
    scenes: list[dict[str, Any]] = []
    try:
        with temporary.open("wb") as file:
            # GNU: names may be long. Fixed times and owners: the same scenes give the same bytes.
            with TarWriter(
                file, user="", group="", mtime=0, encoder=False, keep_meta=True, format="GNU_FORMAT"
            ) as writer:
                for scene_id in scene_ids:
                    try:
                        samples = _samples(source.read(scene_id))
                    except SceneError as error:
                        failed.append({"scene_id": scene_id, "reason": str(error)})
                        continue
                    start = writer.tarstream.offset
                    for sample in samples:
                        writer.write({"__key__": encode_id(scene_id), **sample})
                    size_bytes = writer.tarstream.offset - start
                    scenes.append(
                        {
                            "scene_id": scene_id,
                            "num_views": len(samples) - 1,
                            "start": start,
                            "size_bytes": size_bytes,
                        }
                    )
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        if scenes:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return {"name": path.name, "size_bytes": size, "scenes": scenes}


def _samples(scene: Scene) -> list[dict[str, bytes]]:
    """Return the cameras, then each view's files; raises SceneError where one cannot be read."""
    if not scene.views:
        raise SceneError(f"{scene.scene_id}: has no views")
    cameras = [
        {"view_id": view.view_id}
        | {name: _rows(getattr(view, name)) for name in MATRICES if getattr(view, name) is not None}
        for view in scene.views
    ]
    text = json.dumps({"scene_id": scene.scene_id, "views": cameras}, allow_nan=False)
    return [{"cameras.json": text.encode()}, *(_view_files(scene, view) for view in scene.views)]


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
