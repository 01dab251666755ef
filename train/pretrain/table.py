"""Does what was learned show? Probes on rooms that no model and no choice has seen.

A small MLP reads depth, normal and class of a cell from its feature and its position (`reader.py`).
It is fitted on the first rooms of a source and scored on the others; intervals are bootstraps over
the scored rooms, paired where two streams are compared.
Letters: S scenes, V views, h w cells, N cells of many views, C channels, R scored rooms.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.rooms.truth import LABELS
from vega3d.pipeline.store.store import open_store
from vega3d.train.pretrain.answers import Answers, room_answers
from vega3d.train.pretrain.config import TableConfig
from vega3d.train.pretrain.reader import Wanted, read

_BOOTSTRAPS = 2000
BETTER = {"depth_r2": 1, "normal_deg": -1, "object_accuracy": 1}
"""Scores, and whether more (1) or less (-1) is better."""

Scores = dict[str, np.ndarray]
"""One value a scored room."""


def probe_table(
    location: str, stores: Mapping[str, str], pairs: Sequence[tuple[str, str]], config: TableConfig
) -> dict[str, Any]:
    """Score streams and their combinations, and compare pairs of them.

    Args:
        location: `rooms:...`, the scenes that the stores were made of.
        stores: Store of one tap by name; names joined by `+` in `pairs` are read side by side.
        pairs: What is compared with what; every name that occurs is scored.
        config: How.

    Raises:
        UsageError: The stores are not of these scenes, or none would be left to score.
    """
    streams = {name: _features(url, location) for name, url in stores.items()}
    grid = next(iter(streams.values())).shape[2:4]
    answers = room_answers(location, (grid[0], grid[1]))
    return {"scenes": location, **compare_streams(streams, answers, pairs, config)}


def compare_streams(
    streams: Mapping[str, Tensor],
    answers: Answers,
    pairs: Sequence[tuple[str, str]],
    config: TableConfig,
) -> dict[str, Any]:
    """Do what `probe_table` does, for features [S, V, h, w, C]; `position` is no stream at all."""
    if config.fitted >= len(answers.label):
        raise UsageError(f"there are {len(answers.label)} scenes, and probes take {config.fitted}")
    scores = {}
    for name in dict.fromkeys([*streams, *(name for pair in pairs for name in pair)]):
        parts = [] if name == "position" else [streams[part] for part in name.split("+")]
        scores[name] = _score(parts, answers, config)
    return {
        "scored_rooms": len(answers.label) - config.fitted,
        "scores": {
            name: {key: _rounded(np.nanmean(values)) for key, values in found.items()}
            for name, found in scores.items()
        },
        "differences": {f"{a} - {b}": _compared(scores[a], scores[b]) for a, b in pairs},
    }


def _features(url: str, location: str) -> Tensor:
    """Return a store's features, [S, V, h, w, C], in the order of the source."""
    store = open_store(url)
    ids = [entry.scene_id for entry in read_scenes(location).entries()]
    if missing := [scene_id for scene_id in ids if scene_id not in store.scene_ids]:
        raise UsageError(f"{url} lacks {missing[:3]} of {location}")
    return torch.from_numpy(np.stack([store.features(scene_id) for scene_id in ids])).float()


def _score(parts: Sequence[Tensor], answers: Answers, config: TableConfig) -> Scores:
    """Return each scored room's scores of a stream (of position alone where there is no part)."""
    x = with_position(parts, answers, config.fitted)
    found = [fit_and_score(x, answers, config, seed) for seed in config.seeds]
    return {name: np.mean([scores[name] for scores in found], axis=0) for name in BETTER}


def with_position(parts: Sequence[Tensor], answers: Answers, fitted: int) -> Tensor:
    """Return what a probe sees: standardised features and the cell's place, [S, V, h, w, C]."""
    shape = answers.label.shape
    position = torch.eye(shape[2] * shape[3]).reshape(shape[2], shape[3], -1)
    inputs = [*parts, position.expand(*shape[:2], -1, -1, -1)]
    return torch.cat([standard(part, fitted) for part in inputs], -1)


def standard(values: Tensor, fitted: int) -> Tensor:
    """Standardise channels by the fitted scenes; one that is constant there tells nothing."""
    known = values[:fitted].flatten(0, -2)
    spread = known.std(0)
    return (values - known.mean(0)) / torch.where(spread > 1e-4, spread, torch.inf)


def fit_and_score(x: Tensor, answers: Answers, config: TableConfig, seed: int) -> Scores:
    """Fit on the first rooms, and return every other room's scores."""
    depth = answers.log_depth[: config.fitted]
    middle, spread = depth.mean(), depth.std()
    log_depth = (answers.log_depth - middle) / spread
    wanted = Wanted(
        numbers=torch.cat([log_depth[..., None], answers.normal], -1),
        questions=(slice(0, 1), slice(1, 4)),
        label=answers.label,
        counts=answers.is_object,
        classes=len(LABELS),
    )
    said = read(x, wanted, config, seed)
    asked = slice(config.fitted, None)
    gap = said[..., 0] * spread + middle - answers.log_depth[asked]
    variance = answers.log_depth[asked].var(correction=0)
    cosine = nn.functional.cosine_similarity(said[..., 1:4], answers.normal[asked], dim=-1)
    angle = torch.rad2deg(cosine.clamp(-1, 1).acos())
    right = (said[..., 4:].argmax(-1) == answers.label[asked]).float()
    return {
        "depth_r2": (1 - gap.square().mean((1, 2, 3)) / variance).numpy(),
        "normal_deg": _room_mean(angle, answers.is_flat[asked]),
        "object_accuracy": _room_mean(right, answers.is_object[asked]),
    }


def _room_mean(values: Tensor, counts: Tensor) -> np.ndarray:
    """Return the mean of each room's values that count; NaN for a room without any."""
    weight = counts.float().flatten(1)
    total = (values.flatten(1) * weight).sum(1)
    return (total / torch.where(weight.sum(1) > 0, weight.sum(1), torch.nan)).numpy()


def _compared(ours: Scores, theirs: Scores) -> dict[str, Any]:
    """Return each score's mean paired difference, its 95 % interval, and whether it is a gain."""
    found = {}
    for name, sign in BETTER.items():
        gap = ours[name] - theirs[name]
        gap = gap[~np.isnan(gap)]
        rng = np.random.default_rng(0)
        means = gap[rng.integers(len(gap), size=(_BOOTSTRAPS, len(gap)))].mean(1)
        low, high = np.percentile(means, [2.5, 97.5])
        found[name] = {
            "mean": _rounded(gap.mean()),
            "interval_95": [_rounded(low), _rounded(high)],
            "verdict": _verdict(sign * low, sign * high),
        }
    return found


def _verdict(one: float, other: float) -> str:
    if min(one, other) > 0:
        return "gain"
    return "loss" if max(one, other) < 0 else "open"


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 4)
