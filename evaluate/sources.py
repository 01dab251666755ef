"""The stores of a report: what each one is, and which scenes and views can be compared.

A store is named `label=url` or just by its url; one label given to several stores reads them as
one. Nothing here touches features.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from vega3d.evaluate.config import TapsConfig
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.remarks import remarks_on
from vega3d.pipeline.store.store import JoinedStore, Store, open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One store, or several read as one, by one label."""

    label: str
    urls: tuple[str, ...]
    digest: str
    """Of config, scenes and stored bytes."""
    config_digest: str
    identity: Mapping[str, Any]
    taps: tuple[str, ...]
    """Those that are scored: the first noise sample of each."""
    second: Mapping[str, str]
    """Tap -> the tap of its second noise sample, where the store has one."""
    grid: tuple[int, int]
    channels: Mapping[str, int]
    units: tuple[tuple[str, ...], ...]
    scene_ids: tuple[str, ...]
    failures: Mapping[str, str]
    num_pending: int

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings that made the features."""
        found: Mapping[str, Any] = self.identity["config"]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is scored: the same scenes and the same views of every store that can take part."""

    sources: tuple[Source, ...]
    views: Mapping[str, tuple[str, ...]]
    """Scene -> the ids of the views that all stores hold, in the first store's order."""
    refused: tuple[tuple[str, str], ...]
    """Label and reason of stores that cannot be compared."""
    left_out: Mapping[str, str]
    """Scene -> reason."""
    notes: tuple[str, ...]
    """What a reader has to know before comparing rows."""


def open_sources(stores: Sequence[str], chosen: TapsConfig | None = None) -> list[Source]:
    """Open every store named; stores of one label are read as one.

    Args:
        stores: Folders or URLs, each alone or as `label=url`.
        chosen: Which taps take part; all without it.

    Raises:
        UsageError: There is nothing to open, two stores without a label end in one name, or no
            store has a tap that is asked for.
        StoreError: A store cannot be read.
    """
    by_label: dict[str, list[str]] = {}
    for text in stores:
        given, url = split_label(text)
        label = given or _last_part(url)
        if given is None and label in by_label:
            raise UsageError(
                f"two stores would be called {label!r}; name them, as in wan={url} other=..."
            )
        by_label.setdefault(label, []).append(url)
    if not by_label:
        raise UsageError("name at least one store")
    sources = [_describe(label, tuple(urls)) for label, urls in by_label.items()]
    return _with_taps(sources, chosen or TapsConfig())


def split_label(text: str) -> tuple[str | None, str]:
    """Split `label=url`; without a label the first part is None."""
    label, equals, url = text.partition("=")
    named = bool(equals) and bool(label.strip()) and "/" not in label
    return (label.strip(), url) if named else (None, text)


@lru_cache(maxsize=64)
def opened(urls: tuple[str, ...], digest: str) -> Store | JoinedStore:
    """Return the open store, once a process.

    Raises:
        UsageError: It is no longer the store of that digest; results of two stores would be mixed.
    """
    store = open_store(list(urls))
    if store.digest() != digest:
        raise UsageError(
            f"{', '.join(urls)} changed while the report was made; run the same command again"
        )
    return store


def plan_comparison(sources: Sequence[Source]) -> Comparison:
    """Choose the scenes and views that all stores hold; refuse a store that shares no scene.

    Raises:
        UsageError: Nothing is left to score.
    """
    accepted: list[Source] = []
    refused: list[tuple[str, str]] = []
    common: list[str] = []
    for source in sources:
        held = set(source.scene_ids)
        both = [scene for scene in common if scene in held] if accepted else source.scene_ids
        together = _with_two_views([*accepted, source], both) if both else []
        if not source.scene_ids:
            refused.append((source.label, f"it has no scene ({_pending(source)})"))
        elif not both:
            labels = ", ".join(other.label for other in accepted)
            refused.append((source.label, f"it shares no scene with {labels}; report it alone"))
        elif accepted and not together and _with_two_views(accepted, common):
            labels = ", ".join(other.label for other in accepted)
            reason = f"no scene has two views that it shares with {labels}; report it alone"
            refused.append((source.label, reason))
        else:
            accepted.append(source)
            common = list(both)
    if not accepted:
        raise UsageError(f"nothing to score: {'; '.join(': '.join(pair) for pair in refused)}")
    views, left_out, notes = _common_views(accepted, common)
    for source in accepted:
        for scene_id in source.scene_ids:
            if scene_id not in views and scene_id not in left_out:
                left_out[scene_id] = "not in all stores"
        for scene_id, reason in source.failures.items():
            left_out[scene_id] = f"failed in {source.label}: {reason}"
    return Comparison(
        sources=tuple(accepted),
        views=views,
        refused=tuple(refused),
        left_out=left_out,
        notes=tuple(_notes(accepted) + notes),
    )


def tap_numbers(tap: str) -> tuple[int | None, int | None]:
    """Return block and timestep of a tap such as k300_b20; None for what its name does not say."""
    block, timestep = re.search(r"(?:^|_)b(-?\d+)", tap), re.search(r"(?:^|_)k(\d+)", tap)
    return (
        int(block.group(1)) if block else None,
        int(timestep.group(1)) if timestep else None,
    )


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _with_taps(sources: Sequence[Source], chosen: TapsConfig) -> list[Source]:
    """Return the stores with the taps that are asked for; one that has none of them keeps all."""
    held = list(dict.fromkeys(tap for source in sources for tap in source.taps))
    for text in chosen.taps:
        if not chosen.matches(text, held):
            raise UsageError(
                f"--taps {text}: no store has such a tap; the taps are {some(held, 12)}"
            )
    return [
        replace(
            source,
            taps=(taps := chosen.choose(source.taps)),
            second={tap: again for tap, again in source.second.items() if tap in taps},
            channels={tap: source.channels[tap] for tap in taps},
        )
        for source in sources
    ]


def _describe(label: str, urls: tuple[str, ...]) -> Source:
    store = open_store(list(urls))
    second = {
        tap: f"{tap}_n1"
        for tap in store.taps
        if not re.search(r"_n\d+$", tap) and f"{tap}_n1" in store.taps
    }
    samples = {tap for tap in store.taps if re.sub(r"_n\d+$", "", tap) in second}
    taps = tuple(tap for tap in store.taps if tap not in samples or tap in second)
    return Source(
        label=label,
        urls=urls,
        digest=store.digest(),
        config_digest=store.config_digest,
        identity=store.identity,
        taps=taps,
        second=second,
        grid=store.grid,
        channels={tap: store.num_channels(tap) for tap in taps},
        units=store.units,
        scene_ids=store.scene_ids,
        failures=dict(store.failures),
        num_pending=len(store.pending),
    )


def _with_two_views(sources: Sequence[Source], scenes: Sequence[str]) -> list[str]:
    """Return the scenes of which all stores hold two views or more."""
    stores = [opened(source.urls, source.digest) for source in sources]
    return [s for s in scenes if len(set.intersection(*(set(o.view_ids(s)) for o in stores))) > 1]


def _common_views(
    sources: Sequence[Source], scenes: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, str], list[str]]:
    """Return the views of each scene that all stores hold, and what does not agree."""
    stores = [opened(source.urls, source.digest) for source in sources]
    views: dict[str, tuple[str, ...]] = {}
    left_out: dict[str, str] = {}
    fewer, changed = [], []
    for scene_id in scenes:
        held = [store.view_ids(scene_id) for store in stores]
        elsewhere = [set(ids) for ids in held[1:]]
        both = tuple(view for view in held[0] if all(view in ids for ids in elsewhere))
        if len(both) < 2:
            left_out[scene_id] = f"{len(both)} views are in all stores, 2 are needed"
            continue
        views[scene_id] = both
        if any(len(ids) > len(both) for ids in held):
            counts = " and ".join(str(len(ids)) for ids in held)
            fewer.append(f"{scene_id} on {len(both)} of {counts}")
            if not _same_cameras(stores, scene_id, both):  # a hash is of all views of a store
                changed.append(scene_id)
        elif len({store.pixels_sha256(scene_id) for store in stores} - {""}) > 1:
            changed.append(scene_id)
    notes = []
    if fewer:
        notes.append(
            f"The stores hold different views of {len(fewer)} of {len(views)} scenes; these are "
            f"scored on the views that all stores hold ({some(fewer)}): extract all stores with "
            "the same --views."
        )
    if changed:
        notes.append(
            f"The stores were made from different pictures, depths or cameras of {len(changed)} "
            f"scenes ({some(changed)}): their rows differ by more than the features."
        )
    if not views:
        raise UsageError(
            f"no scene has two views in all stores: {some(list(left_out))}; report them alone"
            if len(sources) > 1
            else f"no scene has two views: {some(list(left_out))}; extract more of each (--views)"
        )
    return views, left_out, notes


def _same_cameras(
    stores: Sequence[Store | JoinedStore], scene_id: str, view_ids: Sequence[str]
) -> bool:
    """Say whether stores know of no view that another one's is elsewhere, or of another size."""
    first, *others = [_cameras(store, scene_id, view_ids) for store in stores]
    for known in others:
        for ours, theirs in zip(first, known, strict=True):
            both = np.isfinite(ours) & np.isfinite(theirs)
            if not np.allclose(ours[both], theirs[both], rtol=1e-6, atol=1e-6):
                return False
    return True


def _cameras(
    store: Store | JoinedStore, scene_id: str, view_ids: Sequence[str]
) -> tuple[np.ndarray, ...]:
    """Return poses, intrinsics and sizes of some views of a scene; NaN where unknown."""
    at = {view_id: index for index, view_id in enumerate(store.view_ids(scene_id))}
    rows = [at[view_id] for view_id in view_ids]
    sizes = store.image_size(scene_id).astype(np.float64)
    sizes[sizes == 0] = np.nan
    found = (store.world_from_camera(scene_id), store.intrinsics(scene_id), sizes)
    return tuple(values[rows] for values in found)


def _notes(sources: Sequence[Source]) -> list[str]:
    """Say which differences between stores change what a score means."""
    notes = []
    grids = {source.grid for source in sources}
    if len(grids) > 1:
        sizes = ", ".join(f"{s.label} {s.grid[0]} x {s.grid[1]}" for s in sources)
        notes.append(
            f"The token grids differ ({sizes}): a coarse token averages more of the image, and "
            "more fine tokens are averaged in a voxel, so such rows compare only roughly."
        )
    for source in sources:
        notes += [
            f"{source.label}: {remark}. Pairs of them have cosine 1, also at one position."
            for remark in remarks_on(source.config)
        ]
        if source.num_pending:
            notes.append(
                f"{source.label}: {source.num_pending} planned scenes are not committed yet."
            )
        if source.failures:
            notes.append(f"{source.label}: {len(source.failures)} scenes failed in extraction.")
    return notes


def _pending(source: Source) -> str:
    return f"{len(source.failures)} failed, {source.num_pending} not committed"


def _last_part(url: str) -> str:
    name = url.rstrip("/").rsplit("/", 1)[-1]
    return name.removesuffix(".zarr") or url
