"""What the probes read of a store: questions once, then one tap after the other.

Letters: S scenes, V views, h w token grid, n tokens of a scene, N of all, C channels, P pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

from vega3d.evaluate.config import ReportConfig
from vega3d.evaluate.probes.config import ProbeConfig
from vega3d.evaluate.probes.labels import Labels
from vega3d.evaluate.probes.questions import SceneQuestions, scene_questions
from vega3d.evaluate.sources import Comparison, Source, opened
from vega3d.evaluate.units import read_geometry


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceQuestions:
    """What is asked of every scene of a store, in the comparison's order."""

    source: Source
    scenes: tuple[str, ...]
    view_rows: tuple[list[int], ...]
    """Rows of the compared views in the store."""
    asked: tuple[SceneQuestions, ...]

    def joined(self, name: str) -> np.ndarray:
        """Return one kind of answer of all scenes, one after the other."""
        return np.concatenate([getattr(one, name) for one in self.asked])

    def scene_of(self, name: str) -> Int64[np.ndarray, " N"]:
        """Return the scene that each of these answers is of."""
        counts = [len(getattr(one, name)) for one in self.asked]
        return np.repeat(np.arange(len(counts)), counts)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TapReading:
    """What one tap holds of what is asked."""

    x: Float32[np.ndarray, "N C"]
    seen: Bool[np.ndarray, " N"]
    """False for a token that a crop hid."""
    quarters: Float32[np.ndarray, "views 4 C"]
    """Mean of each quarter of each view; NaN where a crop hid all of it."""
    first_view: Int64[np.ndarray, " S"]
    """Where a scene's views begin among `quarters`."""

    def view_scene(self) -> Int64[np.ndarray, " views"]:
        """Return the scene of each row of `quarters`."""
        rows = np.arange(len(self.quarters))
        return np.searchsorted(self.first_view, rows, side="right") - 1


def ask(
    source: Source, comparison: Comparison, labels: Labels | None, config: ProbeConfig
) -> SourceQuestions:
    """Draw the tokens of every scene and say what is asked of them."""
    rule = ReportConfig(min_depth_share=config.min_depth_share)
    most = max(1, config.max_tokens // len(comparison.views))
    asked, view_rows = [], []
    for place, (scene_id, views) in enumerate(comparison.views.items()):
        geometry = read_geometry(source.urls, source.digest, scene_id, views, rule)
        known = None if labels is None else labels(scene_id, views, source.grid)
        rng = np.random.default_rng([config.seed, place])
        asked.append(scene_questions(geometry.xyz, geometry.deep, geometry.poses, known, most, rng))
        view_rows.append(geometry.view_rows)
    return SourceQuestions(
        source=source,
        scenes=tuple(comparison.views),
        view_rows=tuple(view_rows),
        asked=tuple(asked),
    )


def read_tap(questions: SourceQuestions, tap: str) -> TapReading:
    """Read the tokens that are asked about, and the mean of each quarter of each view."""
    store = opened(questions.source.urls, questions.source.digest)
    tokens, quarters = [], []
    for scene_id, rows, asked in zip(
        questions.scenes, questions.view_rows, questions.asked, strict=True
    ):
        features = store.features(scene_id, tap)[rows]
        tokens.append(features.reshape(-1, features.shape[-1])[asked.picked].astype(np.float32))
        quarters.append(quarter_means(features))
    x = np.concatenate(tokens)
    counts = [len(part) for part in quarters]
    return TapReading(
        x=x,
        seen=np.isfinite(x).all(axis=1),
        quarters=np.concatenate(quarters),
        first_view=np.cumsum([0, *counts[:-1]]),
    )


def quarter_means(features: Float32[np.ndarray, "V h w C"]) -> Float32[np.ndarray, "V 4 C"]:
    """Return the mean of the seen tokens of each quarter of each view; NaN where there is none."""
    rows, cols = (_halves(size) for size in features.shape[1:3])
    found = np.full((len(features), 4, features.shape[-1]), np.nan, np.float32)
    for place, (r, c) in enumerate((r, c) for r in rows for c in cols):
        cells = features[:, r, c].reshape(len(features), -1, features.shape[-1])
        for view, tokens in enumerate(cells):
            seen = tokens[np.isfinite(tokens).all(axis=1)]
            if len(seen):
                found[view, place] = seen.astype(np.float64).mean(axis=0)
    return found


def pair_views(
    questions: SourceQuestions, reading: TapReading
) -> tuple[Int[np.ndarray, "P 2"], Bool[np.ndarray, " P"]]:
    """Return the rows of `quarters` of each pair, and which pairs are seen whole."""
    rows = questions.joined("pairs") + reading.first_view[questions.scene_of("pairs")][:, None]
    whole = np.isfinite(reading.quarters).all(axis=(1, 2))
    return rows, whole[rows].all(axis=1)


def _halves(size: int) -> Sequence[slice]:
    middle = max(1, size // 2)
    return slice(0, middle), slice(min(middle, size - 1), size)
