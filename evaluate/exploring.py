"""A page on which a token is pointed at, and each store shows where it finds the same elsewhere.

What is shown for one token is an anecdote; beside each row stands how often it is right for all of
them, and how often chance would be. The page needs no network and no other file: it holds every
token's coordinates along the scene's first principal components, of which products are cosines.
Letters: N tokens of all views, C channels, D components.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Float64, Int16

from vega3d.evaluate.cells import Tokens
from vega3d.evaluate.config import ExploreConfig, ReportConfig, TapsConfig, Treatment
from vega3d.evaluate.panels import HEAT_MAP, picture_uri
from vega3d.evaluate.sources import Comparison, Source, open_sources, opened, plan_comparison
from vega3d.evaluate.treatments import ChannelSums, channel_sums, treat
from vega3d.evaluate.units import read_geometry, read_tokens
from vega3d.pipeline.errors import SceneError, UsageError
from vega3d.pipeline.files import write_whole
from vega3d.pipeline.pages import page_of

TREATMENTS: tuple[Treatment, ...] = ("centred", "raw")
"""What the page can show; the first is what it begins with."""

_ROWS = 512
"""Tokens that are compared with all others at a time."""


@dataclass(frozen=True, slots=True)
class Explored:
    """What `explore` wrote and found."""

    html: Path
    comparison: Comparison
    scenes: tuple[dict[str, Any], ...]
    """Of each scene shown: `scene`, and its `rows` with each treatment's numbers."""

    left_out: dict[str, str]
    """Scenes that were to be shown and cannot be, with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coded:
    """Unit tokens as few whole numbers, whose products are their cosines."""

    codes: Int16[np.ndarray, "N D"]
    step: float
    """A cosine is step^2 times the product of two tokens' codes."""

    error: float
    """The most by which such a cosine is wrong, over all pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How often the most similar token of another view is the same point."""

    asked: int
    """Tokens, once for each other view in which some token lies within reach."""

    right: float | None
    """Share of these for which the most similar one lies within reach; None where none is asked."""

    chance: float | None
    """The same share for a token of that view drawn at random."""


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
    shown, left_out = [], {}
    for scene_id in named:
        try:
            shown.append(_scene(comparison, scene_id, named, config))
        except SceneError as error:
            left_out[scene_id] = str(error)
    if not shown:
        raise UsageError(f"no scene can be shown: {'; '.join(left_out.values())}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = tuple(_numbers(scene) for scene in shown)
    write_whole(folder / "explore.json", (json.dumps(numbers, indent=1) + "\n").encode())
    html = folder / "explore.html"
    write_whole(html, _page(comparison, shown, config).encode())
    return Explored(html, comparison, numbers, left_out)


def coded(unit: Float[np.ndarray, "N C"], dims: int) -> Coded:
    """Return tokens of length one along their first components, which lie through the origin.

    Args:
        unit: At least one token.
        dims: Components kept at most; all where there are fewer, then rounding alone is lost.
    """
    wide = unit.astype(np.float64)
    if wide.shape[0] <= wide.shape[1]:
        values, vectors = np.linalg.eigh(wide @ wide.T)
        along = vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0.0))
    else:
        along = wide @ np.linalg.eigh(wide.T @ wide)[1][:, ::-1]
    along = along[:, :dims]
    step = max(float(np.abs(along).max()), 1e-12) / np.iinfo(np.int16).max
    codes = np.round(along / step).astype(np.int16)
    kept, error = codes * step, 0.0
    for rows in np.array_split(np.arange(len(wide)), -(-len(wide) // _ROWS)):
        apart = kept[rows] @ kept.T - wide[rows] @ wide.T
        error = max(error, float(np.abs(apart).max()))
    return Coded(codes=codes, step=step, error=error)


def found(unit: Float[np.ndarray, "N C"], tokens: Tokens, reach_m: float) -> Found:
    """Ask for every token, in every other view, whether the most similar token is the same point.

    Args:
        unit: Treated tokens.
        tokens: Where they are.
        reach_m: Tokens that lie so close are the same point.
    """
    asked, right, chance = 0, 0, 0.0
    for view in range(tokens.num_views):
        of_view = tokens.view == view
        others = ~of_view
        if not of_view.any() or not others.any():
            continue
        apart = np.linalg.norm(tokens.xyz[others, None] - tokens.xyz[of_view], axis=-1)
        within = apart <= reach_m
        seen = within.any(axis=1)
        best = (unit[others] @ unit[of_view].T).argmax(axis=1)
        asked += int(seen.sum())
        right += int(within[np.arange(len(best)), best][seen].sum())
        chance += float(within[seen].mean(axis=1).sum())
    return Found(
        asked=asked,
        right=right / asked if asked else None,
        chance=chance / asked if asked else None,
    )


def _scenes(comparison: Comparison, asked: Sequence[str], most: int) -> list[str]:
    held = list(comparison.views)
    if unknown := [scene_id for scene_id in asked if scene_id not in comparison.views]:
        raise UsageError(
            f"--scene {unknown[0]}: not all stores hold it; they share {', '.join(held[:5])}"
            + (" and more" if len(held) > 5 else "")
        )
    return list(asked) or held[:most]


def _scene(
    comparison: Comparison, scene_id: str, named: Sequence[str], config: ExploreConfig
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
        "rows": list(_rows(comparison, scene_id, views, named, config)),
    }


def _rows(
    comparison: Comparison,
    scene_id: str,
    views: tuple[str, ...],
    named: Sequence[str],
    config: ExploreConfig,
) -> Iterator[dict[str, Any]]:
    others = [name for name in named if name != scene_id]
    for source in comparison.sources:
        for tap in source.taps:
            tokens = _tokens(source, tap, scene_id, views, config)
            if not len(tokens.view):
                raise SceneError(f"{scene_id}: no token of {source.label} has a position")
            elsewhere = ChannelSums(0, *np.zeros((2, tokens.unit.shape[1])))
            for name in others:
                more = _middle(comparison.views[name], config.views_shown)
                elsewhere += channel_sums(_tokens(source, tap, name, more, config).unit)
            yield {
                "label": source.label,
                "tap": tap,
                "grid": list(source.grid),
                "at": _base64(_places(tokens, source.grid), "<i2"),
                "xyz": _base64(tokens.xyz, "<f4"),
                "treatments": {
                    treatment: _treated(tokens, treatment, elsewhere, config)
                    for treatment in TREATMENTS
                },
            }


def _tokens(
    source: Source, tap: str, scene_id: str, views: tuple[str, ...], config: ExploreConfig
) -> Tokens:
    told = ReportConfig(min_depth_share=config.min_depth_share)
    geometry = read_geometry(source.urls, source.digest, scene_id, views, told)
    return read_tokens(source.urls, source.digest, scene_id, tap, geometry)


def _treated(
    tokens: Tokens, treatment: Treatment, others: ChannelSums, config: ExploreConfig
) -> dict[str, Any]:
    sums = others if others.count else channel_sums(tokens.unit)
    unit = treat(tokens.unit, treatment, sums, 0)
    small, told = coded(unit, config.dims), found(unit, tokens, config.reach_m)
    return {
        "codes": _base64(small.codes, "<i2"),
        "step": small.step,
        "error": small.error,
        "random": random_mean(unit, tokens),
        "asked": told.asked,
        "right": told.right,
        "chance": told.chance,
        "centred_on": "other scenes" if others.count else "this scene",
    }


def random_mean(unit: Float[np.ndarray, "N C"], tokens: Tokens) -> float:
    """Return the mean cosine of any two tokens of two views; 0 where there is one view."""
    wide = unit.astype(np.float64)
    sums = np.zeros((tokens.num_views, wide.shape[1]))
    np.add.at(sums, tokens.view, wide)
    counts = np.bincount(tokens.view, minlength=tokens.num_views)
    pairs = counts.sum() ** 2 - (counts**2).sum()
    total: Float64[np.ndarray, " C"] = sums.sum(axis=0)
    return float((total @ total - (sums * sums).sum()) / pairs) if pairs else 0.0


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
    kept = ("random", "asked", "right", "chance", "error", "centred_on")
    return {
        "scene": scene["scene"],
        "views": scene["views"],
        "rows": [
            {
                "label": row["label"],
                "tap": row["tap"],
                **{
                    treatment: {name: told[name] for name in kept}
                    for treatment, told in row["treatments"].items()
                },
            }
            for row in scene["rows"]
        ],
    }


def _page(comparison: Comparison, scenes: Sequence[dict[str, Any]], config: ExploreConfig) -> str:
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
        treatments=TREATMENTS,
        scenes=[scene["scene"] for scene in scenes],
        config=config,
        worst=f"{worst:.2g}",
        data=Markup(text),
    )
