"""Posed RGB-D scenes written in the layouts that people have; an independent writer.

A scene is a list of `Shot`s. What a layout cannot say (7-Scenes' intrinsics) the caller must fit.
"""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Shot:
    rgb: np.ndarray
    depth_m: np.ndarray
    K_color: np.ndarray
    K_depth: np.ndarray
    world_from_camera: np.ndarray


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def depth_png(depth_m: np.ndarray) -> bytes:
    return png(np.rint(depth_m.astype(float) * 1000).clip(0, 65535).astype(np.uint16))


def write_scannet(folder: Path, shots: Sequence[Shot]) -> None:
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    for name in ("color", "depth"):
        K = np.eye(4)
        K[:3, :3] = getattr(shots[0], f"K_{name}")
        np.savetxt(folder / f"intrinsic/intrinsic_{name}.txt", K)
    for index, shot in enumerate(shots):
        (folder / f"color/{index}.png").write_bytes(png(shot.rgb))
        (folder / f"depth/{index}.png").write_bytes(depth_png(shot.depth_m))
        np.savetxt(folder / f"pose/{index}.txt", shot.world_from_camera)


def write_posed_images(folder: Path, shots: Sequence[Shot]) -> None:
    folder.mkdir(parents=True)
    np.savetxt(folder / "intrinsic.txt", shots[0].K_color)
    np.savetxt(folder / "depth_intrinsic.txt", shots[0].K_depth)
    for index, shot in enumerate(shots):
        stem = f"{10 * index:05d}"
        Image.fromarray(shot.rgb).save(folder / f"{stem}.jpg")
        (folder / f"{stem}.png").write_bytes(depth_png(shot.depth_m))
        np.savetxt(folder / f"{stem}.txt", shot.world_from_camera)


def write_tar(folder: Path, shots: Sequence[Shot]) -> None:
    folder.mkdir(parents=True)
    cameras = [
        {"view_id": str(index)}
        | {
            name: getattr(shot, name).tolist()
            for name in ("K_color", "K_depth", "world_from_camera")
        }
        for index, shot in enumerate(shots)
    ]
    text = json.dumps({"scene_id": "room", "views": cameras}).encode()
    files = {"room.cameras.json": text}
    for index, shot in enumerate(shots):
        files[f"room.{index}.color.png"] = png(shot.rgb)
        files[f"room.{index}.depth.png"] = depth_png(shot.depth_m)
    with tarfile.open(folder / "scenes-0.tar", "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


WRITERS: dict[str, Callable[[Path, Sequence[Shot]], None]] = {
    "ScanNet export": write_scannet,
    "posed_images": write_posed_images,
    "WebDataset": write_tar,
}
