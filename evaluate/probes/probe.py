"""Probes of stores: what simple maps read from their features. Open `probe` first.

Every scene is scored by probes fitted on other scenes, never on other views of its own: a room's
own places and surfaces would be remembered. Letters: N tokens, S scenes, D numbers asked for.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Int

from vega3d.evaluate.config import TapsConfig, digest_of
from vega3d.evaluate.partials import Partial, Partials, array_name
from vega3d.evaluate.probes.config import PROBE_VERSION, ProbeConfig
from vega3d.evaluate.probes.crossfit import (
    Asked,
    principal,
    read_by_mlp,
    read_linearly,
    split_scenes,
)
from vega3d.evaluate.probes.labels import Labels, check_same_rooms, labels_digest, open_labels
from vega3d.evaluate.probes.parts import Part, SceneSums, in_two_folds
from vega3d.evaluate.probes.reading import SourceQuestions, TapReading, ask, pair_views, read_tap
from vega3d.evaluate.probes.summary import ProbeRow, ProbeSummary, row_of
from vega3d.evaluate.progress import progress
from vega3d.evaluate.sources import Comparison, Source, open_sources, plan_comparison
from vega3d.pipeline.errors import UsageError


def probe(
    stores: Sequence[str],
    config: ProbeConfig | None = None,
    taps: TapsConfig | None = None,
    *,
    labels: str = "",
    kept: Partials | None = None,
) -> ProbeSummary:
    """Say what is readable from every tap of the stores; `page.write_probe` writes it down.

    Args:
        stores: Folders or URLs, each alone or as `label=url`.
        config: What decides the numbers.
        taps: Which taps.
        labels: A label store, or `rooms:...`; "" asks for no class.
        kept: Where the readings of a tap are kept, so that a second call goes on; None keeps none.

    Raises:
        UsageError: There is nothing to read, or a single scene: scenes cannot be split.
    """
    config = config or ProbeConfig()
    sources = open_sources(stores, taps or TapsConfig())
    comparison = plan_comparison(sources)
    if len(comparison.views) < 2:
        raise UsageError("probes are fitted on some scenes and scored on others: 2 at least")
    for source in comparison.sources:
        for url in source.urls:
            check_same_rooms(labels, url, comparison.views)
    known = open_labels(labels) if labels else None
    asked = Asking(comparison=comparison, labels=known, named=labels_digest(labels), config=config)
    rows: list[ProbeRow] = []
    with progress("probed", sum(len(s.taps) for s in comparison.sources)) as step:
        for source in comparison.sources:
            for row in probe_source(source, asked, kept, controls=not rows):
                rows.append(row)
                if not row.control:
                    step()
    return ProbeSummary(comparison=comparison, config=config, rows=tuple(rows), labels=labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What is asked of every store alike."""

    comparison: Comparison
    labels: Labels | None
    named: str
    """What the labels are, in a key."""
    config: ProbeConfig

    def key(self, source: Source, tap: str) -> str:
        """Return the name of a tap's readings: what decides them."""
        settings = {k: v for k, v in asdict(self.config).items() if k != "bootstrap_samples"}
        views = [(scene, list(ids)) for scene, ids in self.comparison.views.items()]
        decides = [PROBE_VERSION, settings, source.digest, tap, views, self.named]
        return f"probe-{digest_of(decides)}"


def probe_source(
    source: Source, asked: Asking, kept: Partials | None, *, controls: bool
) -> Iterator[ProbeRow]:
    """Yield a row a tap; with `controls`, those that see position alone and nothing first."""
    config = asked.config
    held: list[SourceQuestions] = []  # asked once, and not at all where every reading is kept

    def read(tap: str) -> SceneSums:
        if not held:
            held.append(ask(source, asked.comparison, asked.labels, config))
        if not held[0].joined("picked").size:
            raise UsageError(
                f"{source.label}: no token has a position; its scenes lack depth or poses"
            )
        return probe_tap(held[0], read_tap(held[0], tap), config)

    for tap in source.taps:
        sums = (
            read(tap) if kept is None else _kept(kept, asked.key(source, tap), partial(read, tap))
        )
        if controls:
            yield row_of("nothing", "the mean", sums, ("blind",), config)
            yield row_of("position in the grid", "alone", sums, ("position",), config)
            controls = False
        yield row_of(source.label, tap, sums, ("ridge", "mlp", "both", "position"), config)


def _kept(kept: Partials, key: str, read: Callable[[], SceneSums]) -> SceneSums:
    """Return a tap's readings: as they were kept, or read and kept."""
    if not kept.has(key):
        sums = read()
        kept.write(key, Partial({}, {array_name(*name): table for name, table in sums.items()}))
    found = {}
    for name, table in kept.arrays(key).items():
        reader, question = json.loads(name)
        found[reader, question] = table
    return found


def probe_tap(questions: SourceQuestions, reading: TapReading, config: ProbeConfig) -> SceneSums:
    """Fit and score every reader on every question of one tap."""
    scene_fold = split_scenes(len(questions.scenes), config.folds, config.seed)
    return {
        **_probe_tokens(questions, reading, scene_fold, config),
        **_probe_pairs(questions, reading, scene_fold, config),
    }


def _probe_tokens(
    questions: SourceQuestions,
    reading: TapReading,
    scene_fold: Int[np.ndarray, " S"],
    config: ProbeConfig,
) -> SceneSums:
    """Read what is asked of single tokens; each question on the tokens that have an answer."""
    grid = questions.source.grid
    scene = questions.scene_of("picked")
    asked = Asked(
        x=torch.from_numpy(reading.x),
        fold=torch.from_numpy(scene_fold[scene]),
        position=torch.from_numpy(questions.joined("picked") % (grid[0] * grid[1])),
        num_positions=grid[0] * grid[1],
    )
    parts = _token_parts(questions, reading)
    sums = _read_parts(asked, parts, scene, len(scene_fold), config)
    if config.mlp_hidden and in_two_folds(asked.fold[torch.from_numpy(reading.seen)]):
        sums |= _mlp_parts(asked, parts, reading.seen, scene, len(scene_fold), config)
    return sums


def _probe_pairs(
    questions: SourceQuestions,
    reading: TapReading,
    scene_fold: Int[np.ndarray, " S"],
    config: ProbeConfig,
) -> SceneSums:
    """Read the relative pose of neighbouring views from the components of their quarters.

    The components are those of the views that are fitted, so each fold has inputs of its own.
    """
    views, whole = pair_views(questions, reading)
    scene = questions.scene_of("pairs")
    part = Part(("turn", "step"), (questions.joined("turn"), questions.joined("step")), whole)
    quarters = torch.from_numpy(reading.quarters)
    sums: SceneSums = {}
    view_fold = torch.from_numpy(scene_fold[reading.view_scene()])
    seen = torch.from_numpy(np.isfinite(reading.quarters).all(axis=(1, 2)))
    for fold in np.unique(scene_fold[scene[whole]]).tolist():
        known = quarters[seen & (view_fold != fold)].flatten(0, 1)
        cells = principal(quarters.flatten(0, 1), known, config.pose_components)
        per_view = cells.reshape(len(quarters), -1)
        asked = Asked(
            x=per_view[torch.from_numpy(views)].flatten(1),
            fold=torch.from_numpy(scene_fold[scene]),
            scored=fold,
        )
        found = _read_parts(asked, [part], scene, len(scene_fold), config)
        if config.mlp_hidden and found:
            found |= _mlp_parts(asked, [part], whole, scene, len(scene_fold), config)
        for key, values in found.items():
            sums[key] = sums[key] + values if key in sums else values
    return sums


def _token_parts(questions: SourceQuestions, reading: TapReading) -> list[Part]:
    normal, label = questions.joined("normal"), questions.joined("label")
    classes = np.unique(label[label >= 0])
    flat = reading.seen & np.isfinite(normal).all(axis=1)
    parts = [
        Part(
            ("depth", "place"), (questions.joined("log_depth"), questions.joined("place")),
            reading.seen,
        ),
        Part(("normal",), (normal,), flat),
    ]  # fmt: skip
    if len(classes) > 1:
        one_hot = (label[:, None] == classes).astype(np.float64)
        parts.append(Part(("class",), (one_hot,), reading.seen & (label >= 0)))
    return parts


def _read_parts(
    asked: Asked,
    parts: Sequence[Part],
    scene: Int[np.ndarray, " N"],
    num_scenes: int,
    config: ProbeConfig,
) -> SceneSums:
    """Read every part by ridges, and sum what comes of it."""
    sums: SceneSums = {}
    for part in parts:
        rows = torch.from_numpy(part.rows)
        if not in_two_folds(asked.fold[rows]):
            continue
        said = read_linearly(asked.where(rows), part.y[rows], part.columns(), config.strengths)
        for kind, values in said.items():
            sums |= part.sums(kind, values, scene, num_scenes)
    return sums


def _mlp_parts(
    asked: Asked,
    parts: Sequence[Part],
    seen: Bool[np.ndarray, " N"],
    scene: Int[np.ndarray, " N"],
    num_scenes: int,
    config: ProbeConfig,
) -> SceneSums:
    """Read all parts by one MLP a fold: its hidden layer serves every question."""
    rows = torch.from_numpy(seen)
    numbers = [part for part in parts if part.names != ("class",)]
    wanted = torch.cat([part.y.where(part.held, torch.nan) for part in numbers], 1)
    label, classes = None, 0
    for part in parts:
        if part.names == ("class",):
            classes = part.y.shape[1]
            label = torch.where(part.held[:, 0], part.y.argmax(1), -1)[rows]
    said = torch.full((len(asked.x), wanted.shape[1] + classes), torch.nan)
    ends = np.cumsum([0, *(answer.shape[1] for part in numbers for answer in part.answers)])
    questions = [slice(a, b) for a, b in pairwise(ends.tolist())]
    said[rows] = read_by_mlp(asked.where(rows), wanted[rows], label, classes, questions, config)
    sums: SceneSums = {}
    start = 0
    for part in parts:  # classes come last
        width = part.y.shape[1]
        values = said[torch.from_numpy(part.rows), start : start + width]
        sums |= part.sums("mlp", values, scene, num_scenes)
        start += width
    return sums
