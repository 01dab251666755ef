"""What the probes ask of a scene, from depth and poses alone (and classes, where there are labels).

Letters: V views, h w token grid, n tokens asked about, P pairs of views. Cameras are OpenCV cameras
(x right, y down, z forward), metres.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

PAIR_GAPS = (1, 2)
"""Relative pose is asked of views so far apart in the order of the store."""

LARGEST_TURN_DEG = 175.0
"""Beyond it the rotation vector of a pair is ill defined; such a pair is not asked about."""

_FLAT_LENGTH = 0.95
"""Length of the mean of a token's four normals from which it counts as one surface (the normals
then lie within about 18 degrees of their mean)."""

_MIN_DEPTH_M = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneQuestions:
    """One scene's tokens and pairs, and the right answers."""

    picked: Int[np.ndarray, " n"]
    """(view * h + row) * w + col of each token asked about."""

    log_depth: Float[np.ndarray, "n 1"]
    """Of log metres."""

    normal: Float[np.ndarray, "n 3"]
    """Unit, camera axes, towards the camera; NaN where the token is no single surface."""

    place: Float[np.ndarray, "n 3"]
    """Metres along the world's axes from the middle of what the scene's tokens show."""

    label: Int[np.ndarray, " n"]
    """Class, -1 for none."""

    pairs: Int[np.ndarray, "P 2"]
    """Two views, in both orders."""

    turn: Float[np.ndarray, "P 3"]
    """Rotation vector that turns the second camera's axes into the first's, radians."""

    step: Float[np.ndarray, "P 3"]
    """Where the second camera stands in the first's axes, metres."""


def scene_questions(
    xyz: Float[np.ndarray, "V h w 3"],
    deep: Bool[np.ndarray, "V h w"],
    poses: Float[np.ndarray, "V 4 4"],
    labels: Int[np.ndarray, "V h w"] | None,
    most_tokens: int,
    rng: np.random.Generator,
) -> SceneQuestions:
    """Draw tokens of a scene and say what is asked of them.

    Args:
        xyz: Where the tokens lie in the world, metres; read only where `deep`.
        deep: Tokens with a position.
        poses: world_from_camera; NaN where unknown.
        labels: Class of every token, -1 for none; None without labels.
        most_tokens: Tokens drawn at most.
        rng: Draws them.
    """
    camera = _in_camera(xyz, poses)
    asked = deep & (camera[..., 2] > _MIN_DEPTH_M)
    picked = np.flatnonzero(asked)
    if len(picked) > most_tokens:
        picked = np.sort(rng.choice(picked, most_tokens, replace=False))
    normal = surface_normals(np.where(asked[..., None], camera, np.nan))
    middle = np.median(xyz[asked], axis=0) if asked.any() else np.zeros(3)
    label = np.full(len(picked), -1) if labels is None else labels.reshape(-1)[picked]
    pairs, turn, step = relative_poses(poses)
    return SceneQuestions(
        picked=picked,
        log_depth=np.log(camera[..., 2].reshape(-1)[picked])[:, None],
        normal=normal.reshape(-1, 3)[picked],
        place=(xyz.astype(np.float64) - middle).reshape(-1, 3)[picked],
        label=label.astype(np.int64),
        pairs=pairs,
        turn=turn,
        step=step,
    )


def surface_normals(camera: Float[np.ndarray, "V h w 3"]) -> Float[np.ndarray, "V h w 3"]:
    """Return the unit normal of the surface at every token, NaN where there is no single one.

    The four triangles that a token makes with its neighbours above, below, left and right each have
    a normal; their mean is taken where they agree.

    Args:
        camera: Points in the camera's axes, metres; NaN where there is none.
    """
    padded = np.pad(camera, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    middle = padded[:, 1:-1, 1:-1]
    around = [
        padded[:, 1:-1, 2:] - middle,
        padded[:, 2:, 1:-1] - middle,
        padded[:, 1:-1, :-2] - middle,
        padded[:, :-2, 1:-1] - middle,
    ]
    units = [_unit(np.cross(around[(k + 1) % 4], around[k])) for k in range(4)]
    mean = np.mean(units, axis=0)
    length = np.linalg.norm(mean, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        normal = np.where(length > _FLAT_LENGTH, mean / length, np.nan)
        away = (normal * middle).sum(axis=-1, keepdims=True) > 0
    return np.where(away, -normal, normal)


def relative_poses(
    poses: Float[np.ndarray, "V 4 4"],
) -> tuple[Int[np.ndarray, "P 2"], Float[np.ndarray, "P 3"], Float[np.ndarray, "P 3"]]:
    """Return the pairs of neighbouring views, and the second's turn and step seen from the first.

    Pairs of an unknown pose, and those turned by nearly half a turn, are left out.
    """
    num = len(poses)
    pairs = np.array(
        [(a, b) for gap in PAIR_GAPS for k in range(num - gap) for a, b in _both(k, k + gap)],
        dtype=np.int64,
    ).reshape(-1, 2)
    known = np.isfinite(poses).all(axis=(1, 2))
    pairs = pairs[known[pairs].all(axis=1)]
    first, second = (poses[pairs[:, side]].astype(np.float64) for side in (0, 1))
    a_from_world = np.swapaxes(first[:, :3, :3], 1, 2)
    turn = rotation_vectors(a_from_world @ second[:, :3, :3])
    step = np.einsum("pij,pj->pi", a_from_world, second[:, :3, 3] - first[:, :3, 3])
    asked = np.linalg.norm(turn, axis=1) < np.radians(LARGEST_TURN_DEG)
    return pairs[asked], turn[asked], step[asked]


def rotation_vectors(rotation: Float[np.ndarray, "P 3 3"]) -> Float[np.ndarray, "P 3"]:
    """Return axis times angle, radians; exact away from half a turn."""
    skew = rotation - np.swapaxes(rotation, 1, 2)
    twice = np.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], axis=1)  # 2 sin(angle) axis
    sine = np.linalg.norm(twice, axis=1) / 2
    cosine = (np.trace(rotation, axis1=1, axis2=2) - 1) / 2
    angle = np.arctan2(sine, cosine)
    scale = np.divide(angle, 2 * sine, out=np.full_like(angle, 0.5), where=sine > 1e-9)
    found: np.ndarray = twice * scale[:, None]
    return found


def _both(a: int, b: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (a, b), (b, a)


def _in_camera(
    xyz: Float[np.ndarray, "V h w 3"], poses: Float[np.ndarray, "V 4 4"]
) -> Float[np.ndarray, "V h w 3"]:
    """Carry points from the world into their own view's camera; NaN where a pose is unknown."""
    away = xyz.astype(np.float64) - poses[:, None, None, :3, 3]
    found: np.ndarray = np.einsum("vji,vhwj->vhwi", poses[:, :3, :3].astype(np.float64), away)
    return found


def _unit(vectors: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = np.where(length > 0, vectors / length, np.nan)
    return found
