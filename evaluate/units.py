"""The two functions that are mapped over units: sum channels, then score.

A unit is the scenes of one shard, so each shard is read by one task. A task takes small plain
values and gives small arrays back; it opens the store itself. Two passes are needed because the
centred, standardised and trimmed treatments take their statistics from all OTHER scenes: the first
pass sums them over the data set, the second takes a scene's own share out again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vega3d.evaluate.cells import Tokens, gather_tokens
from vega3d.evaluate.config import SCORE_VERSION, ReportConfig, digest_of
from vega3d.evaluate.metrics import scene_counts, scene_metrics
from vega3d.evaluate.partials import Partial, array_name
from vega3d.evaluate.scores import SceneScores, score_tokens
from vega3d.evaluate.sources import Comparison, Source, opened
from vega3d.evaluate.treatments import ChannelSums, channel_sums
from vega3d.pipeline.errors import SceneError, StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTask:
    """What one task reads; small and picklable."""

    urls: tuple[str, ...]
    digest: str
    """Of the store."""
    scenes: tuple[tuple[str, tuple[str, ...]], ...]
    """Scene and its views, in the order to be scored."""
    taps: tuple[str, ...]
    second: tuple[tuple[str, str], ...]
    """Tap and the tap of its second noise sample."""
    config: ReportConfig

    def key(self, step: str, after: str = "") -> str:
        """Return the name of this task's partial result; `after` is the digest of its inputs."""
        settings = asdict(self.config)
        for name in ("bootstrap_samples", "bootstrap_seed"):
            del settings[name]  # these decide nothing here
        decides = [SCORE_VERSION, self.digest, self.scenes, self.taps, self.second, settings]
        return f"{step}-{digest_of([*decides, after])}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneGeometry:
    """Where a scene's tokens are, before any feature is read."""

    view_rows: list[int]
    xyz: Float[np.ndarray, "V h w 3"]
    deep: Bool[np.ndarray, "V h w"]
    """Tokens with enough depth and a finite position; none of a view that repeats another."""
    poses: Float[np.ndarray, "V 4 4"]
    num_repeated: int
    """Views whose tokens all lie exactly where another view's do: one view that came twice."""


def plan_tasks(source: Source, comparison: Comparison, config: ReportConfig) -> list[UnitTask]:
    """Return the tasks of a store in the order of its units; units without a scene are left out."""
    tasks = []
    for unit in source.units:
        scenes = tuple((s, comparison.views[s]) for s in unit if s in comparison.views)
        if scenes:
            tasks.append(
                UnitTask(
                    urls=source.urls,
                    digest=source.digest,
                    scenes=scenes,
                    taps=source.taps,
                    second=tuple(source.second.items()),
                    config=config,
                )
            )
    return tasks


def sum_unit(task: UnitTask) -> Partial:
    """First pass: sum the channels of the unit's unit tokens, tap by tap."""
    arrays: dict[str, np.ndarray] = {}
    counts = dict.fromkeys(task.taps, 0)
    for _, tap, tokens, _ in _tokens(task, {}):
        sums = channel_sums(tokens.unit)
        counts[tap] += sums.count
        for name, value in (("total", sums.total), ("squares", sums.squares)):
            key = f"{tap}/{name}"
            arrays[key] = arrays[key] + value if key in arrays else value
    return Partial({"counts": counts}, arrays)


def score_unit(task: UnitTask, totals: Mapping[str, ChannelSums]) -> Partial:
    """Second pass: score every scene of the unit with every tap.

    Args:
        task: What to read.
        totals: By tap: the channels summed over every scene of the store that is compared.
    """
    failures: dict[str, str] = {}
    scenes: dict[str, dict[str, Any]] = {}
    arrays: dict[str, np.ndarray] = {}
    second = dict(task.second)
    for scene_id, tap, tokens, geometry in _tokens(task, failures):
        try:
            again = None
            if tap in second:
                again = _features(task, scene_id, second[tap], geometry, tokens)
            scores = score_tokens(
                tokens,
                task.config.voxel_m,
                geometry.poses,
                task.config.score,
                again=again,
                others=totals[tap] - channel_sums(tokens.unit),
            )
        except (SceneError, StoreError) as error:
            failures[scene_id] = str(error)
            continue
        scenes.setdefault(scene_id, {})[tap] = {
            "reason": scores.reason,
            "metrics": scene_metrics(scores, task.config.score),
            "counts": scene_counts(scores)
            | {
                "num_cells_of_grid": int(geometry.deep.size),
                "num_repeated_views": geometry.num_repeated,
            },
            "centred_on": scores.centred_on,
            "trimmed_channels": list(scores.trimmed_channels),
        }
        arrays |= _scene_arrays(scene_id, tap, scores)
    return Partial({"scenes": scenes, "failures": failures}, arrays)


def read_geometry(
    urls: tuple[str, ...], digest: str, scene_id: str, views: tuple[str, ...], config: ReportConfig
) -> SceneGeometry:
    """Read where the tokens of the chosen views lie, and which of them have enough depth."""
    store = opened(urls, digest)
    place = {view: row for row, view in enumerate(store.view_ids(scene_id))}
    rows = [place[view] for view in views]
    median = config.position == "median"
    xyz = (store.world_xyz if median else store.center_xyz)(scene_id)[rows]
    share = store.depth_share(scene_id)[rows]
    deep = (share >= config.min_depth_share) & np.isfinite(xyz).all(axis=-1)
    deep &= store.coverage(scene_id)[rows] > 0
    repeated = _repeated(xyz, deep)
    deep[repeated] = False
    return SceneGeometry(
        view_rows=rows,
        xyz=xyz,
        deep=deep,
        poses=store.world_from_camera(scene_id)[rows],
        num_repeated=len(repeated),
    )


def read_tokens(
    urls: tuple[str, ...], digest: str, scene_id: str, tap: str, geometry: SceneGeometry
) -> Tokens:
    """Read the features of the chosen views; a token that a crop hid (NaN) is not valid."""
    features = opened(urls, digest).features(scene_id, tap)[geometry.view_rows]
    valid = geometry.deep & ~np.isnan(features).any(axis=-1)
    return gather_tokens(features, geometry.xyz, valid)


def _repeated(xyz: Float[np.ndarray, "V h w 3"], deep: Bool[np.ndarray, "V h w"]) -> list[int]:
    """Return the views that have valid tokens, all exactly where an earlier view has them.

    Two views of a scene never do, and one that is compared with itself agrees whatever it holds.
    """
    first: dict[bytes, int] = {}
    placed = np.where(deep[..., None], xyz, np.nan)
    return [
        view
        for view, places in enumerate(placed)
        if deep[view].any() and first.setdefault(places.tobytes(), view) != view
    ]


def _tokens(
    task: UnitTask, failures: dict[str, str]
) -> Iterator[tuple[str, str, Tokens, SceneGeometry]]:
    """Read scene by scene, tap by tap; a scene that cannot be read is noted and passed over."""
    for scene_id, views in task.scenes:
        try:
            geometry = read_geometry(task.urls, task.digest, scene_id, views, task.config)
            for tap in task.taps:
                yield (
                    scene_id,
                    tap,
                    read_tokens(task.urls, task.digest, scene_id, tap, geometry),
                    geometry,
                )
        except (SceneError, StoreError) as error:
            failures[scene_id] = str(error)


def _features(
    task: UnitTask, scene_id: str, tap: str, geometry: SceneGeometry, tokens: Tokens
) -> Float[np.ndarray, "N C"]:
    """Read another sample of the same tokens, of length one."""
    again = read_tokens(task.urls, task.digest, scene_id, tap, geometry)
    if again.unit.shape != tokens.unit.shape:
        raise SceneError(f"{scene_id}: {tap} has other tokens than its first sample")
    return again.unit


def _scene_arrays(scene_id: str, tap: str, scores: SceneScores) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, separation in scores.separation.items():
        arrays[array_name(scene_id, tap, name, "matched")] = separation.matched
        arrays[array_name(scene_id, tap, name, "other")] = separation.other
    for name, recall in scores.recall.items():
        arrays[array_name(scene_id, tap, name, "by_rotation")] = recall.by_rotation
        arrays[array_name(scene_id, tap, name, "by_overlap")] = recall.by_overlap
    return arrays
