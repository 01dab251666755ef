"""The consistency score of one scene: arrays in, scores out; no files, no scheduler.

Letters: V views, h w token grid, C channels. Positions are world metres, poses world-from-camera
(OpenCV cameras). Read `score_tokens` for the order of things.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from vega3d.evaluate.cells import (
    Cells,
    Tokens,
    find_cells,
    gather_tokens,
    shared_cells,
)
from vega3d.evaluate.config import ScoreConfig, Treatment
from vega3d.evaluate.matching import (
    RecallCounts,
    Separation,
    ViewPairs,
    choose_view_pairs,
    match,
)
from vega3d.evaluate.pairs import (
    PairSums,
    above_chance,
    matched_and_random,
    mean_cosine,
    same_position,
)
from vega3d.evaluate.treatments import ChannelSums, channel_sums, treat

NO_OVERLAP = "no overlapping voxels"
NO_TOKENS = "no valid tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class TreatedScore:
    """The numbers of one treatment; None where nothing is there to be averaged."""

    consistency: float | None
    """Mean cosine over voxel-view-pairs (micro). Raw, this is the paper's score."""

    consistency_macro: float | None
    """Mean over voxels of their mean cosine; over view pairs when only neighbours are compared."""

    random: float | None
    """Exact mean cosine of pairs across views that do not match."""

    same_position: float | None
    """Mean cosine of tokens at one grid position of two views, in two voxels."""

    @property
    def above_chance(self) -> float | None:
        """(S - R) / (1 - R): 0 for constant and for random features."""
        return above_chance(self.consistency, self.random)

    @property
    def position_above_chance(self) -> float | None:
        """The same of the same-position pairs: 1 when features are a function of position alone."""
        return above_chance(self.same_position, self.random)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneScores:
    """Everything measured on one scene with one kind of feature."""

    reason: str
    """Why there is no score; empty when there is one."""

    num_views: int
    num_tokens: int
    """Valid ones."""
    num_directionless: int
    """Valid tokens of zero norm; their cosine counts as 0."""
    num_voxels: int
    """Voxels seen from two views or more."""
    num_pairs: int
    """Voxel-view-pairs, the terms of the score."""
    num_random_pairs: int
    num_position_pairs: int
    num_view_pairs: int
    """View pairs that share a voxel; 0 where AUROC and recall are not asked for."""
    num_view_pairs_matched: int
    """Those of them used for AUROC and recall."""

    treatments: Mapping[str, TreatedScore]
    """By name: raw always, and those of centred, standardised, trimmed that were asked for."""
    centred_on: str
    """Where mean and deviation come from: `other scenes` or `this scene`."""
    trimmed_channels: tuple[int, ...]
    """What the trimmed treatment dropped."""

    noise_floor: float | None
    """Mean cosine of a token with itself under another noise; None without a second sample."""

    separation: Mapping[str, Separation]
    """By treatment: similarity histograms, and the AUROC read from them."""
    recall: Mapping[str, RecallCounts]
    """By treatment: correspondence counts by bin and threshold."""

    @property
    def consistency(self) -> float | None:
        """The published score: mean raw cosine over voxel-view-pairs."""
        return self.treatments["raw"].consistency

    @property
    def consistency_macro(self) -> float | None:
        """The same with every voxel of equal weight."""
        return self.treatments["raw"].consistency_macro

    @property
    def random(self) -> float | None:
        """Mean raw cosine of pairs that do not match."""
        return self.treatments["raw"].random

    @property
    def above_chance(self) -> float | None:
        """(S - R) / (1 - R) of the raw cosine."""
        return self.treatments["raw"].above_chance

    @property
    def same_position(self) -> float | None:
        """Mean raw cosine of tokens at one grid position of two views."""
        return self.treatments["raw"].same_position


def consistency(
    features: Float[np.ndarray, "V h w C"],
    world_xyz: Float[np.ndarray, "V h w 3"],
    valid: Bool[np.ndarray, "V h w"],
    voxel_m: float = 0.1,
    *,
    world_from_camera: Float[np.ndarray, "V 4 4"] | None = None,
    second_sample: Float[np.ndarray, "V h w C"] | None = None,
    others: ChannelSums | None = None,
    config: ScoreConfig | None = None,
) -> SceneScores:
    """Score how well the features of one scene agree across views of the same 3D point.

    Args:
        features: Any float type; computed in float32 unless float64, every sum in float64.
        world_xyz: Position of each token, metres; read only where `valid`.
        valid: True where a token has a position and features.
        voxel_m: Edge of a voxel, metres.
        world_from_camera: Poses, to bin recall by rotation; NaN or none: `pose unknown`.
        second_sample: The same features under another noise, for the noise floor.
        others: Sums over the tokens of other scenes, for the centred, standardised and trimmed
            treatments; without them this scene's own are taken, and the result says so.
        config: Everything else; the defaults without it.

    Returns:
        The scores. A scene whose views share no voxel has None for numbers and says why in
        `reason`; a NaN never comes back.

    Raises:
        SceneError: A valid token is not finite, or the positions cannot be metres (a ValueError).

    Source: VEGA-3D, arXiv 2603.19235v2, Eq. 3; the controls are ours.
    """
    config = config or ScoreConfig()
    all_summed = config.pairs == "all" and config.treatments == ("raw",)
    tokens = gather_tokens(features, world_xyz, valid, halves_checked=not all_summed)
    poses = np.full((len(valid), 4, 4), np.nan) if world_from_camera is None else world_from_camera
    again = None
    if second_sample is not None:
        again = gather_tokens(second_sample, world_xyz, valid).unit
    return score_tokens(tokens, voxel_m, poses, config, again=again, others=others)


def score_tokens(
    tokens: Tokens,
    voxel_m: float,
    poses: Float[np.ndarray, "V 4 4"],
    config: ScoreConfig,
    *,
    again: Float[np.ndarray, "N C"] | None = None,
    others: ChannelSums | None = None,
) -> SceneScores:
    """Score gathered tokens; `consistency` says what comes back."""
    sums = others if others is not None and others.count else _own_sums(tokens, config)
    cells = find_cells(tokens.xyz, tokens.view, voxel_m, config.anchor)
    shared = shared_cells(cells)
    chosen = choose_view_pairs(
        shared, tokens.num_views, poses, config.pairs, config.matching_view_pairs
    )
    scored: dict[Treatment, PairSums] = {}
    matched: dict[str, np.ndarray] = {}
    for name in config.treatments:
        treated = _treated(tokens, name, sums, config)
        scored[name] = sum_pairs(treated, voxel_m, config, cells)
        if name in config.matching_treatments and len(chosen.first):
            matched[name] = treated.unit
    mean = sums.mean if "centred" in matched else None
    separations, recalls = match(matched, tokens, chosen, config, cells=shared, mean=mean)
    floor = None if again is None else mean_cosine(tokens.unit, again)
    return _assemble(
        tokens,
        scored,
        chosen,
        num_voxels=int(np.count_nonzero(np.diff(shared.voxel, prepend=-1))),
        centred_on="other scenes" if sums is others else "this scene",
        trimmed=tuple(int(c) for c in sums.largest(config.trim_channels) if sums.count),
        noise_floor=floor,
        separations=separations,
        recalls=recalls,
    )


def _treated(tokens: Tokens, name: Treatment, sums: ChannelSums, config: ScoreConfig) -> Tokens:
    """Return the tokens after a treatment; raw ones are not even brought to length one."""
    if name == "raw":
        return tokens
    unit = treat(tokens.unit, name, sums, config.trim_channels)
    return Tokens(unit, tokens.xyz, tokens.view, tokens.position, tokens.num_views)


def _own_sums(tokens: Tokens, config: ScoreConfig) -> ChannelSums:
    """Sum this scene's channels, unless no treatment asks for them."""
    if config.treatments == ("raw",):
        return channel_sums(np.zeros((0, tokens.values.shape[1])))
    return channel_sums(tokens.unit)


def sum_pairs(tokens: Tokens, voxel_m: float, config: ScoreConfig, cells: Cells) -> PairSums:
    """Sum matched, random and same-position pairs; neighbouring views are scored two by two.

    Args:
        tokens: After a treatment.
        voxel_m: Edge of a voxel, metres.
        config: Which pairs.
        cells: Of all views.
    """
    if config.pairs == "all":
        return _sum_pairs_of(tokens, cells, config)
    total = PairSums()
    for view in range(tokens.num_views - 1):
        both = tokens.of_views(view, view + 1)
        found = find_cells(both.xyz, both.view, voxel_m, config.anchor)
        total += _as_one_group(_sum_pairs_of(both, found, config))
    return total


def _sum_pairs_of(tokens: Tokens, cells: Cells, config: ScoreConfig) -> PairSums:
    shared = shared_cells(cells)
    sums = matched_and_random(tokens, shared)
    if config.same_position:
        sums += same_position(tokens, cells.token_voxel())
    return sums


def _as_one_group(sums: PairSums) -> PairSums:
    """Return the sums of one view pair with its mean as the only term of the macro mean."""
    mean = sums.micro
    return replace(sums, group_sum=mean or 0.0, groups=int(mean is not None))


def _assemble(
    tokens: Tokens,
    scored: Mapping[Treatment, PairSums],
    chosen: ViewPairs,
    *,
    num_voxels: int,
    centred_on: str,
    trimmed: tuple[int, ...],
    noise_floor: float | None,
    separations: Mapping[str, Separation],
    recalls: Mapping[str, RecallCounts],
) -> SceneScores:
    raw = scored["raw"]
    reason = "" if raw.matched_pairs else NO_OVERLAP if len(tokens.view) else NO_TOKENS
    return SceneScores(
        reason=reason,
        num_views=tokens.num_views,
        num_tokens=len(tokens.view),
        num_directionless=tokens.num_directionless,
        num_voxels=num_voxels,
        num_pairs=raw.matched_pairs,
        num_random_pairs=raw.random_pairs,
        num_position_pairs=raw.position_pairs,
        num_view_pairs=chosen.num_sharing,
        num_view_pairs_matched=len(chosen.first),
        treatments={
            name: TreatedScore(
                consistency=sums.micro,
                consistency_macro=sums.macro,
                random=sums.random,
                same_position=sums.same_position,
            )
            for name, sums in scored.items()
        },
        centred_on=centred_on,
        trimmed_channels=trimmed,
        noise_floor=noise_floor,
        separation=separations,
        recall=recalls,
    )
