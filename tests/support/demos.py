"""Demonstrations in LIBERO's HDF5 layout, from scripts/create_dataset.py of LIBERO itself.

Nothing here knows the package under test.
"""

import json
from pathlib import Path

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

INSTRUCTION = "put the red cube on the pad"


def frames(length: int, size: tuple[int, int], offset: int = 0) -> np.ndarray:
    """Frame t is grey 10 t + offset, brighter by 100 in its upper half."""
    grey = (10 * np.arange(length) + offset)[:, None, None, None]
    pictures = np.broadcast_to(grey, (length, *size, 3)).astype(np.uint8)
    pictures[:, : size[0] // 2] += 100
    return pictures


def write_demos(
    path: Path,
    lengths: list[int],
    *,
    seed: int = 0,
    size: tuple[int, int] = (12, 16),
    convention: str | None = "opengl",
    actions: list[np.ndarray] | None = None,
) -> Path:
    """Write a file; images lie upside down, as LIBERO's do."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_name"] = "Libero_Tabletop_Manipulation"
        told = {"problem_name": "x", "domain_name": "robosuite"}
        data.attrs["problem_info"] = json.dumps({**told, "language_instruction": INSTRUCTION})
        if convention:
            data.attrs["macros_image_convention"] = convention
        for number, length in enumerate(lengths):
            demo = data.create_group(f"demo_{number}")
            obs = demo.create_group("obs")
            for offset, name in enumerate(("agentview_rgb", "eye_in_hand_rgb")):
                upright = frames(length, size, offset + 2 * number)
                turned = upright[:, ::-1] if convention == "opengl" else upright
                obs.create_dataset(name, data=turned)
            states = rng.normal(size=(length, 6))
            obs.create_dataset("ee_states", data=states)
            obs.create_dataset("ee_pos", data=states[:, :3])
            obs.create_dataset("gripper_states", data=rng.uniform(0, 0.04, size=(length, 2)))
            made = rng.uniform(-1, 1, size=(length, 7))
            made[:, 6] = np.where(np.arange(length) < length // 2, -1, 1)
            made[:, 3] = 0
            demo.create_dataset("actions", data=made if actions is None else actions[number])
            demo.attrs["num_samples"] = length
        data.attrs["num_demos"] = len(lengths)
    return path
