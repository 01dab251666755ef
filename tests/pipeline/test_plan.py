import pytest

from vega3d.pipeline.errors import StoreError, UsageError
from vega3d.pipeline.plan import plan_units
from vega3d.pipeline.scenes.scene import SceneEntry
from vega3d.pipeline.store.root import new_root


def entry(scene_id: str, views: int = 4, group: str = "") -> SceneEntry:
    return SceneEntry(scene_id=scene_id, num_views=views, size_bytes=1, group=group)


def test_units_are_consecutive_rows_of_one_shard() -> None:
    plan = plan_units([entry(name) for name in "abcde"], num_views=0, scenes_per_shard=2)
    assert [(unit.first_row, unit.scene_ids) for unit in plan.units] == [
        (0, ("a", "b")), (2, ("c", "d")), (4, ("e",)),
    ]  # fmt: skip


def test_view_axis_is_the_longest_scene_up_to_the_limit() -> None:
    scenes = [entry("a", 3), entry("b", 90)]
    assert plan_units(scenes, num_views=32, scenes_per_shard=1).max_views == 32
    assert plan_units(scenes, num_views=0, scenes_per_shard=1).max_views == 90
    assert plan_units([entry("a", 0)], num_views=0, scenes_per_shard=1).max_views == 1


@pytest.mark.parametrize(
    ("counts", "wanted", "got"),
    [((8, 8, 3), 8, 8), ((6, 6), 4, 3), ((5, 7), 8, 5), ((5, 7, 1), 8, 1)],
)
def test_no_unit_spans_two_tars(counts: tuple[int, ...], wanted: int, got: int) -> None:
    scenes = [
        entry(f"{tar}-{i}", group=f"{tar}.tar") for tar, n in enumerate(counts) for i in range(n)
    ]
    plan = plan_units(scenes, num_views=0, scenes_per_shard=wanted)
    assert plan.scenes_per_shard == got
    groups = {scene.scene_id: scene.group for scene in scenes}
    assert all(len({groups[name] for name in unit.scene_ids}) == 1 for unit in plan.units)


def test_repeated_and_missing_scenes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"occur more than once: \['a'\].*rename"):
        plan_units([entry("a"), entry("b"), entry("a")], num_views=0, scenes_per_shard=1)
    with pytest.raises(UsageError, match="no scene to extract"):
        plan_units([], num_views=0, scenes_per_shard=1)


def test_a_shard_that_no_put_can_hold_is_refused() -> None:
    plan = plan_units([entry(str(i), 1000) for i in range(16)], num_views=0, scenes_per_shard=16)
    # 16 scenes x 1000 views x 196 tokens x 1536 channels x 2 bytes = 9.6e9
    identity = {"config": {"grid": [14, 14], "store_dtype": "float16"}, "taps": ["k300_b20"]}
    with pytest.raises(StoreError, match=r"9\.0 GiB.*one PUT takes 5.*--scenes-per-shard"):
        new_root(plan, {**identity, "channels": 1536}, {})
    few = plan_units([entry("long", 3000), *(entry(str(i), 30) for i in range(15))], num_views=0,
                     scenes_per_shard=16)  # fmt: skip
    new_root(few, {**identity, "channels": 1536}, {})  # missing views take no room
