"""A page on which a token is pointed at, and each store shows where it finds the same elsewhere.

What is shown for one token is an anecdote; beside each row stands how often it is right for all of
them, and how often chance would be. The page needs no network and no other file: it holds every
token's coordinates along the scene's first principal components, of which products are cosines.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from vega3d.evaluate.cells import Tokens
from vega3d.evaluate.config import ExploreConfig, ReportConfig, TapsConfig, Treatment
from vega3d.evaluate.nearest import coded, found, random_mean
from vega3d.evaluate.panels import HEAT_MAP, picture_uri
from vega3d.evaluate.proof import prove, warnings
from vega3d.evaluate.sources import (
    Comparison,
    Source,
    open_sources,
    opened,
    plan_comparison,
    some,
)
from vega3d.evaluate.treatments import ChannelSums, channel_sums, treat
from vega3d.evaluate.units import read_geometry, read_tokens
from vega3d.pipeline.errors import SceneError, UsageError
from vega3d.pipeline.files import write_whole
from vega3d.pipeline.pages import page_of

Sums = dict[tuple[str, str], dict[str, ChannelSums]]
"""By store's label and tap, of each scene."""

TREATMENTS: tuple[Treatment, ...] = ("centred", "raw")
"""What the page can show; the first is what it begins with."""

_MOST_TOKENS = 16_384
"""Of a scene: 80 views of 14 x 14. Each is compared with each."""

_LOST = 0.02
"""Share right by which the components kept may be off the features."""

_FEW = 0.1
"""Share of the questions that must have an answer, or the shares say little."""


@dataclass(frozen=True, slots=True)
class Explored:
    """What `explore` wrote and found."""

    html: Path
    comparison: Comparison
    scenes: tuple[dict[str, Any], ...]
    """Of each scene shown: `scene`, and its `rows` with each treatment's numbers."""

    left_out: dict[str, str]
    """Scenes that are not in all stores or cannot be shown, with the reason."""

    notes: tuple[str, ...]
    """What a person should know before believing what is shown."""


def explore(
    stores: Sequence[str],
    out: str | Path,
    config: ExploreConfig | None = None,
    chosen: TapsConfig | None = None,
    scenes: Sequence[str] = (),
) -> Explored:
    """Write `explore.html` and `explore.json` for some scenes that all stores hold.

    Args:
        stores: Paths or URLs, each alone or as `label=url`.
        out: Folder.
        config: How many scenes and views, and what counts as right.
        chosen: Which taps are shown; all without it.
        scenes: Those to show; the first ones where none is named.

    Raises:
        UsageError: No scene can be shown, or one is named that not all stores hold.
    """
    config = config or ExploreConfig()
    comparison = plan_comparison(open_sources(stores, chosen))
    named = _scenes(comparison, scenes, config.scenes_shown)
    sums = _sums(comparison, named, config)
    shown, left_out = [], dict(comparison.left_out)
    for scene_id in named:
        try:
            shown.append(_scene(comparison, scene_id, sums, config))
        except SceneError as error:
            left_out[scene_id] = str(error)
    if not shown:
        raise UsageError(f"no scene can be shown: {'; '.join(left_out.values())}")
    names = [scene["scene"] for scene in shown]
    notes = (*comparison.notes, *warnings(prove(comparison.sources, names)), *_weak(shown, config))
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{out}: no folder can be made there ({error.strerror}); choose another --out"
        ) from error
    numbers = tuple(_numbers(scene) for scene in shown)
    write_whole(folder / "explore.json", (json.dumps(numbers, indent=1) + "\n").encode())
    html = folder / "explore.html"
    write_whole(html, _page(comparison, shown, notes, config).encode())
    return Explored(html, comparison, numbers, left_out, notes)


def _scenes(comparison: Comparison, asked: Sequence[str], most: int) -> list[str]:
    held = list(comparison.views)
    if unknown := [scene_id for scene_id in asked if scene_id not in comparison.views]:
        why = comparison.left_out.get(unknown[0], "no store holds it")
        raise UsageError(f"--scene {unknown[0]}: {why}; the stores share {some(held, 5)}")
    return list(dict.fromkeys(asked)) or held[:most]


def _sums(comparison: Comparison, named: Sequence[str], config: ExploreConfig) -> Sums:
    """Sum the channels of each scene's unit tokens; one that cannot be read says so in its turn."""
    sums: Sums = {}
    for source in comparison.sources:
        for scene_id in named:
            with suppress(SceneError):
                for tap, tokens in _tokens(comparison, source, scene_id, config):
                    sums.setdefault((source.label, tap), {})[scene_id] = channel_sums(tokens.unit)
    return sums


def _scene(
    comparison: Comparison, scene_id: str, sums: Sums, config: ExploreConfig
) -> dict[str, Any]:
    """Return a scene as the page's script reads it."""
    views = _middle(comparison.views[scene_id], config.views_shown)
    first = comparison.sources[0]
    store = opened(first.urls, first.digest)
    rows_of = {view: row for row, view in enumerate(store.view_ids(scene_id))}
    preview = store.preview(scene_id)
    height, width = (int(side) for side in store.image_size(scene_id)[0])
    return {
        "scene": scene_id,
        "views": list(views),
        "aspect": width / height if height else 1.0,
        "pictures": [picture_uri(preview[rows_of[view]], photo=True) for view in views],
        "rows": list(_rows(comparison, scene_id, sums, config)),
    }


def _rows(
    comparison: Comparison, scene_id: str, sums: Sums, config: ExploreConfig
) -> Iterator[dict[str, Any]]:
    for source in comparison.sources:
        for tap, tokens in _tokens(comparison, source, scene_id, config):
            if not len(tokens.view):
                raise SceneError(
                    f"{scene_id}: no token of {source.label} has a position: it has no depth or "
                    "no poses"
                )
            if len(tokens.view) > _MOST_TOKENS:
                raise UsageError(
                    f"{scene_id}: {len(tokens.view)} tokens of {source.label} are more than the "
                    f"{_MOST_TOKENS} that a page compares at once; show fewer --views-shown"
                )
            each = sums[source.label, tap]
            others = [one for name, one in each.items() if name != scene_id]
            yield {
                "label": source.label,
                "tap": tap,
                "grid": list(source.grid),
                "count": len(tokens.view),
                "at": _base64(_places(tokens, source.grid), "<i4"),
                "xyz": _base64(tokens.xyz, "<f4"),
                "centred_on": "other scenes" if others else "this scene",
                **_treated(tokens, reduce(add, others or [each[scene_id]]), config),
            }


def _tokens(
    comparison: Comparison, source: Source, scene_id: str, config: ExploreConfig
) -> Iterator[tuple[str, Tokens]]:
    """Yield each tap's tokens of the views of a scene that are shown."""
    views = _middle(comparison.views[scene_id], config.views_shown)
    told = ReportConfig(min_depth_share=config.min_depth_share)
    geometry = read_geometry(source.urls, source.digest, scene_id, views, told)
    for tap in source.taps:
        yield tap, read_tokens(source.urls, source.digest, scene_id, tap, geometry)


def _treated(tokens: Tokens, sums: ChannelSums, config: ExploreConfig) -> dict[str, Any]:
    """Return how often a row's features are right, and each treatment as the script reads it."""
    units: dict[str, np.ndarray] = {name: treat(tokens.unit, name, sums, 0) for name in TREATMENTS}
    small = {name: coded(unit, config.dims) for name, unit in units.items()}
    kept = {f"{name} kept": one.codes.astype(np.float32) * one.step for name, one in small.items()}
    told = found({**units, **kept}, tokens, config.reach_m)
    return {
        "asked": told.asked,
        "same_place": told.same_place,
        "chance": told.chance,
        "treatments": {
            name: {
                "codes": _base64(small[name].codes, "<i2"),
                "step": small[name].step,
                "error": small[name].error,
                "random": random_mean(unit, tokens),
                "right": told.right[name],
                "right_kept": told.right[f"{name} kept"],
            }
            for name, unit in units.items()
        },
    }


def _weak(scenes: Sequence[dict[str, Any]], config: ExploreConfig) -> Iterator[str]:
    """Yield what makes the shares of a scene, or the circles on the page, say little."""
    for scene in scenes:
        for each in scene["rows"]:
            shown = each["treatments"][TREATMENTS[0]]
            if abs((shown["right"] or 0.0) - (shown["right_kept"] or 0.0)) > _LOST:
                yield (
                    f"{scene['scene']}, {each['label']} {each['tap']}: {config.dims} components "
                    f"find {shown['right_kept']:.0%} right where the features find "
                    f"{shown['right']:.0%}: circles are those of the components (--dims)."
                )
        row = scene["rows"][0]
        most = row["count"] * (len(scene["views"]) - 1)
        if row["asked"] < _FEW * most:
            yield (
                f"{scene['scene']}: only {row['asked']} of {most} questions have an answer within "
                f"{config.reach_m} m: its views share little, or its tokens lie farther apart "
                "(--reach-m)."
            )


def _middle(views: Sequence[str], most: int) -> tuple[str, ...]:
    """Return neighbouring views, from the middle of the scene."""
    start = max((len(views) - most) // 2, 0)
    return tuple(views[start : start + most])


def _places(tokens: Tokens, grid: tuple[int, int]) -> np.ndarray:
    """Return the token at each place of each view, -1 where none is valid."""
    table = np.full((tokens.num_views, grid[0] * grid[1]), -1)
    table[tokens.view, tokens.position] = np.arange(len(tokens.view))
    return table


def _base64(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()


def _numbers(scene: dict[str, Any]) -> dict[str, Any]:
    """Return what the JSON keeps of a scene: its numbers, without codes and pictures."""
    of_row = ("label", "tap", "asked", "same_place", "chance", "centred_on")
    of_treatment = ("right", "right_kept", "random", "error")
    return {
        "scene": scene["scene"],
        "views": scene["views"],
        "rows": [
            {
                **{name: row[name] for name in of_row},
                **{
                    treatment: {name: told[name] for name in of_treatment}
                    for treatment, told in row["treatments"].items()
                },
            }
            for row in scene["rows"]
        ],
    }


def _page(
    comparison: Comparison,
    scenes: Sequence[dict[str, Any]],
    notes: Sequence[str],
    config: ExploreConfig,
) -> str:
    from markupsafe import Markup

    colours = np.round(mpl.colormaps[HEAT_MAP](np.linspace(0, 1, 256))[:, :3] * 255).astype(int)
    data = {"scenes": scenes, "reach_m": config.reach_m, "colours": colours.tolist()}
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    worst = max(
        told["error"]
        for scene in scenes
        for row in scene["rows"]
        for told in row["treatments"].values()
    )
    return page_of(
        "vega3d.evaluate",
        "templates/explore.html",
        comparison=comparison,
        notes=notes,
        treatments=TREATMENTS,
        scenes=[scene["scene"] for scene in scenes],
        config=config,
        worst=f"{worst:.2g}",
        data=Markup(text),
    )
