"""What goldens were made from, drawn again: weights by their names, and pictures.

Whoever made a golden ran somebody else's module with these weights on these pictures.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "pipeline" / "backbones" / "goldens"


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a tensor that its name and shape decide: matrices keep the variance of their input."""
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
    values = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape)
    if len(shape) > 1:
        values /= np.sqrt(np.prod(shape[1:]))
    else:
        values = 0.1 * values + (0 if name.endswith("bias") else 1)
    return values.astype(np.float32)


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """Return uint8 images that differ."""
    key = np.random.Philox(key=7)
    return np.random.Generator(key).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def tensors(file: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of a published checkpoint's tensors; a file holds `*` for a number."""
    for name, (shape, count) in json.loads((FOLDER / file).read_text()).items():
        for index in range(max(1, count)):
            yield name.replace("*", str(index)), tuple(shape)
