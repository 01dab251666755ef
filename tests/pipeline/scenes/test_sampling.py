"""Dropping bad poses, and the two ways to sample views."""

from itertools import combinations

import numpy as np
import pytest

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.sampling import drop_bad_poses, greedy_cover, sample_views
from vega3d.pipeline.scenes.scene import Scene, View

K = np.array([[10.0, 0, 2], [0, 10, 2], [0, 0, 1]])


def no_pixels() -> np.ndarray:
    raise AssertionError("pixels must not be touched")


def wall_view(name: str, x_m: float, depth_m: float = 1.0) -> View:
    """A view of 4 x 4 pixels at x, 0.4 m wide at 1 m."""
    pose = np.eye(4)
    pose[0, 3] = x_m
    return View(
        view_id=name,
        read_rgb=no_pixels,
        read_depth_m=lambda: np.full((4, 4), depth_m, dtype=np.float32),
        K_color=K,
        K_depth=K,
        world_from_camera=pose,
    )


def ids(scene: Scene) -> list[str]:
    return [view.view_id for view in scene.views]


def test_non_finite_poses_are_dropped_and_counted_and_missing_ones_stay() -> None:
    bad = np.full((4, 4), -np.inf)
    views = [
        View(view_id="a", read_rgb=no_pixels, world_from_camera=np.eye(4)),
        View(view_id="b", read_rgb=no_pixels, world_from_camera=bad),
        View(view_id="c", read_rgb=no_pixels, world_from_camera=np.full((4, 4), np.nan)),
        View(view_id="d", read_rgb=no_pixels),
    ]
    kept, dropped = drop_bad_poses(Scene("s", tuple(views)))
    assert (ids(kept), dropped) == (["a", "d"], 2)


@pytest.mark.parametrize(("count", "wanted"), [(100, 32), (33, 32), (5, 2), (7, 1)])
def test_uniform_is_the_references_linspace(count: int, wanted: int) -> None:
    views = tuple(View(view_id=str(i), read_rgb=no_pixels) for i in range(count))
    sampled = sample_views(Scene("s", views), wanted, "uniform")
    assert ids(sampled) == [str(int(i * (count - 1) / max(1, wanted - 1))) for i in range(wanted)]


def test_zero_and_too_many_keep_all() -> None:
    scene = Scene("s", tuple(View(view_id=str(i), read_rgb=no_pixels) for i in range(5)))
    for wanted in (0, 5, 6):
        assert sample_views(scene, wanted, "coverage") is scene


def test_coverage_takes_views_that_see_something_new_in_index_order() -> None:
    # d and e see what a sees; c sees half of it; b sees another place.
    views = (wall_view("d", 0), wall_view("a", 0), wall_view("c", 0.2), wall_view("b", 3.0))
    scene = Scene("s", views)
    assert ids(sample_views(scene, 2, "coverage")) == ["d", "b"]
    assert ids(sample_views(scene, 3, "coverage")) == ["d", "c", "b"]


def brute_force_cover(sets: list[np.ndarray], count: int) -> list[int]:
    covered: set[int] = set()
    chosen: list[int] = []
    for _ in range(count):
        gains = [-1 if i in chosen else len(set(s.tolist()) - covered) for i, s in enumerate(sets)]
        best = gains.index(max(gains))
        chosen.append(best)
        covered |= set(sets[best].tolist())
    return chosen


@pytest.mark.parametrize("seed", range(30))
def test_lazy_greedy_equals_plain_greedy_ties_included(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sets = [rng.integers(0, 25, rng.integers(0, 9)) for _ in range(10)]
    count = int(rng.integers(1, 10))
    assert greedy_cover(sets, count) == brute_force_cover(sets, count)
    best = max(len(set(np.concatenate(some).tolist())) for some in combinations(sets, count))
    got = len(set(np.concatenate([sets[i] for i in greedy_cover(sets, count)]).tolist()))
    assert got >= (1 - 1 / np.e) * best  # the known bound of greedy cover


def test_coverage_of_a_room_sees_at_least_as_much_as_uniform() -> None:
    scene = read_scenes("rooms:1?views=12&height=48&width=64").read("room0000")
    sampled = sample_views(scene, 4, "coverage")
    order = [view.view_id for view in scene.views]
    assert len(sampled.views) == 4
    assert ids(sampled) == sorted(ids(sampled), key=order.index)
    assert sample_views(scene, 4, "coverage") == sampled


def test_coverage_without_depth_says_what_to_do() -> None:
    scene = Scene("tour", tuple(View(view_id=str(i), read_rgb=no_pixels) for i in range(3)))
    with pytest.raises(SceneError, match=r"tour/view 0: coverage .* use sampling 'uniform'"):
        sample_views(scene, 2, "coverage")
