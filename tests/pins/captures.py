"""Captures whose every byte follows from a seed: what the pinned digests are taken of."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 96, 128


def write_captures(root: Path) -> None:
    """Write three captures in the ScanNet export layout; the last has a pose that is not rigid."""
    for index, scene_id in enumerate(("scene_a", "scene_b", "scene_c")):
        rng = np.random.default_rng(index)
        folder = root / scene_id
        for name in ("color", "depth", "pose", "intrinsic"):
            (folder / name).mkdir(parents=True)
        for view in range(3 + index):
            small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            rgb = np.kron(small, np.ones((16, 16, 1), dtype=np.uint8))
            rgb = (rgb // 2 + rng.integers(0, 128, rgb.shape, dtype=np.uint8)).astype(np.uint8)
            depth_mm = rng.integers(500, 4000, (HEIGHT // 2, WIDTH // 2)).astype(np.uint16)
            depth_mm[:5, :7] = 0
            (folder / "color" / f"{view}.png").write_bytes(_png(Image.fromarray(rgb)))
            (folder / "depth" / f"{view}.png").write_bytes(_png(Image.fromarray(depth_mm)))
            pose = np.eye(4)
            pose[0, 3] = 0.1 * view
            if scene_id == "scene_b" and view == 1:
                pose[0, 0] = -np.inf
            if scene_id == "scene_c":
                pose[0, 0] = 2
            np.savetxt(folder / "pose" / f"{view}.txt", pose)
        for name, scale in (("color", 1.0), ("depth", 0.5)):
            K = np.diag([110.0 * scale, 110 * scale, 1, 1])
            K[0, 2], K[1, 2] = WIDTH / 2 * scale, HEIGHT / 2 * scale
            np.savetxt(folder / "intrinsic" / f"intrinsic_{name}.txt", K)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
