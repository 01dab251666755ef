"""Stores of procedural rooms with planted features: looks in the one, places in the other."""

from functools import cache
from pathlib import Path

import numpy as np
from numbered import numbered
from worlds import Stores

from vega3d.pipeline.imports import import_arrays
from vega3d.pipeline.scenes.rooms.rooms import Rooms, parse_rooms
from vega3d.pipeline.scenes.rooms.truth import phrase, view_truth

GRID = (8, 10)
_DIM = 48


def write_room_stores(folder: Path, scenes: str) -> Stores:
    """The prior knows each token's place in the world, the semantic tokens class and colour."""
    asked = parse_rooms(scenes)
    rows, cols = GRID
    rooms = Rooms(asked.num_rooms, asked.views, 8 * rows, 8 * cols, asked.seed)
    axes = np.random.default_rng(5).normal(size=(3, _DIM // 2)) * 1.2
    arrays: dict[str, list] = {"prior": [], "semantic": []}
    for entry in rooms.entries():
        film = rooms.film(entry.scene_id)
        phrases = [phrase(thing) for thing in film.room.things]
        words = [np.sum([word_vector(word) for word in text.split()], axis=0) for text in phrases]
        words = np.stack([*words, np.zeros(_DIM)])
        places, things = [], []
        for index, pose in enumerate(film.poses):
            truth = view_truth(film, index)
            row, col = np.meshgrid(8 * np.arange(rows) + 4, 8 * np.arange(cols) + 4, indexing="ij")
            depth = truth.depth_m[row, col].astype(np.float64)
            pixel = np.stack([col + 0.5, row + 0.5, np.ones_like(row)], axis=-1)
            camera = (pixel @ np.linalg.inv(film.K).T) * depth[..., None]
            places.append(camera @ pose[:3, :3].T + pose[:3, 3])
            things.append(truth.thing[row, col])
        xyz = np.stack(places)
        phase = xyz @ axes
        planted = {
            "prior": np.concatenate([np.sin(phase), np.cos(phase), xyz], axis=-1),
            "semantic": words[np.stack(things)],
        }
        for name, features in planted.items():
            arrays[name].append(
                numbered(
                    scene_id=entry.scene_id,
                    features={"b0": features.astype(np.float32)},
                    world_xyz=xyz.astype(np.float32),
                    world_from_camera=np.stack(film.poses),
                    preview=np.zeros((len(film.poses), 8 * rows, 8 * cols, 3), np.uint8),
                )
            )
    urls = {}
    for name, found in arrays.items():
        urls[name] = str(folder / name)
        import_arrays(urls[name], found, model=f"planted-{name}", scenes_per_shard=8,
                      store_dtype="float32")  # fmt: skip
    return Stores(**urls, labels="")


@cache
def word_vector(word: str) -> np.ndarray:
    """Return what a word adds to a semantic token."""
    seed = int.from_bytes(word.encode()[-7:], "big")
    return np.random.default_rng(seed).normal(size=_DIM)
