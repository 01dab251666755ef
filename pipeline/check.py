"""`vega3d-extract check`: do the scenes prove their own geometry? Needs no model, and no torch.

`scenes/checking.py` has what is asked of one scene; this is all of them, told to a person: a table,
what to mend, and a picture a scene.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from vega3d.pipeline.config import CheckConfig
from vega3d.pipeline.files import whole_file
from vega3d.pipeline.scenes.checking import CheckedScene, SceneCheck, check_scene
from vega3d.pipeline.scenes.scene import SceneSource, skipped
from vega3d.pipeline.texts import tell

COLUMNS = (
    "scene", "views", "depth", "pose", "dropped", "focal px", "of image", "field of view",
    "median depth", "reprojection", "verdict",
)  # fmt: skip
"""Of the table; `~` before a focal length says that each view has its own."""

_VERDICTS = ("ok", "unproven", "wrong", "failed")
_TO_MEND = ("wrong", "failed")
_LINE_EVERY_S = 5.0
_ROWS_SHOWN = 60


def check(
    source: SceneSource,
    config: CheckConfig,
    *,
    out: str = "",
    on_scene: Callable[[SceneCheck], None] = lambda _check: None,
) -> dict[str, Any]:
    """Check scenes one after the other, and say what was found.

    Args:
        source: Where they are.
        config: What is looked at.
        out: Folder for a picture a scene; "" draws none.
        on_scene: Called after each.

    Returns:
        Counts, the median reprojection error over the scenes, scenes that are wrong with what to
        know of them, and every scene's numbers: plain JSON.
    """
    started, num_looked_at = time.monotonic(), 0
    checks: list[SceneCheck] = []
    pictures: list[str] = []
    for checked in _checked(source, config):
        checks.append(checked.check)
        num_looked_at += checked.num_looked_at
        if out and (path := _draw(checked, Path(out))):
            pictures.append(str(path))
        on_scene(checked.check)
    errors = [c.geometry.error_m for c in checks if c.geometry and c.geometry.error_m is not None]
    to_mend = [c for c in checks if c.verdict in _TO_MEND]
    wall_s = time.monotonic() - started
    return {
        "scenes": len(checks),
        **{verdict: sum(c.verdict == verdict for c in checks) for verdict in _VERDICTS},
        "reprojection_m": statistics.median(errors) if errors else None,
        "to_mend": {c.scene_id: list(c.lines) for c in to_mend},
        "skipped": [asdict(one) for one in skipped(source)],
        "pictures": pictures,
        "views_looked_at": num_looked_at,
        "wall_s": wall_s,
        "checks": [as_json(c) for c in checks],
    }


def check_and_tell(source: SceneSource, config: CheckConfig, *, out: str = "") -> dict[str, Any]:
    """Check scenes, tell a person on stderr, and return what `check` returns."""
    checks: list[SceneCheck] = []
    total = len(source.entries()) if not config.num_scenes else config.num_scenes
    told_s = time.monotonic()

    def on_scene(one: SceneCheck) -> None:
        nonlocal told_s
        checks.append(one)
        for line in one.lines:
            tell(f"{one.scene_id}: {line}")
        if time.monotonic() - told_s >= _LINE_EVERY_S:
            told_s = time.monotonic()
            tell(f"{len(checks)} of {total} scenes")

    found = check(source, config, out=out, on_scene=on_scene)
    for one in found["skipped"]:
        tell(f"not read: {one['place']} {one['reason']}")
    shown = sorted(checks, key=lambda one: one.verdict not in _TO_MEND)[:_ROWS_SHOWN]
    tell("\n".join(table(shown)))
    if len(checks) > len(shown):
        tell(f"and {len(checks) - len(shown)} more; the JSON has all")
    counts = ", ".join(f"{found[verdict]} {verdict}" for verdict in _VERDICTS if found[verdict])
    cost_s = found["wall_s"] / max(found["views_looked_at"], 1)
    scenes = "1 scene" if found["scenes"] == 1 else f"{found['scenes']} scenes"
    tell(f"{scenes}: {counts}; {cost_s:.3f} s a view looked at")
    return found


def table(checks: Sequence[SceneCheck]) -> list[str]:
    """Return one line a scene, below one that names the columns."""
    rows = [COLUMNS, *map(_row, checks)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return [
        "  ".join(
            text.ljust(width) if column in (0, len(COLUMNS) - 1) else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def as_json(check: SceneCheck) -> dict[str, Any]:
    """Return a scene's numbers as plain JSON."""
    report, geometry, lens = check.report, check.geometry, check.lens
    found: dict[str, Any] = {"scene_id": check.scene_id, "verdict": check.verdict}
    if report is not None:
        found |= {
            "views_listed": check.views_listed,
            "views": report.views,
            "with_depth": report.with_depth,
            "with_pose": report.with_pose,
            "dropped_views": report.dropped_views,
            "repeated_views": len(report.repeated_views),
        }
    if lens is not None:
        found["intrinsics"] = asdict(lens)
    if geometry is not None:
        found |= {
            "reprojection_m": geometry.error_m,
            "reprojection_share": geometry.error_share,
            "median_depth_m": geometry.median_depth_m,
            "fits_with": geometry.remedy() or None,
        }
    return {**found, "lines": list(check.lines)}


def _checked(source: SceneSource, config: CheckConfig) -> Iterator[CheckedScene]:
    ids = [entry.scene_id for entry in source.entries()]
    if config.num_scenes and ids:
        chosen = np.unique(np.linspace(0, len(ids) - 1, config.num_scenes).astype(int))
        ids = [ids[index] for index in chosen]
    for scene_id in ids:
        yield check_scene(
            source,
            scene_id,
            num_views=config.num_views,
            sampling=config.sampling,
            poses=config.poses,
            depth_scale=config.depth_scale,
            policy=config.bad_views,
        )


def _draw(checked: CheckedScene, folder: Path) -> Path | None:
    from vega3d.pipeline.check_pictures import draw_check

    picture = draw_check(checked)
    if picture is None:
        return None
    path = folder / f"{quote(checked.check.scene_id, safe='')}.png"
    with whole_file(path) as temporary:
        picture.save(temporary, format="PNG")
    return path


def _row(check: SceneCheck) -> tuple[str, ...]:
    report, geometry, lens = check.report, check.geometry, check.lens
    counts = ["-"] * 4
    if report is not None:
        counts = [str(n) for n in (report.views, report.with_depth, report.with_pose)]
        counts.append(str(report.dropped_views))
    camera = ["-"] * 3
    if lens is not None:
        across, down = lens.field_of_view_deg
        camera = [
            f"{'~' if lens.is_per_view else ''}{lens.focal_px[0]:.1f}",
            f"{lens.size[1]}x{lens.size[0]}",
            f"{across:.0f} x {down:.0f} deg",
        ]
    measured = ["-", "-"]
    if geometry is not None and geometry.median_depth_m is not None:
        measured[0] = f"{geometry.median_depth_m:.3g} m"
    if geometry is not None and geometry.error_m is not None:
        measured[1] = f"{geometry.error_m * 1000:.1f} mm"
    return (check.scene_id, *counts, *camera, *measured, check.verdict)
