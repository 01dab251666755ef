"""Synthetic stores whose answers can be learned: depth from the prior, class from the semantic."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numbered import numbered

from vega3d.pipeline.imports import SceneArrays, import_arrays

GRID = (4, 5)
NUM_CLASSES = 4


@dataclass(frozen=True)
class Stores:
    prior: str
    semantic: str
    labels: str


@dataclass(frozen=True)
class World:
    """Synthetic scenes: depth is readable from the prior alone, class from the semantic alone."""

    num_scenes: int = 4
    num_views: int = 8
    scenes_per_shard: int = 2
    noise: tuple[str, ...] = ()
    """Streams replaced by noise: prior, semantic."""
    seed: int = 0
    grid: tuple[int, int] = GRID
    gen_dim: int = 12
    sem_dim: int = 10
    store_dtype: str = "float32"


def write_world(folder: Path, world: World) -> Stores:
    embed = np.random.default_rng(99)  # one embedding for all worlds
    depth_axis = embed.normal(size=(1, world.gen_dim))
    point_axes = embed.normal(size=(3, world.gen_dim))
    class_axes = 2 * embed.normal(size=(NUM_CLASSES, world.sem_dim))
    rng = np.random.default_rng(world.seed)
    arrays: dict[str, list[SceneArrays]] = {"prior": [], "semantic": [], "labels": []}
    for index in range(world.num_scenes):
        shape = (world.num_views, *world.grid)
        depth = np.exp(rng.uniform(np.log(0.5), np.log(4), size=shape))
        poses = np.tile(np.eye(4), (world.num_views, 1, 1))
        poses[:, 0, 3] = 0.05 * np.arange(world.num_views)
        rows, cols = np.meshgrid(*(np.arange(n) for n in world.grid), indexing="ij")
        ray = np.stack([(cols - 2) / 4, (rows - 1.5) / 4, np.ones(world.grid)], axis=-1)
        xyz = ray * depth[..., None] + poses[:, None, None, :3, 3]
        labels = rng.integers(NUM_CLASSES, size=shape)
        gen = np.log(depth)[..., None] @ depth_axis + 0.3 * np.sin(3 * xyz) @ point_axes
        sem = class_axes[labels]
        gen = rng.normal(size=gen.shape) if "prior" in world.noise else gen
        sem = rng.normal(size=sem.shape) if "semantic" in world.noise else sem
        gen = gen + 0.05 * rng.normal(size=gen.shape)
        sem = sem + 0.05 * rng.normal(size=sem.shape)
        streams = {"prior": gen, "semantic": sem, "labels": labels[..., None]}
        for name, features in streams.items():
            preview = (255 * depth / depth.max()).astype(np.uint8).repeat(8, 1).repeat(8, 2)
            arrays[name].append(
                numbered(
                    scene_id=f"scene{index}",
                    features={"b0": features.astype(np.float32)},
                    world_xyz=xyz.astype(np.float32),
                    world_from_camera=poses,
                    preview=np.repeat(preview[..., None], 3, axis=-1),
                )
            )
    urls = {}
    for name, scenes in arrays.items():
        urls[name] = str(folder / name)
        import_arrays(
            urls[name],
            scenes,
            model=f"synthetic-{name}",
            scenes_per_shard=world.scenes_per_shard,
            store_dtype=world.store_dtype,
        )
    return Stores(**urls)
