"""What can be known of a scene before anything is computed: `vega3d-extract check`, one scene.

It is read as a run reads it: the same views are chosen and decoded. Beside them the next view of
each is looked at, since depth proves most between close neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.cameras import field_of_view
from vega3d.pipeline.scenes.conventions import as_meant
from vega3d.pipeline.scenes.decoding import DecodedView, SceneReport, decode_views, turn
from vega3d.pipeline.scenes.diagnosis import Convention, Diagnosis, diagnose
from vega3d.pipeline.scenes.images import MAX_PIXELS
from vega3d.pipeline.scenes.pixels import Glance, glance_pixels
from vega3d.pipeline.scenes.reprojection import PosedDepth
from vega3d.pipeline.scenes.sampling import drop_bad_poses
from vega3d.pipeline.scenes.scene import Scene, SceneSource, View
from vega3d.pipeline.scenes.settings import BadViews, Poses, Sampling

WIDE = 4
"""Views apart at which a misreading shows better than between neighbours."""

_LOOK_AHEAD = 4
"""Views after one among which a neighbour is looked for that does not repeat it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lens:
    """The colour intrinsics that were used, of the first view."""

    focal_px: tuple[float, float]
    """Across and down, as all that follow but `size`."""

    center_px: tuple[float, float]
    size: tuple[int, int]
    """Rows and columns of the image."""

    field_of_view_deg: tuple[float, float]

    is_per_view: bool
    """Other views have others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneCheck:
    """How a scene looks."""

    scene_id: str
    verdict: Literal["ok", "unproven", "wrong", "failed"]
    """`unproven`: nothing speaks against it, and without depth and poses nothing for it."""

    lines: tuple[str, ...] = ()
    """What a person should know."""

    views_listed: int = 0
    report: SceneReport | None = None
    lens: Lens | None = None
    geometry: Diagnosis | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedScene:
    """The check of a scene, and the views to draw it with."""

    check: SceneCheck
    decoded: Sequence[DecodedView] = ()
    num_looked_at: int = 0
    """Views that were decoded, in whole or their depth alone."""


def check_scene(
    source: SceneSource,
    scene_id: str,
    *,
    num_views: int,
    sampling: Sampling = "uniform",
    poses: Poses = "opencv",
    depth_scale: float = 1.0,
    policy: BadViews = "drop",
) -> CheckedScene:
    """Read a scene as a run would, and ask whether its geometry proves itself.

    Args:
        source: Where it is.
        scene_id: Which one.
        num_views: Views at most; 0 takes all.
        sampling: How they are chosen.
        poses: See `as_meant`.
        depth_scale: See `as_meant`.
        policy: What becomes of views that cannot be used: see `check_bad_views`.
    """
    try:
        scene = as_meant(source.read(scene_id), poses=poses, depth_scale=depth_scale)
        decoded, report = decode_views(scene, num_views=num_views, sampling=sampling, policy=policy)
        check_one_size(scene_id, decoded)
    except SceneError as error:
        failed = SceneCheck(scene_id=scene_id, verdict="failed", lines=(str(error),))
        return CheckedScene(check=failed)
    near, num_read = _neighbours(scene, decoded)
    geometry = diagnose_views(decoded, near, Convention(poses=poses, depth_scale=depth_scale))
    is_wrong = bool(geometry.lines() or report.bad_views)
    check = SceneCheck(
        scene_id=scene_id,
        verdict="wrong" if is_wrong else "ok" if geometry.state == "fits" else "unproven",
        lines=(*report.lines(), *geometry.lines()),
        views_listed=len(scene.views) + len(scene.bad_views),
        report=report,
        lens=_lens(decoded),
        geometry=geometry,
    )
    num_decoded = len(decoded) + len(report.repeated_views)
    return CheckedScene(check=check, decoded=decoded, num_looked_at=num_decoded + num_read)


def check_one_size(scene_id: str, decoded: Sequence[DecodedView]) -> None:
    """Raise SceneError where a scene's images differ in size."""
    if len(sizes := {one.size for one in decoded}) > 1:
        raise SceneError(
            f"{scene_id}: its images differ in size: {sorted(sizes)}; "
            "resize them, or make a scene of each size"
        )


def diagnose_views(
    decoded: Sequence[DecodedView],
    near: Sequence[tuple[PosedDepth, PosedDepth]] = (),
    asked: Convention = Convention(),  # noqa: B008 - frozen
) -> Diagnosis:
    """Diagnose the geometry of decoded views.

    Args:
        decoded: In their order.
        near: Views beside closer neighbours, where there are such; else each beside the next.
        asked: See `diagnose`.
    """
    views = [view for one in decoded if (view := glance_at(one))]
    beside, wide = list(pairwise(views)), list(zip(views, views[WIDE:], strict=False))
    return diagnose(near, [*beside, *wide], asked) if near else diagnose(beside, wide, asked)


def glance_at(one: DecodedView) -> PosedDepth | None:
    """Return a view's depth and camera as the source has them, before it was turned upright.

    None where one of them is not known. What axes a source means shows in its own poses alone.
    Depth that is not held is on a coarser grid, and the camera is of that.
    """
    one = turn(one, -one.turns)
    return _posed_depth(one.view, one.glance)


def understood(one: DecodedView, convention: Convention) -> DecodedView:
    """Return a view as it would be if its source were read in another way; see `Convention.of`."""
    plain = turn(one, -one.turns)
    taken = _posed_depth(plain.view, None if one.depth is None else Glance(one.depth.get()))
    assert taken is not None
    meant = convention.of(taken)
    cameras = replace(plain.view, K_depth=meant.K, world_from_camera=meant.world_from_camera)
    return turn(replace(plain, view=cameras), one.turns)


def _posed_depth(view: View, glance: Glance | None) -> PosedDepth | None:
    """Return a view's depth with its camera, or None where one of them is not known."""
    if glance is None or view.K_depth is None or view.world_from_camera is None:
        return None
    return PosedDepth(glance.depth_m, glance.intrinsics(view.K_depth), view.world_from_camera)


def _neighbours(
    scene: Scene, decoded: Sequence[DecodedView]
) -> tuple[list[tuple[PosedDepth, PosedDepth]], int]:
    """Return decoded views, each beside the next of the scene, and how many depths were read."""
    views = drop_bad_poses(scene)[0].views
    place = {view.view_id: index for index, view in enumerate(views)}
    known = {one.view.view_id: glance_at(one) for one in decoded}
    all_held = all(one.depth is None or one.depth.held is not None for one in decoded)
    most_pixels = MAX_PIXELS if all_held else glance_pixels(2 * len(decoded))
    pairs, num_read = [], 0
    for view_id, one in list(known.items()):
        if one is None:
            continue
        start = place[view_id] + 1
        for view in views[start : start + _LOOK_AHEAD]:
            if view.view_id not in known:
                known[view.view_id] = _read(view, most_pixels)
                num_read += 1
            other = known[view.view_id]
            # A recorder that repeats frames would have us compare a view with itself.
            if other is not None and not np.array_equal(one.depth_m, other.depth_m):
                pairs.append((one, other))
                break
    return pairs, num_read


def _read(view: View, most_pixels: int) -> PosedDepth | None:
    try:
        depth_m = view.read_depth_m() if view.read_depth_m else None
        return _posed_depth(view, None if depth_m is None else Glance.of(depth_m, most_pixels))
    except SceneError:
        return None  # where a run chooses this view, it says so


def _lens(decoded: Sequence[DecodedView]) -> Lens | None:
    known = [one for one in decoded if one.view.K_color is not None]
    if not known:
        return None
    K, (height, width) = known[0].view.K_color, known[0].size
    assert K is not None
    return Lens(
        focal_px=(float(K[0, 0]), float(K[1, 1])),
        center_px=(float(K[0, 2]), float(K[1, 2])),
        size=(height, width),
        field_of_view_deg=field_of_view(K, height, width),
        is_per_view=any(
            one.view.K_color is not None and not np.array_equal(K, one.view.K_color)
            for one in known
        ),
    )
