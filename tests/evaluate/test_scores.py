"""Hand-worked cases, known answers, and fast against slow."""

from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vega3d.evaluate import consistency
from vega3d.evaluate.cells import _check_shapes, find_cells, gather_tokens
from vega3d.evaluate.config import TREATMENTS, ScoreConfig, score_only_config
from vega3d.evaluate.metrics import scene_metrics
from vega3d.evaluate.scores import SceneScores
from vega3d.evaluate.treatments import ChannelSums, channel_sums

A, B = [1.0, 0.0], [0.0, 1.0]
NEAR, FAR = [0.05, 0.0, 0.0], [0.95, 0.0, 0.0]


def scene(tokens: list[list[tuple[list[float], list[float]]]]) -> tuple[np.ndarray, ...]:
    """Views of (feature, position) tokens as arrays [V, 1, w, .]; short views are padded."""
    width = max(len(view) for view in tokens)
    channels = len(next(token for view in tokens for token in view)[0])
    features = np.full((len(tokens), 1, width, channels), np.nan)
    xyz = np.full((len(tokens), 1, width, 3), np.nan)
    valid = np.zeros((len(tokens), 1, width), dtype=bool)
    for v, view in enumerate(tokens):
        for p, (feature, position) in enumerate(view):
            features[v, 0, p], xyz[v, 0, p], valid[v, 0, p] = feature, position, True
    return features, xyz, valid


def random_scene(
    seed: int, shape: tuple[int, int, int, int], room_m: float
) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal(shape)
    xyz = rng.uniform(-room_m, room_m, (*shape[:3], 3))
    return features, xyz, rng.random(shape[:3]) < 0.8


# Two voxels, three views. Near: A, A, B in views 0, 1, 2. Far: B in view 0, A in view 1.
TWO_VOXELS = [[(A, NEAR), (B, FAR)], [(A, NEAR), (A, FAR)], [(B, NEAR)]]


def test_two_voxels_by_hand() -> None:
    scores = consistency(*scene(TWO_VOXELS))
    # near: AA = 1, AB = 0, AB = 0; far: BA = 0
    assert scores.num_voxels == 2
    assert scores.num_pairs == 4
    assert scores.consistency == pytest.approx(1 / 4)
    assert scores.consistency_macro == pytest.approx((1 / 3 + 0) / 2)
    # across views and voxels: A0 A1far = 1, A1 B0far = 0, B2 B0far = 1, B2 A1far = 0
    assert scores.num_random_pairs == 4
    assert scores.random == pytest.approx(2 / 4)
    assert scores.above_chance == pytest.approx((0.25 - 0.5) / 0.5)
    # every column holds one voxel only
    assert scores.same_position is None
    assert scores.num_position_pairs == 0
    assert scores.reason == ""


def test_two_voxels_by_hand_with_neighbours_only() -> None:
    scores = consistency(*scene(TWO_VOXELS), config=ScoreConfig(pairs="adjacent"))
    # views 0-1: near 1, far 0; views 1-2: near 0
    assert scores.num_pairs == 3
    assert scores.consistency == pytest.approx(1 / 3)
    assert scores.consistency_macro == pytest.approx((1 / 2 + 0) / 2)
    # views 0-1: A0 A1far = 1, A1 B0far = 0; views 1-2 share one voxel only
    assert scores.random == pytest.approx(1 / 2)


def test_several_tokens_of_one_view_are_averaged_and_of_length_one_again() -> None:
    tokens = [[(A, NEAR), ([0.0, 5.0], NEAR)], [(A, NEAR)]]
    # (A + B) / 2, renormalised, against A: 1 / sqrt(2); the length 5 does not count
    assert consistency(*scene(tokens)).consistency == pytest.approx(2**-0.5)


def test_same_position_by_hand() -> None:
    tokens = [[(A, NEAR), (B, FAR)], [(A, FAR), (B, NEAR)]]
    scores = consistency(*scene(tokens))
    assert scores.same_position == 1.0  # column 0: A A, column 1: B B, never one voxel
    assert scores.consistency == 0.0
    # random pairs: A0near A1far = 1, B0far B1near = 1
    assert scores.random == 1.0
    assert scores.above_chance == 0.0
    still = consistency(*scene([[(A, NEAR)], [(A, NEAR)]]))
    assert still.num_position_pairs == 0  # a camera that stands still has no such pair


def test_centred_by_hand() -> None:
    # unit tokens (1, 0) and (0.6, 0.8); mean of others (0.8, 0.4)
    tokens = [[([2.0, 0.0], NEAR)], [([3.0, 4.0], NEAR)]]
    others = ChannelSums(2, np.array([1.6, 0.8]), np.array([1.36, 0.64]))
    scores = consistency(*scene(tokens), others=others)
    # (0.2, -0.4) and (-0.2, 0.4): opposite
    assert scores.treatments["centred"].consistency == pytest.approx(-1.0)
    # deviations: sqrt(0.68 - 0.64) = 0.2 and sqrt(0.32 - 0.16) = 0.4 -> (1, -1) and (-1, 1)
    assert scores.treatments["standardised"].consistency == pytest.approx(-1.0)
    # half of two channels at most: channel 0 has the larger square -> (0, 0) and (0, 1)
    assert scores.trimmed_channels == (0,)
    assert scores.treatments["trimmed"].consistency == pytest.approx(0.0)
    assert scores.centred_on == "other scenes"
    assert consistency(*scene(tokens)).centred_on == "this scene"


def test_noise_floor_is_the_mean_cosine_of_a_token_with_its_other_sample() -> None:
    first = scene([[(A, NEAR), (A, FAR)]])
    second = scene([[(A, NEAR), (B, FAR)]])[0]
    assert consistency(*first, second_sample=second).noise_floor == pytest.approx(0.5)
    assert consistency(*first).noise_floor is None


def test_separation_by_hand() -> None:
    separation = consistency(*scene(TWO_VOXELS)).separation["raw"]
    # matched: 1, 0, 0, 0; other: 1, 0, 1, 0. Wins: (1 beats two zeros, ties two ones) = 3,
    # each 0 ties two zeros = 1 -> 3 + 3 of 16
    assert separation.matched.sum() == 4
    assert separation.auroc == pytest.approx(6 / 16)
    assert separation.auroc_error == pytest.approx((1 * 2 + 3 * 2) / 2 / 16)


def test_recall_by_hand() -> None:
    # view 0: A at 0, B at 1 m. View 1: A at 0.08 m, B at 3 m, A-like at 1.15 m.
    like_a = [0.9, 0.1]
    tokens = [
        [(A, [0.0, 0, 0]), (B, [1.0, 0, 0])],
        [(A, [0.08, 0, 0]), (B, [3.0, 0, 0]), (like_a, [1.15, 0, 0])],
    ]
    turned = np.stack([np.eye(4), np.eye(4)])
    turned[1, :3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # 90 degrees
    scores = consistency(*scene(tokens), world_from_camera=turned)
    counts = scores.recall["raw"]
    # mutual, from either side: A0 - A1 (0.08 m apart) and B0 - B1 (2 m apart, never right); like_a
    # -> A0 is not. Within 0.05 m nothing has a counterpart; within 0.10 A0 and A1 find each other;
    # within 0.20 B0 and like_a have one too and miss it
    view0 = [[0, 0, 2, 0, 0], [1, 1, 2, 1, 1 / 3], [2, 1, 2, 1, 2 / 3]]
    view1 = [[0, 0, 2, 0, 0], [1, 1, 2, 1, 1 / 2], [2, 1, 2, 1, 2 / 2]]
    expected = np.add(view0, view1)
    np.testing.assert_allclose(counts.overall, expected)
    np.testing.assert_allclose(counts.by_rotation[3], expected)  # 60 to 180 degrees
    # within 0.2 m both tokens of view 0 have one of view 1, and 2 of 3 the other way
    np.testing.assert_allclose(counts.by_overlap[3], view0)
    np.testing.assert_allclose(counts.by_overlap[2], view1)
    metrics = scene_metrics(scores, ScoreConfig())
    assert metrics["mutual_precision_10cm"] == pytest.approx(2 / 4)
    assert metrics["mutual_precision_5cm"] == 0.0  # two mutual matches, and not one is right
    without = consistency(*scene(tokens)).recall["raw"]
    np.testing.assert_allclose(without.by_rotation[4], expected)  # pose unknown


def function_of_point(xyz: np.ndarray) -> np.ndarray:
    """A feature that depends on the voxel alone: noise seeded by it."""
    voxel = np.floor(xyz / 0.1).astype(np.int64) + 1000
    rows = [np.random.default_rng(v).standard_normal(64) for v in voxel.reshape(-1, 3).tolist()]
    return np.reshape(rows, (*xyz.shape[:-1], 64))


def test_known_answers() -> None:
    _, xyz, valid = random_scene(0, (6, 8, 8, 1), room_m=0.2)
    rng = np.random.default_rng(1)
    point = consistency(function_of_point(xyz), xyz, valid)
    assert point.consistency == pytest.approx(1.0, abs=1e-12)
    assert point.above_chance == pytest.approx(1.0, abs=1e-12)
    assert point.separation["raw"].auroc > 0.999
    assert abs(point.random) < 0.02
    constant = consistency(np.full((6, 8, 8, 64), 3.7), xyz, valid)
    assert constant.consistency == pytest.approx(1.0, abs=1e-12)
    assert constant.above_chance == 0.0
    assert constant.treatments["centred"].consistency == 0.0
    assert constant.treatments["standardised"].above_chance == 0.0
    assert constant.separation["raw"].auroc == 0.5
    noise = consistency(rng.standard_normal((6, 8, 8, 64)), xyz, valid)
    # a cosine of 64 channels deviates by 1 / 8, the mean of 300 by 0.007: three times that
    assert noise.num_pairs > 300
    assert abs(noise.consistency) < 0.022
    assert abs(noise.above_chance) < 0.022
    assert noise.separation["raw"].auroc == pytest.approx(0.5, abs=0.05)
    for scores in (point, constant, noise):
        assert scores.treatments["raw"].position_above_chance == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("pairs", ["all", "adjacent"])
@pytest.mark.parametrize("norms", ["one", "many"])
def test_a_constant_is_at_chance_in_every_type(dtype: type, pairs: str, norms: str) -> None:
    _, xyz, valid = random_scene(0, (6, 8, 8, 1), room_m=0.2)
    rng = np.random.default_rng(2)
    vector = rng.standard_normal(64).astype(dtype)
    # powers of two: other norms would turn half precision's constant by rounding
    powers = rng.integers(-3, 4, xyz.shape[:3]) if norms == "many" else np.zeros(xyz.shape[:3])
    features = (np.exp2(powers)[..., None] * vector).astype(dtype)
    if dtype != np.float16 and norms == "many":
        features *= rng.uniform(0.1, 9.0, xyz.shape[:3])[..., None].astype(dtype)
    scores = consistency(
        features, xyz, valid, second_sample=features * 2, config=ScoreConfig(pairs=pairs)
    )
    assert scores.num_pairs > 100
    assert scores.consistency == pytest.approx(1.0, abs=1e-12)
    assert scores.random == pytest.approx(1.0, abs=1e-12)
    assert scores.noise_floor == pytest.approx(1.0, abs=1e-12)
    for treated in scores.treatments.values():
        assert abs(treated.above_chance) <= 1e-9
        assert abs(treated.position_above_chance) <= 1e-9


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_known_answers_in_every_type(dtype: type) -> None:
    _, xyz, valid = random_scene(0, (6, 8, 8, 1), room_m=0.2)
    point = consistency(function_of_point(xyz).astype(dtype), xyz, valid)
    assert point.consistency == pytest.approx(1.0, abs=1e-12)
    assert point.above_chance == pytest.approx(1.0, abs=1e-12)


def test_features_of_pixel_position_alone_are_exposed_by_the_baseline() -> None:
    _, xyz, valid = random_scene(0, (6, 8, 8, 1), room_m=0.2)
    pattern = np.random.default_rng(1).standard_normal((8, 8, 64))
    scores = consistency(np.broadcast_to(pattern, (6, 8, 8, 64)).copy(), xyz, valid)
    assert scores.same_position == pytest.approx(1.0, abs=1e-12)
    assert scores.treatments["raw"].position_above_chance == pytest.approx(1.0, abs=1e-12)
    assert scores.above_chance < 0.05


def test_a_strong_common_offset_fools_raw_cosine_only() -> None:
    _, xyz, valid = random_scene(0, (6, 8, 8, 1), room_m=0.2)
    noise = np.random.default_rng(1).standard_normal((6, 8, 8, 64))
    noise[..., 5] += 60.0  # one massive channel, as in diffusion transformers
    scores = consistency(noise, xyz, valid)
    assert scores.consistency > 0.95
    assert abs(scores.above_chance) < 0.05
    for name in ("centred", "standardised", "trimmed"):
        assert abs(scores.treatments[name].consistency) < 0.05
    assert 5 in scores.trimmed_channels


def assert_no_nan(scores: SceneScores) -> None:
    for treated in scores.treatments.values():
        for value in (treated.consistency, treated.random, treated.same_position):
            assert value is None or np.isfinite(value)


def test_no_overlap_is_a_clear_result() -> None:
    scores = consistency(*scene([[(A, NEAR)], [(A, FAR)], []]))
    assert scores.reason == "no overlapping voxels"
    assert scores.consistency is None
    assert scores.above_chance is None
    assert scores.separation == {}
    assert_no_nan(scores)
    features, xyz, valid = random_scene(0, (3, 2, 2, 4), 1.0)
    nothing = consistency(features, xyz, np.zeros_like(valid))
    assert nothing.reason == "no valid tokens"
    assert_no_nan(nothing)


def test_one_shared_voxel_has_no_chance_level() -> None:
    scores = consistency(*scene([[(A, NEAR)], [(B, NEAR)]]))
    assert scores.consistency == 0.0
    assert scores.random is None
    assert scores.above_chance is None


def test_a_token_of_zero_norm_counts_as_cosine_zero() -> None:
    scores = consistency(*scene([[(A, NEAR)], [([0.0, 0.0], NEAR)], [(A, NEAR)]]))
    assert scores.num_directionless == 1
    assert scores.consistency == pytest.approx(1 / 3)


def test_valid_tokens_must_be_finite() -> None:
    features, xyz, valid = scene([[(A, NEAR)], [(A, NEAR)]])
    features[0, 0, 0, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 2 valid tokens have features that are not finite"):
        consistency(features, xyz, valid)
    features[0, 0, 0, 1] = 0.0
    xyz[1, 0, 0, 2] = np.inf
    with pytest.raises(ValueError, match="1 of 2 valid tokens have no finite world position"):
        consistency(features, xyz, valid)
    xyz[1, 0, 0] = 1e30
    with pytest.raises(ValueError, match="are they in metres"):
        consistency(features, xyz, valid)
    with pytest.raises(ValueError, match="voxel_m must be a positive number"):
        consistency(features, xyz, valid, voxel_m=0.0)


def test_large_features_are_not_called_infinite() -> None:
    features, xyz, valid = scene([[(A, NEAR)], [(A, NEAR)]])
    large = np.full_like(features, 1e30)
    assert consistency(large, xyz, valid).consistency == pytest.approx(1.0)
    with pytest.raises(ValueError, match="up to 1e.30, whose norm overflows in float32"):
        consistency(large.astype(np.float32), xyz, valid)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    features, xyz, valid = random_scene(0, (3, 2, 4, 5), 1.0)
    check = getattr(_check_shapes, "__wrapped__", _check_shapes)
    with pytest.raises(ValueError, match="reshape tokens to their grid"):
        check(features, xyz, valid[:, :1])
    with pytest.raises(ValueError, match="resample positions to the token grid"):
        check(features, xyz[:, :1], valid)
    with pytest.raises(ValueError, match="valid must be boolean, got float64"):
        check(features, xyz, valid.astype(float))
    with pytest.raises(ValueError, match="reshape tokens to their grid"):
        consistency(features, xyz, valid[:, :1])


def test_anchor_moves_the_voxels() -> None:
    # 0.08 and 0.12 lie in two voxels of the origin's grid, in one that starts at 0.08
    tokens = [[(A, [0.08, 0, 0])], [(A, [0.12, 0, 0])]]
    assert consistency(*scene(tokens)).reason == "no overlapping voxels"
    from_minimum = consistency(*scene(tokens), config=ScoreConfig(anchor="minimum"))
    assert from_minimum.consistency == 1.0


def test_negative_coordinates_round_down() -> None:
    cells = find_cells(np.array([[-0.05, 0, 0], [0.05, 0, 0]]), np.array([0, 1]), 0.1, "origin")
    assert cells.voxel.tolist() == [0, 1]


def test_view_pairs_are_capped_and_the_cap_is_told() -> None:
    features, xyz, valid = random_scene(3, (8, 4, 4, 8), room_m=0.2)
    scores = consistency(features, xyz, valid, config=ScoreConfig(matching_view_pairs=5))
    assert scores.num_view_pairs == 26  # of 28; the other two share no voxel
    assert scores.num_view_pairs_matched == 5
    none = consistency(features, xyz, valid, config=ScoreConfig(matching_view_pairs=0))
    assert (none.num_view_pairs, none.separation, none.recall) == (0, {}, {})


def test_score_only_config_gives_the_same_score() -> None:
    arrays = random_scene(3, (8, 4, 4, 8), room_m=0.2)
    full, fast = consistency(*arrays), consistency(*arrays, config=score_only_config())
    assert (fast.consistency, fast.random) == (full.consistency, full.random)
    assert list(fast.treatments) == ["raw"]


def test_half_precision_is_computed_in_single_with_double_sums() -> None:
    features, xyz, valid = random_scene(5, (6, 6, 6, 32), room_m=0.25)
    half = features.astype(np.float16)
    exact = consistency(half.astype(np.float64), xyz, valid)
    for dtype in (np.float16, np.float32):
        scores = consistency(half.astype(dtype), xyz.astype(np.float32), valid)
        if scores.num_pairs == exact.num_pairs:  # float32 positions may cross a voxel's face
            assert scores.consistency == pytest.approx(exact.consistency, abs=1e-7)


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(1, 6))


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=SHAPES,
    room_m=st.sampled_from([0.05, 0.15, 0.4, 3.0]),
    common=st.sampled_from([0.0, 5.0]),
    pairs=st.sampled_from(["all", "adjacent"]),
    anchor=st.sampled_from(["origin", "minimum"]),
    empty_view=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_fast_equals_slow(
    twin: ModuleType,
    seed: int,
    shape: tuple[int, int, int, int],
    room_m: float,
    common: float,
    pairs: str,
    anchor: str,
    empty_view: bool,
) -> None:
    features, xyz, valid = random_scene(seed, shape, room_m)
    features += common
    if empty_view:
        valid[0] = False
    others = np.random.default_rng(seed + 1).standard_normal((9, shape[3])) + common
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    config = ScoreConfig(pairs=pairs, anchor=anchor, trim_channels=2)
    fast = consistency(features, xyz, valid, others=channel_sums(others), config=config)
    tokens = twin.scene_tokens(features, xyz, valid)
    for name in TREATMENTS:
        treated = twin.treated(tokens, name, others, 2)
        slow = twin.score(treated, 0.1, anchor, shape[0], pairs)
        for key in ("consistency", "consistency_macro", "random", "same_position"):
            got, wanted = getattr(fast.treatments[name], key), slow[key]
            assert (got is None) == (wanted is None), (name, key)
            assert got is None or abs(got - wanted) < 1e-10, (name, key)
    counts = (fast.num_pairs, fast.num_random_pairs, fast.num_position_pairs)
    assert counts == twin.score(tokens, 0.1, anchor, shape[0], pairs)["counts"]


@given(seed=st.integers(0, 2**32 - 1), room_m=st.sampled_from([0.15, 0.4]))
@settings(max_examples=25, deadline=None)
def test_matching_equals_slow(twin: ModuleType, seed: int, room_m: float) -> None:
    features, xyz, valid = random_scene(seed, (4, 3, 3, 5), room_m)
    fast = consistency(features, xyz, valid)
    tokens = twin.scene_tokens(features, xyz, valid)
    cells = twin.cells_of(tokens, 0.1, "origin")
    meeting = {(i, j) for views in cells.values() for i in views for j in views if i < j}
    assert fast.num_view_pairs == len(meeting)
    if not meeting:
        return
    shared = [(x, v, u) for x, views in cells.items() if len(views) > 1 for v, u in views.items()]
    matched, other = [], []
    for x, i, a in shared:
        for y, j, b in shared:
            if (i, j) in meeting:
                (matched if x == y else other).append(float(a @ b))
    separation = fast.separation["raw"]
    assert separation.matched.sum() == len(matched)
    assert separation.other.sum() == len(other)
    if other:
        assert abs(separation.auroc - twin.auroc(matched, other)) <= separation.auroc_error + 1e-12
    for k, threshold in enumerate((0.05, 0.1, 0.2)):
        slow = np.sum(
            [
                np.add(twin.recall(tokens, i, j, threshold), twin.recall(tokens, j, i, threshold))
                for i, j in meeting
            ],
            axis=0,
        )
        np.testing.assert_allclose(fast.recall["raw"].overall[k], slow, atol=1e-9)


def test_tokens_keep_their_grid_position() -> None:
    features, xyz, valid = random_scene(0, (2, 3, 4, 2), 1.0)
    valid[:] = False
    valid[1, 2, 3] = True
    tokens = gather_tokens(features, xyz, valid)
    assert (tokens.view.tolist(), tokens.position.tolist()) == ([1], [11])
