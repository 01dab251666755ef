from pathlib import Path

import numpy as np
import torch
from numbered import numbered

from vega3d.pipeline.imports import import_arrays
from vega3d.train.model import Standardize


def standardised(folder: Path, scenes: list[np.ndarray]) -> list[np.ndarray]:
    """Return the scenes' tokens [N, C] as the trainer sees them."""
    arrays = [numbered(scene_id=f"s{i}", features={"b0": f}) for i, f in enumerate(scenes)]
    store = import_arrays(str(folder), arrays, model="m", store_dtype="float32")
    stats = store.channel_stats()
    standardize = Standardize(scenes[0].shape[-1])
    standardize.set_stats(
        torch.from_numpy(stats["mean"]).float(), torch.from_numpy(stats["std"]).float()
    )
    found = [torch.from_numpy(store.features(name)) for name in store.scene_ids]
    return [standardize(f, torch.ones(f.shape[:-1], dtype=torch.bool)).numpy() for f in found]


def test_a_constant_channel_becomes_zero_whatever_its_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = (0.1, 3.3, 541.7, 12345.678, -7e5)
    scenes = [rng.normal(size=(3, 4, 5, 1 + len(constants))).astype(np.float32) for _ in range(5)]
    for scene in scenes:
        scene[..., 1:] = constants
    for found in standardised(tmp_path / "s", scenes):
        assert np.abs(found[..., 1:]).max() < 0.1  # float32 holds -7e5 to within 0.03
