"""The score as its formulas read: one pair after the other, float64, nothing shared with ours."""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

Token = tuple[int, int, np.ndarray, np.ndarray]
"""View, grid position, world position, unit feature."""


def unit(vector: np.ndarray, tiny: float = 0.0) -> np.ndarray:
    norm = math.sqrt(float(np.dot(vector, vector)))
    return vector / norm if norm > tiny else np.zeros_like(vector)


def voxel_of(point: np.ndarray, start: np.ndarray, voxel_m: float) -> tuple[int, ...]:
    return tuple(
        math.floor((float(p) - float(s)) / voxel_m) for p, s in zip(point, start, strict=True)
    )


def scene_tokens(features: np.ndarray, world_xyz: np.ndarray, valid: np.ndarray) -> list[Token]:
    num_views, h, w = valid.shape
    return [
        (v, r * w + c, world_xyz[v, r, c].astype(np.float64), unit(features[v, r, c].astype(float)))
        for v in range(num_views)
        for r in range(h)
        for c in range(w)
        if valid[v, r, c]
    ]


def treated(tokens: list[Token], name: str, others: np.ndarray, trim: int) -> list[Token]:
    """The same tokens after a treatment, with the statistics of the unit rows `others`."""
    if name == "raw":
        return tokens
    mean, std = others.mean(axis=0), others.std(axis=0)
    squares = (others**2).sum(axis=0)
    largest = sorted(range(len(mean)), key=lambda c: (-squares[c], c))[: min(trim, len(mean) // 2)]
    out = []
    for view, position, xyz, u in tokens:
        if name == "trimmed":
            new = np.array([0.0 if c in largest else u[c] for c in range(len(u))])
        elif name == "centred":
            new = u - mean
        else:
            new = np.array(
                [(x - m) / s if s > 1e-6 else 0.0 for x, m, s in zip(u, mean, std, strict=True)]
            )
        out.append((view, position, xyz, unit(new, 1e-6)))
    return out


def cells_of(
    tokens: list[Token], voxel_m: float, anchor: str
) -> dict[tuple[int, ...], dict[int, np.ndarray]]:
    """{voxel: {view: unit vector}}."""
    start = np.zeros(3)
    if anchor == "minimum" and tokens:
        start = np.min([t[2] for t in tokens], axis=0)
    held: dict[Any, dict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for view, _, xyz, u in tokens:
        held[voxel_of(xyz, start, voxel_m)][view].append(u)
    return {
        voxel: {
            view: us[0] if len(us) == 1 else unit(np.sum(us, axis=0), 8 * 2.0**-52)
            for view, us in views.items()
        }
        for voxel, views in held.items()
    }


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def pair_lists(
    tokens: list[Token], voxel_m: float, anchor: str, num_views: int, pairs: str
) -> tuple[list[list[float]], list[float], list[float]]:
    """Cosines of matched pairs by group, of random pairs, and of same-position pairs."""
    if pairs == "adjacent":
        groups: list[list[float]] = []
        random: list[float] = []
        position: list[float] = []
        for v in range(num_views - 1):
            some = [t for t in tokens if t[0] in (v, v + 1)]
            by_voxel, more_random, more_position = pair_lists(
                some, voxel_m, anchor, num_views, "all"
            )
            joined = [s for group in by_voxel for s in group]
            groups += [joined] if joined else []
            random += more_random
            position += more_position
        return groups, random, position
    cells = cells_of(tokens, voxel_m, anchor)
    shared = {voxel: views for voxel, views in cells.items() if len(views) > 1}
    groups = [
        [float(views[i] @ views[j]) for i, j in combinations(sorted(views), 2)]
        for views in shared.values()
    ]
    flat = [(voxel, view, u) for voxel, views in shared.items() for view, u in views.items()]
    random = [float(a[2] @ b[2]) for a, b in combinations(flat, 2) if a[0] != b[0] and a[1] != b[1]]
    start = (
        np.min([t[2] for t in tokens], axis=0) if anchor == "minimum" and tokens else np.zeros(3)
    )
    position = [
        float(a[3] @ b[3])
        for a, b in combinations(tokens, 2)
        if a[0] != b[0]
        and a[1] == b[1]
        and voxel_of(a[2], start, voxel_m) != voxel_of(b[2], start, voxel_m)
    ]
    return groups, random, position


def score(
    tokens: list[Token], voxel_m: float, anchor: str, num_views: int, pairs: str
) -> dict[str, Any]:
    groups, random, position = pair_lists(tokens, voxel_m, anchor, num_views, pairs)
    return {
        "consistency": mean([s for group in groups for s in group]),
        "consistency_macro": mean([mean(group) for group in groups]),
        "random": mean(random),
        "same_position": mean(position),
        "counts": (sum(map(len, groups)), len(random), len(position)),
    }


def auroc(matched: list[float], other: list[float]) -> float:
    """Mann-Whitney: how often a matched value beats another; ties count half."""
    wins = sum((m > o) + 0.5 * (m == o) for m in matched for o in other)
    return wins / (len(matched) * len(other))


def recall(tokens: list[Token], i: int, j: int, threshold_m: float) -> list[float]:
    """(possible, nearest, mutual, mutual_right, chance) of the queries of view i in view j.

    Mutual matches count whether their token has a counterpart or not.
    """
    queries, targets = [t for t in tokens if t[0] == i], [t for t in tokens if t[0] == j]
    counts = [0.0] * 5
    for k, q in enumerate(queries):
        near = [math.dist(q[2], t[2]) <= threshold_m for t in targets]
        if not near:
            continue
        best = max(range(len(targets)), key=lambda b, q=q: (float(q[3] @ targets[b][3]), -b))
        back = max(
            range(len(queries)),
            key=lambda a, best=best: (float(queries[a][3] @ targets[best][3]), -a),
        )
        counts[0] += any(near)
        counts[1] += near[best]
        counts[2] += back == k
        counts[3] += near[best] and back == k
        counts[4] += sum(near) / len(targets)
    return counts


def loop_released(
    features: np.ndarray, world_xyz: np.ndarray, valid: np.ndarray, voxel_m: float
) -> float | None:
    """The score alone by looping over view pairs, each voxelised and averaged on its own.

    This is how the released adjacent-pair script scores one pair, repeated for all of them.
    """
    total, count = 0.0, 0
    for i, j in combinations(range(len(valid)), 2):
        sides = []
        for v in (i, j):
            u = features[v][valid[v]].astype(np.float64)
            u /= np.linalg.norm(u, axis=1, keepdims=True)
            voxel = np.floor(world_xyz[v][valid[v]].astype(np.float64) / voxel_m).astype(np.int64)
            side: dict[Any, list[np.ndarray]] = defaultdict(list)
            for key, row in zip(map(tuple, voxel.tolist()), u, strict=True):
                side[key].append(row)
            sides.append(side)
        for key in sides[0].keys() & sides[1].keys():
            a, b = (unit(np.mean(side[key], axis=0)) for side in sides)
            total += float(a @ b)
            count += 1
    return total / count if count else None


def loop_products(
    features: np.ndarray, world_xyz: np.ndarray, valid: np.ndarray, voxel_m: float
) -> tuple[float | None, float | None]:
    """Score and random-pair mean by one matrix product a view pair, with cells made once."""
    tokens = scene_tokens(features, world_xyz, valid)
    views: list[dict[Any, np.ndarray]] = [{} for _ in range(len(valid))]
    for voxel, by_view in cells_of(tokens, voxel_m, "origin").items():
        if len(by_view) > 1:
            for view, vector in by_view.items():
                views[view][voxel] = vector
    names = {voxel: n for n, voxel in enumerate({voxel for view in views for voxel in view})}
    number = [np.array([names[voxel] for voxel in view]) for view in views]
    rows = [np.array(list(view.values())) for view in views]
    sums, counts = [0.0, 0.0], [0, 0]
    for i, j in combinations(range(len(valid)), 2):
        if not len(rows[i]) or not len(rows[j]):
            continue
        cosine = rows[i] @ rows[j].T
        same = number[i][:, None] == number[j][None, :]
        matched = float(cosine[same].sum())
        sums[0] += matched
        sums[1] += float(cosine.sum()) - matched
        counts[0] += int(same.sum())
        counts[1] += same.size - int(same.sum())
    return tuple(s / n if n else None for s, n in zip(sums, counts, strict=True))
