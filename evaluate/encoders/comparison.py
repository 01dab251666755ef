"""Every encoder on the same scenes: features, the consistency report, the probe, one page."""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from vega3d.evaluate.config import ReportConfig
from vega3d.evaluate.encoders.choosing import Chosen, choose
from vega3d.evaluate.encoders.compared import Compared
from vega3d.evaluate.encoders.config import EncodersConfig
from vega3d.evaluate.encoders.page import as_text, plain_values, write_page
from vega3d.evaluate.partials import Partials
from vega3d.evaluate.probes.config import ProbeConfig
from vega3d.evaluate.probes.page import write_probe
from vega3d.evaluate.probes.probe import probe
from vega3d.evaluate.report import report
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.config import ExtractConfig, RunConfig
from vega3d.pipeline.errors import CheckpointError, UsageError
from vega3d.pipeline.files import write_whole
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.scene import SceneSource, skipped
from vega3d.pipeline.several import check_store_name
from vega3d.pipeline.texts import safe_values, tell
from vega3d.pipeline.together import StorePlan, extract_together

_log = logging.getLogger(__name__)
_MODELS = "models"


def compare_encoders(
    scenes: Sequence[str],
    out: str,
    config: EncodersConfig | None = None,
    numerics: Numerics | None = None,
    *,
    scoring: ReportConfig | None = None,
    probing: ProbeConfig | None = None,
) -> dict[str, object]:
    """Extract, score and probe every encoder on each place of scenes, and write one page.

    Repeat the call to go on: features, scores and readings that are whole are not made again.

    Args:
        scenes: Places, each alone or as `name=place`; each has a report and a probe of its own.
        out: Folder of encoders.html, encoders.json, models/ (small networks) and a folder a place.
        config: Which encoders, with which weights.
        numerics: What changes the last bits of the features.
        scoring: Settings of the reports.
        probing: Settings of the probes.

    Returns:
        Where the page is, and each encoder's best score above chance.

    Raises:
        UsageError: A place cannot be read, or none be compared; the message says why.
    """
    config, numerics = config or EncodersConfig(), numerics or Numerics()
    begun = time.monotonic()
    folder = Path(out)
    places = _named(scenes)
    sources = {name: read_scenes(place) for name, place in places.items()}
    for source in sources.values():
        source.entries()  # a place that cannot be read is told before the first hour's work
        for one in skipped(source):
            tell(f"not read: {one.place} {one.reason}")
    chosen = choose(config, folder / _MODELS, numerics.device)
    found, refused = [], {}
    for name, place in places.items():
        tell(f"{name}: {len(chosen)} encoders on {place}")
        urls, failed = _extract(sources[name], folder / name / "stores", chosen, config, numerics)
        try:
            found.append(_compare(name, place, folder, urls, failed, scoring, probing))
        except UsageError as error:
            refused[name] = str(error)
            tell(f"{name}: {error}")
    if not found:
        raise UsageError("; ".join(refused.values()))
    return _written(folder, found, chosen, refused) | {
        "wall_s": round(time.monotonic() - begun, 1),
        "above_chance": {
            one.name: {row.source.label: row.mean("above_chance") for row in one.summary.best_rows}
            for one in found
        },
        "failed": {one.name: dict(one.failed) for one in found if one.failed}
        | {name: {"all encoders": why} for name, why in refused.items()},
    }


def _written(
    folder: Path, found: Sequence[Compared], chosen: Sequence[Chosen], refused: Mapping[str, str]
) -> dict[str, object]:
    """Write the page and the same as JSON, tell both tables, and return where they are."""
    plain = folder / "encoders.json"
    values = safe_values(plain_values(found, chosen, refused))
    write_whole(plain, json.dumps(values, indent=1).encode())
    page = write_page(folder, found, chosen, refused)
    for line in as_text(found, chosen):
        tell(line)
    return {"page": str(page), "json": str(plain)}


def _named(scenes: Sequence[str]) -> dict[str, str]:
    """Return the places by a name that a folder can have."""
    found: dict[str, str] = {}
    for text in scenes:
        given, equals, place = text.partition("=")
        if not equals or "/" in given or "?" in given:
            given, place = _last_part(text), text
        check_store_name(given)
        if given in (*found, _MODELS):
            raise UsageError(f"two folders would be called {given!r}; name them, as in NAME=PLACE")
        found[given] = place
    return found


def _last_part(place: str) -> str:
    name = place.partition("?")[0].rstrip("/").rsplit("/", 1)[-1] or "scenes"
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


def _extract(
    source: SceneSource,
    folder: Path,
    chosen: Sequence[Chosen],
    config: EncodersConfig,
    numerics: Numerics,
) -> tuple[dict[str, str], dict[str, str]]:
    """Write a store an encoder; return those that hold something, and what went wrong."""
    urls: dict[str, str] = {}
    failed: dict[str, str] = {}
    for together in _passes(chosen):
        plans = [
            StorePlan(
                out=str(folder / f"{one.label}.zarr"),
                config=ExtractConfig(
                    backbone=one.config,
                    grid=config.grid,
                    num_views=config.num_views,
                    scenes_per_shard=1,
                ),
            )
            for one in together
        ]
        names = ", ".join(one.label for one in together)
        try:
            run = partial(run_inline, config=RunConfig())
            summaries = extract_together(source, plans, numerics=numerics, run=run)
        except CheckpointError as error:
            failed |= {one.label: str(error) for one in together}
            tell(f"{names}: {error}")
            continue
        for one, summary in zip(together, summaries, strict=True):
            lacking = {**summary.failures, **summary.postponed}
            failed |= {f"{one.label}, {k}": v for k, v in lacking.items()}
            if summary.committed > len(summary.failures):
                urls[one.label] = summary.store
        _log.info("%s: features of %d scenes", names, len(source.entries()))
    return urls, failed


def _passes(chosen: Sequence[Chosen]) -> Iterator[list[Chosen]]:
    """Yield which encoders read the scenes together: all small ones, then each other alone."""
    if small := [one for one in chosen if not one.heavy]:
        yield small
    yield from ([one] for one in chosen if one.heavy)


def _compare(
    name: str,
    place: str,
    folder: Path,
    urls: Mapping[str, str],
    failed: Mapping[str, str],
    scoring: ReportConfig | None,
    probing: ProbeConfig | None,
) -> Compared:
    """Write the report and the probe of one place."""
    if not urls:
        raise UsageError(f"{place}: no encoder gave features: {'; '.join(failed.values())}")
    stores = [f"{label}={url}" for label, url in urls.items()]
    scored = report(stores, str(folder / name / "report"), scoring)
    probed = None
    if len(scored.summary.common) > 1:
        labels = place if place.startswith("rooms:") else ""
        kept = Partials(folder / name / "probe" / "partials")
        probed = probe(stores, probing, labels=labels, kept=kept)
        write_probe(folder / name / "probe", probed)
    refused = {**dict(scored.summary.refused), **failed}
    return Compared(name=name, scenes=place, summary=scored.summary, probed=probed, failed=refused)
