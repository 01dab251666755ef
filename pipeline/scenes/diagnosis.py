"""What the depths of neighbouring views say of a scene's cameras: right, or wrong in which way.

Depth carried into the neighbouring view meets the depth there where poses, intrinsics and depth are
what they are taken for. Where it does not, the usual misreadings are tried, and the one under which
it would is named. Thresholds come from the three real captures of tests/pipeline/scenes/
test_checking.py and the procedural rooms: as they are, readings differ by 0.2 to 0.8 % of the depth
and no misreading fits better than by 3 %; misread, the right one fits 1.9 to 80 times better.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float32, Float64

from vega3d.pipeline.scenes.conventions import composed, world_from_opencv
from vega3d.pipeline.scenes.reprojection import Agreement, PosedDepth, agreement, thinned
from vega3d.pipeline.scenes.settings import POSES, Poses

if TYPE_CHECKING:
    from vega3d.pipeline.scenes.trials import Cameras

CLEARLY_BETTER = 1.7
"""A misreading is named where depths fit so many times better under it."""

LEAST_GAIN = 0.002
"""... and by this share of the depth: 4 mm at 2 m."""

SMALL_SHARE = 0.03
"""Readings that differ by more of the depth do not come from one scene."""

LEAST_MET = 0.1
"""Share of the readings that must meet another, or nothing can be said."""

MOSTLY_MET = 0.5
"""... and that must meet under another convention where none do as it is: of a corridor whose views
are far apart a quarter meet at five times its depth."""

INDOOR_M = (0.2, 20.0)
"""Median depths that are plausible indoors, metres."""

SCALES = (1000.0, 100.0, 10.0, 5.0, 4.0, 2.0, 0.5, 0.25, 0.2, 1000 / 6553.5, 0.1, 0.01, 0.001)
"""Factors on depth read as millimetres: metres, centimetres; 4000 steps a metre (Matterport), 5000
(TUM RGB-D), 6553.5 (NICE-SLAM's Replica), tenths of millimetres, and their inverses."""

FOCALS = (0.5, 0.67, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0)
"""Factors on the focal length, the centre staying where it is."""

_READINGS_TRIED = 800
_READINGS_OF_A_MEDIAN = 20_000
_PAIRS_TRIED = 10
"""Of neighbours, and as many of wider pairs: ten times as many change the ratios by a tenth."""

_DIRECTIONS = (("right", "down", "forward"), ("left", "up", "backward"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """One way to understand a source's cameras and depth; the default is as they are read."""

    poses: Poses = "opencv"
    depth_scale: float = 1.0
    focal_scale: float = 1.0
    is_portrait: bool = False
    """K has rows and columns exchanged."""

    axes: tuple[int, int, int] = (1, 2, 3)
    """Which OpenCV axis (1 x, 2 y, 3 z) each camera axis is; negative where it points against."""

    def of(self, view: PosedDepth) -> PosedDepth:
        """Return a view as this convention understands it, in the unit of its own depth."""
        K = view.K[[1, 0, 2]][:, [1, 0, 2]] if self.is_portrait else view.K
        pose = world_from_opencv(view.world_from_camera, self.poses)
        turn = _turn(self.axes)
        # The world's axes are turned as well: no distance changes, and a mirrored camera stays one.
        pose = turn @ pose @ turn.T
        pose[:3, 3] /= self.depth_scale  # as good as scaling every pixel, and much cheaper
        focal = np.array([[self.focal_scale, 1, 1], [1, self.focal_scale, 1], [1, 1, 1]])
        return PosedDepth(view.depth_m, K * focal, pose)


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What is known of a scene's geometry."""

    state: Literal["fits", "misread", "disagrees", "unknown"]
    """`misread`: under another convention it would fit. `unknown`: nothing to compare."""

    error_m: float | None = None
    """Median distance between depths of neighbouring views."""

    error_share: float | None = None
    """The same as a share of the depth."""

    median_depth_m: float | None = None
    meant: Convention = Convention()
    """The convention under which it fits."""

    meant_error_m: float | None = None

    asked: Convention = Convention()
    """How the source was asked to be read: what options said already."""

    @property
    def options(self) -> tuple[Poses, float]:
        """Return the `--poses` and `--depth-scale` under which it fits, as far as these go."""
        poses = composed(self.asked.poses, self.meant.poses)
        return poses, self.asked.depth_scale * self.meant.depth_scale

    def lines(self) -> list[str]:
        """Return what a person should know, a line each; empty where all is well."""
        lines = []
        if self.meant_error_m is not None:
            mended = f"{self.remedy()} would make it {_metres(self.meant_error_m)}"
            lines.append(f"{self._told()}: {mended}")
        elif self.state == "disagrees":
            lines.append(
                f"{self._told()}: no other axes, direction, unit or focal length mends it; are "
                "these the poses and intrinsics of these images?"
            )
        depth_m = (self.median_depth_m or 1.0) * self.meant.depth_scale
        if not _is_indoor(self.median_depth_m or 1.0) and not _is_indoor(depth_m):
            factor = 10.0 ** round(np.log10(2.0 / depth_m))
            lines.append(
                f"the median depth is {depth_m:.4g} m, and rooms have {INDOOR_M[0]:g} to "
                f"{INDOOR_M[1]:g}: --depth-scale {self.options[1] * factor:g} would make it "
                f"{depth_m * factor:.3g}; "
                "the positions of the poses must be in metres as well"
            )
        return lines

    def remedy(self) -> str:
        """Return what would mend a scene that is misread: options where there are some."""
        return " and ".join(_remedies(self))

    def _told(self) -> str:
        if self.error_m is None or self.error_share is None:
            return "depths of neighbouring views do not meet at all"
        return (
            f"depths of neighbouring views differ by {_metres(self.error_m)} in the median, "
            f"{self.error_share:.1%} of the depth"
        )


def diagnose(
    near: Sequence[tuple[PosedDepth, PosedDepth]],
    wide: Sequence[tuple[PosedDepth, PosedDepth]] = (),
    asked: Convention = Convention(),
) -> Diagnosis:
    """Measure how neighbouring views agree, and look for the convention under which they would.

    Args:
        near: Neighbouring views, whose distance is reported.
        wide: Views farther apart, where a misreading shows more; they only help to tell.
        asked: How these views were asked to be read already: options that are named take it in.
    """
    from vega3d.pipeline.scenes.medians import median  # numba's: not to plan with

    views = {id(view): view for pair in near for view in pair}.values()
    medians = [median(d) for view in views if (d := _some_readings(view)).size]
    median_depth_m = float(np.median(medians)) if medians else None
    pairs = [*_spread(near), *_spread(wide)]
    understood = {id(view): _by_convention(view) for pair in pairs for view in pair}
    given = _shares(pairs, understood, [Convention()])[0]
    meant, share = Convention(), given
    for conventions in (_single_conventions, _double_conventions, _any_axes):
        if share <= (SMALL_SHARE if conventions is _any_axes else LEAST_GAIN):
            break  # below LEAST_GAIN nothing can be clearly better
        tried_now = list(conventions())
        shares = _shares(pairs, understood, tried_now, below=share)
        best = int(np.argmin(shares))
        # What changes more must explain clearly more.
        if _is_clearly_better(shares[best], share):
            meant, share = tried_now[best], shares[best]
    is_misread = share <= SMALL_SHARE and _is_clearly_better(share, given)
    measured = agreement(near)
    mended = agreement(_understood(near, meant)) if is_misread else measured
    is_misread = is_misread and _is_borne_out(measured, mended)
    if np.isinf(given) and not is_misread:
        return Diagnosis(state="unknown", median_depth_m=median_depth_m, asked=asked)
    meant = meant if is_misread else Convention()
    scale = meant.depth_scale if _is_indoor((median_depth_m or 1.0) * meant.depth_scale) else 1.0
    return Diagnosis(
        state="misread" if is_misread else "disagrees" if given > SMALL_SHARE else "fits",
        error_m=_known(measured.error_m),
        error_share=_known(measured.error_share),
        median_depth_m=median_depth_m,
        meant=meant,
        meant_error_m=_known(mended.error_m * scale) if is_misread else None,
        asked=asked,
    )


def _is_borne_out(measured: Agreement, mended: Agreement) -> bool:
    """Say whether neighbouring views bear out what some readings of them and of wider pairs say.

    Where views are far apart few readings meet, and another scale may bring others to meet.
    """
    if np.isnan(measured.error_share):
        return mended.met_share >= MOSTLY_MET
    return mended.error_share <= measured.error_share


def _some_readings(view: PosedDepth) -> Float32[np.ndarray, " n"]:
    """Return depth readings spread over a view, which have its median to a per mille or so."""
    spread = thinned(view.depth_m, _READINGS_OF_A_MEDIAN)
    readings: np.ndarray = spread[spread > 0]
    return readings


def _single_conventions() -> Iterator[Convention]:
    yield from (Convention(poses=poses) for poses in POSES[1:])
    yield from (Convention(depth_scale=scale) for scale in SCALES)
    yield from (Convention(focal_scale=focal) for focal in FOCALS)
    yield Convention(is_portrait=True)


def _double_conventions() -> Iterator[Convention]:
    for poses, scale in product(POSES, (1.0, *SCALES)):
        yield Convention(poses=poses, depth_scale=scale)
    for poses in POSES:
        yield Convention(poses=poses, is_portrait=True)


def _any_axes() -> Iterator[Convention]:
    directions: tuple[Poses, ...] = ("opencv", "inverse")
    for poses, order, signs in product(
        directions, permutations((1, 2, 3)), product((1, -1), repeat=3)
    ):
        x, y, z = (axis * sign for axis, sign in zip(order, signs, strict=True))
        yield Convention(poses=poses, axes=(x, y, z))


def _by_convention(view: PosedDepth) -> Float64[np.ndarray, "P 4 4"]:
    """Return what a view's pose is under each of `POSES`."""
    return np.stack([world_from_opencv(view.world_from_camera, one) for one in POSES])


def _shares(
    pairs: Sequence[tuple[PosedDepth, PosedDepth]],
    understood: Mapping[int, Float64[np.ndarray, "P 4 4"]],
    conventions: Sequence[Convention],
    below: float = np.inf,
) -> list[float]:
    """Return by what share of the depth readings differ under each; inf where too few meet.

    Those that are not better than `below` are inf too: nobody asks by how much.
    """
    from vega3d.pipeline.scenes.trials import tried  # numba's: not to plan with

    if not pairs:
        return [np.inf] * len(conventions)
    cameras = _Cameras(conventions, understood)
    errors, met = tried(pairs, cameras, most_readings=_READINGS_TRIED, below=below)
    return [float(one) for one in np.where(met >= LEAST_MET, errors, np.inf)]


class _Cameras:
    """What `Convention.of` makes of a view's camera, for several conventions at once."""

    def __init__(
        self,
        conventions: Sequence[Convention],
        understood: Mapping[int, Float64[np.ndarray, "P 4 4"]],
    ) -> None:
        """Prepare to read views whose poses under each convention are known by their id()."""
        self._understood = understood
        self._poses = [POSES.index(one.poses) for one in conventions]
        self._scales = np.array([one.depth_scale for one in conventions])
        self._turns = np.stack([_turn(one.axes) for one in conventions])
        self._focals = np.ones((len(conventions), 3, 3))
        for axis in range(2):
            self._focals[:, axis, axis] = [one.focal_scale for one in conventions]
        self._is_portrait = np.array([one.is_portrait for one in conventions])

    def __call__(self, view: PosedDepth) -> "Cameras":
        K = np.asarray(view.K, np.float64)
        exchanged = K[[1, 0, 2]][:, [1, 0, 2]]
        intrinsics = np.where(self._is_portrait[:, None, None], exchanged, K) * self._focals
        poses = self._understood[id(view)][self._poses]
        poses = self._turns @ poses @ self._turns.transpose(0, 2, 1)
        poses[:, :3, 3] /= self._scales[:, None]
        return intrinsics, poses


def _understood(
    pairs: Sequence[tuple[PosedDepth, PosedDepth]], convention: Convention
) -> list[tuple[PosedDepth, PosedDepth]]:
    return [(convention.of(first), convention.of(second)) for first, second in pairs]


def _spread(
    pairs: Sequence[tuple[PosedDepth, PosedDepth]],
) -> list[tuple[PosedDepth, PosedDepth]]:
    """Return some of the pairs, spread evenly over all."""
    chosen = np.unique(np.linspace(0, len(pairs) - 1, _PAIRS_TRIED).astype(int))
    return [pairs[index] for index in chosen] if pairs else []


def _is_clearly_better(share: float, than: float) -> bool:
    return share * CLEARLY_BETTER < than and share + LEAST_GAIN < than


def _remedies(found: Diagnosis) -> Iterator[str]:
    """Yield what mends each thing that is misread; options where there are some."""
    meant = found.meant
    poses, depth_scale = found.options
    if meant.axes != (1, 2, 3):
        names = ", ".join(_DIRECTIONS[axis < 0][abs(axis) - 1] for axis in meant.axes)
        inverse = "camera-from-world matrices with " if meant.poses == "inverse" else ""
        hand = "" if np.linalg.det(_turn(meant.axes)) > 0 else " (a left-handed world)"
        yield f"{inverse}camera axes {names}{hand}, converted to OpenCV's,"
    elif meant.poses != "opencv":
        yield f"--poses {poses}"
    scale = meant.depth_scale
    if scale != 1 and _is_indoor((found.median_depth_m or 1.0) * scale):
        yield f"--depth-scale {depth_scale:.5g}"
    elif scale != 1:
        yield f"positions of the poses times {1 / scale:.5g} (depth has another unit)"
    if meant.focal_scale != 1:
        yield f"a focal length of the depth camera about {meant.focal_scale:g} times as long"
    if meant.is_portrait:
        yield "intrinsics with rows and columns exchanged (portrait for landscape)"


def _is_indoor(median_depth_m: float) -> bool:
    return INDOOR_M[0] <= median_depth_m <= INDOOR_M[1]


def _turn(axes: tuple[int, int, int]) -> Float64[np.ndarray, "4 4"]:
    """Return OpenCV axes from a camera's own."""
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for column, axis in enumerate(axes):
        turn[abs(axis) - 1, column] = np.sign(axis)
    return turn


def _metres(error_m: float | None) -> str:
    assert error_m is not None
    return f"{error_m * 1000:.0f} mm" if error_m < 0.1 else f"{error_m:.2f} m"


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
