"""What is read from a stream, room by room: depth, normals, classes, displacement, matching.

Probes see a cell's features and its position, are fitted on the first rooms and scored on the
others. Letters: S scenes, V views, h w cells, N cells of a view, C channels, P pairs of a view,
R scored rooms, K seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from vega3d.evaluate.cells import gather_tokens
from vega3d.evaluate.config import ScoreConfig
from vega3d.evaluate.matching import RECALL_COUNTS, ViewPairs, match
from vega3d.pipeline.store.store import open_store
from vega3d.train.pretrain.answers import Answers, room_answers
from vega3d.train.pretrain.config import TableConfig
from vega3d.train.pretrain.reader import Wanted, read
from vega3d.train.pretrain.table import fit_and_score, standard, with_position

RADIUS_M = 0.2
"""A match is right within so many metres: about a cell at the far wall."""

_PAIRS_A_VIEW = 64
QUESTIONS = {
    "depth_r2": ("depth", "R2 of log depth", 1),
    "normal_deg": ("normals", "mean angle of the surface normal, degrees", -1),
    "object_accuracy": ("object class", "share of object cells read right", 1),
    "displacement_r2": ("displacement", "R2 of the step between two cells, camera axes", 1),
    "matching_recall": ("matching", "nearest neighbour in another view within 20 cm", 1),
}
"""Score -> title, what it is, and whether more (1) or less (-1) is better."""

Scores = dict[str, np.ndarray]
"""By question, [K, R]."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """Right answers of all rooms."""

    answers: Answers
    xyz: Tensor
    """[S, V, h, w, 3], world metres."""

    camera: Tensor
    """[S, V, h, w, 3], the same in the view's own axes."""

    deep: np.ndarray
    """[S, V, h, w], which cells have a position."""


def read_rooms(scenes: str, url: str) -> Rooms:
    """Return the answers of the rooms that a store was made of; its geometry is read."""
    store = open_store(url)
    ids = sorted(store.scene_ids)
    xyz = np.stack([store.world_xyz(scene_id) for scene_id in ids]).astype(np.float32)
    poses = np.stack([store.world_from_camera(scene_id) for scene_id in ids]).astype(np.float32)
    deep = np.asarray(np.isfinite(xyz).all(-1))
    moved = np.where(deep[..., None], xyz, 0) - poses[:, :, None, None, :3, 3]
    camera = np.einsum("svji,svhwj->svhwi", poses[..., :3, :3], moved)
    return Rooms(
        answers=room_answers(scenes, (xyz.shape[2], xyz.shape[3])),
        xyz=torch.from_numpy(xyz),
        camera=torch.from_numpy(camera),
        deep=deep,
    )


def score_stream(
    parts: Sequence[Sequence[Tensor]], rooms: Rooms, config: TableConfig, *, matching: bool = True
) -> Scores:
    """Return every scored room's scores, for each seed.

    Args:
        parts: For each seed of the config the features that are read side by side, each
            [S, V, h, w, C]; none for position alone.
        rooms: Right answers.
        config: How probes are fitted.
        matching: Whether the features can be compared between views.
    """
    found: list[dict[str, np.ndarray]] = []
    for seed, mine in zip(config.seeds, parts, strict=True):
        x = with_position(mine, rooms.answers, config.fitted)
        scores = fit_and_score(x, rooms.answers, config, seed)
        scores["displacement_r2"] = _displacement(x, rooms, config, seed)
        if matching and mine:
            scores["matching_recall"] = _matching(mine, rooms, config.fitted)
        found.append(scores)
    return {name: np.stack([scores[name] for scores in found]) for name in found[0]}


def blind_scores(rooms: Rooms, config: TableConfig) -> Scores:
    """Return the scores of answers that see nothing: means of the rooms that are fitted on."""
    known, asked = slice(0, config.fitted), slice(config.fitted, None)
    answers = rooms.answers
    depth, normal = answers.log_depth, answers.normal
    gap = depth[asked] - depth[known].mean()
    mean_normal = nn.functional.normalize(normal[known][answers.is_flat[known]].mean(0), dim=0)
    angle = torch.rad2deg((normal[asked] @ mean_normal).clamp(-1, 1).acos())
    most = answers.label[known][answers.is_object[known]].mode().values
    right = (answers.label[asked] == most).float()
    start, end = _pairs(rooms, config.seeds[0])
    step = _pick(rooms.camera, end) - _pick(rooms.camera, start)
    once = {
        "depth_r2": 1 - gap.square().mean((1, 2, 3)) / depth[asked].var(correction=0),
        "normal_deg": _mean_where(angle, answers.is_flat[asked]),
        "object_accuracy": _mean_where(right, answers.is_object[asked]),
        "displacement_r2": _r2(step[known].mean((0, 1, 2)).expand_as(step[asked]), step[asked]),
    }
    return {name: np.stack([values.numpy()] * len(config.seeds)) for name, values in once.items()}


def _displacement(x: Tensor, rooms: Rooms, config: TableConfig, seed: int) -> np.ndarray:
    """Read the step from one cell of a view to another; returns R2 a room."""
    start, end = _pairs(rooms, seed)
    step = _pick(rooms.camera, end) - _pick(rooms.camera, start)
    both = torch.cat([_pick(x, start), _pick(x, end)], -1)
    asked = slice(config.fitted, None)
    spread = step[: config.fitted].flatten(0, -2).std(0)
    said = read(both, Wanted(step / spread, (slice(0, 3),)), config, seed) * spread
    return _r2(said, step[asked]).numpy()


def _pairs(rooms: Rooms, seed: int) -> tuple[Tensor, Tensor]:
    """Draw pairs of cells of every view, [S, V, P] each."""
    scenes, views, h, w = rooms.deep.shape
    generator = torch.Generator().manual_seed(1000 + seed)
    drawn = torch.randint(h * w, (2, scenes, views, _PAIRS_A_VIEW), generator=generator)
    return drawn[0], drawn[1]


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Return [S, V, P, C] of [S, V, h, w, C]."""
    flat = values.flatten(2, 3)
    return flat.gather(2, index[..., None].expand(*index.shape, flat.shape[-1]))


def _r2(said: Tensor, true: Tensor) -> Tensor:
    """Return R2 a room; what there is to explain is that of all rooms."""
    variance = (true - true.mean((0, 1, 2))).square().sum(-1).mean()
    return 1 - (said - true).square().sum(-1).mean((1, 2)) / variance


def _matching(parts: Sequence[Tensor], rooms: Rooms, fitted: int) -> np.ndarray:
    """Return the recall of the nearest neighbour, both ways over all pairs of a room's views.

    Channels are standardised by the rooms that are fitted on; parts have equal weight.
    """
    joined = torch.cat(
        [nn.functional.normalize(standard(part, fitted), dim=-1) for part in parts], -1
    ).numpy()
    config = ScoreConfig(recall_m=(RADIUS_M,))
    first, second = np.array(list(combinations(range(joined.shape[1]), 2))).T
    pairs = ViewPairs(first, second, np.zeros(len(first)), len(first))
    recalls = []
    for room in range(fitted, len(joined)):
        tokens = gather_tokens(joined[room], rooms.xyz[room].numpy(), rooms.deep[room])
        counts = match({"all": tokens.unit}, tokens, pairs, config)[1]["all"].overall[0]
        told = dict(zip(RECALL_COUNTS, counts, strict=True))
        recalls.append(told["nearest"] / told["possible"] if told["possible"] else np.nan)
    return np.array(recalls)


def _mean_where(values: Tensor, counts: Tensor) -> Tensor:
    weight = counts.float().flatten(1)
    return (values.flatten(1) * weight).sum(1) / weight.sum(1).where(weight.sum(1) > 0, torch.nan)
