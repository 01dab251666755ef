"""Units written by several hands: orphans, other machines, retries, writers that sleep."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray
from numbered import numbered
from synthetic_unit import (
    CHANNELS,
    GRID,
    TAPS,
    SyntheticWorker,
    make_plan,
    make_worker,
)

from vega3d.pipeline import open_store
from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.objects import FolderObjects
from vega3d.pipeline.store.scene_arrays import SceneArrays, SceneFailure
from vega3d.pipeline.store.shard import Place, read_shard, shard_parts
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.store.verify import verify
from vega3d.pipeline.store.writer import to_supersede, uncommitted

FAILS = "hall/002 \u00fc"
GRID_OF_CHUNKS = (2, 3, 1, 1, 1)


def write(url: str, count: int = 5, *, retry: bool = False, **faults: object) -> str:
    plan, worker = make_worker(url, count, **faults)
    units = uncommitted(worker.store, plan)
    if retry:
        units += to_supersede(worker.store, plan)
    list(run_inline(worker, units))
    merge_commits(worker.store)
    return url


@pytest.fixture
def url(tmp_path: Path) -> str:
    return write(str(tmp_path / "store"), fail_on=(FAILS,))


@pytest.fixture
def whole(tmp_path: Path) -> str:
    return write(str(tmp_path / "whole"))


def put_chunks(url: str, key: str, chunks: dict[Place, np.ndarray]) -> None:
    Path(url, key).write_bytes(b"".join(shard_parts(chunks, GRID_OF_CHUNKS)))


def forget(url: str, *units: int) -> None:
    """Remove commits as if their writer had died before them."""
    for unit in units:
        Path(url, f"unit/commits/{unit:06d}.0.json").unlink()
    Path(url, "unit/index.jsonl").unlink()


def test_an_orphans_shard_that_does_not_fit_is_left_alone_and_another_is_committed(
    url: str, whole: str
) -> None:
    """Another scene failed then, or other pixels were read: nobody committed it."""
    forget(url, 0, 1)
    block = np.full((*GRID, CHANNELS), 7, np.float16)
    put_chunks(url, f"{TAPS[0]}/c.0.0.0.0.0", dict.fromkeys(np.ndindex(*GRID_OF_CHUNKS), block))
    write(url)
    assert open_store(url).digest() == open_store(whole).digest()
    assert not verify(url).faults
    np.testing.assert_array_equal(
        xarray.open_zarr(url)[TAPS[0]].values, xarray.open_zarr(whole)[TAPS[0]].values
    )


def test_a_shard_of_another_machine_is_taken_over(url: str) -> None:
    """Last bits differ: it is as good as ours, and the commit does not say whose it is."""
    forget(url, 0)
    key = "geometry/c.0.0.0.0.0"
    chunks = read_shard(Path(url, key).read_bytes(), GRID_OF_CHUNKS, "s")
    other = {
        place: chunk.view(np.float32) * np.float32(1 + 1e-6) for place, chunk in chunks.items()
    }
    put_chunks(url, key, other)
    write(url, fail_on=(FAILS,))
    store = open_store(url)
    assert store.records[0].environment == {}
    expected = other[1, 1, 0, 0, 0].reshape(*GRID, 8)[..., :3]
    np.testing.assert_array_equal(store.world_xyz("hall/001 \u00fc")[1], expected)
    assert not verify(url).faults


@pytest.mark.slow
def test_retry_failed_computes_the_failed_scenes_alone(url: str, whole: str) -> None:
    plan, worker = make_worker(url, 5)
    (unit,) = to_supersede(worker.store, plan)
    assert (unit.todo, unit.kept) == ((FAILS,), {"hall/003 \u00fc"})
    write(url, retry=True)
    assert open_store(url).digest() == open_store(whole).digest()
    assert not open_store(url).failures
    assert not verify(url).faults
    assert verify(url).superseded == 0
    for name in (*TAPS, "geometry", "preview", "moments", "committed", "world_from_camera"):
        np.testing.assert_array_equal(
            xarray.open_zarr(url)[name].values, xarray.open_zarr(whole)[name].values
        )


def test_good_scenes_are_carried_over_byte_for_byte_where_their_source_is_away(url: str) -> None:
    """Two scenes of a unit: one failed, and the mount of the other one is gone at the retry."""
    before = {tap: open_store(url).features("hall/003 \u00fc", tap) for tap in TAPS}
    record = open_store(url).record("hall/003 \u00fc")
    write(url, retry=True, bug_on=("hall/003 \u00fc",))  # would raise if it were computed
    store = open_store(url)
    assert FAILS in store.scene_ids
    for tap in TAPS:
        assert store.features("hall/003 \u00fc", tap).tobytes() == before[tap].tobytes()
    assert store.record("hall/003 \u00fc") == record


def test_a_retry_that_fails_again_changes_nothing(url: str) -> None:
    names = {path: path.read_bytes() for path in Path(url).rglob("*") if path.is_file()}
    write(url, retry=True, fail_on=(FAILS,))
    assert {path: path.read_bytes() for path in Path(url).rglob("*") if path.is_file()} == names


def test_the_old_commit_counts_until_the_new_one_is_there(url: str) -> None:
    """A retry killed before its commit leaves every good scene readable."""
    plan, worker = make_worker(url, 5)
    (unit,) = to_supersede(worker.store, plan)
    create = FolderObjects.create

    def die(objects: FolderObjects, key: str, parts: list[bytes]) -> bool:
        if key.startswith("unit/commits"):
            raise KeyboardInterrupt
        return create(objects, key, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderObjects, "create", die)
        with pytest.raises(KeyboardInterrupt):
            worker(unit)
    assert "hall/003 \u00fc" in open_store(url).scene_ids
    assert not verify(url).faults
    assert verify(url).superseded > 0
    write(url, retry=True)
    assert not open_store(url).failures


def test_verify_says_for_what_nothing_vouches(url: str) -> None:
    before = verify(url)
    assert all(name.startswith("unit/notes/") for name in before.unvouched)
    logs = ["unit/config.toml", "unit/runs/20260101T000000Z-h-1.jsonl", "unit/summary.json"]
    for name in (*logs, "notes.txt"):
        Path(url, name).parent.mkdir(exist_ok=True)
        Path(url, name).write_text("x")
    assert set(verify(url).unvouched) - set(before.unvouched) == {*logs, "notes.txt"}
    assert verify(url).faults == before.faults


def test_moments_that_are_lost_are_computed_from_the_features(url: str) -> None:
    """Without a run: a unit stays committed, and the shard is what it was."""
    shard = Path(url, "moments", "c.1.0.0.0")
    raw = shard.read_bytes()
    shard.unlink()
    done = verify(url, repair=True)
    assert list(done.restored) == ["moments/c.1.0.0.0"]
    assert not done.taken_back
    assert shard.read_bytes() == raw
    assert not verify(url).faults
    Path(url, TAPS[0], "c.1.0.0.0.0").unlink()  # neither without the features
    shard.unlink()
    assert list(verify(url, repair=True).taken_back) == [1]


def test_damage_is_not_carried_over(url: str) -> None:
    shard = Path(url, TAPS[0], "c.1.0.0.0.0")
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(StoreError, match=r"c.1.0.0.0.0 does not match .* carried over.*--repair"):
        write(url, retry=True)


Hook = Callable[[], None]


def at_nth_object(number: int, hook: Hook) -> Callable[[FolderObjects, str, list[bytes]], bool]:
    """Return a `create` that does something else before the n-th object is written."""
    create, count = FolderObjects.create, iter(range(1000))

    def run(objects: FolderObjects, key: str, parts: list[bytes]) -> bool:
        if next(count) == number:
            hook()
        return create(objects, key, parts)

    return run


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("first", [True, False])
def test_a_writer_that_is_overtaken_at_any_object_damages_nothing(
    tmp_path: Path, number: int, first: bool
) -> None:
    """Two jobs with other bits write one unit, or retry it: one wins, and all its bytes stay."""
    url = str(tmp_path / "store")
    plan, fast = make_worker(url, 2, fail_on=() if first else ("hall/000 \u00fc",))
    if not first:
        write(url, 2, fail_on=("hall/000 \u00fc",))
        (unit,) = to_supersede(fast.store, plan)
        fast.fail_on = ()
    else:
        (unit,) = plan.units
    slow = Skewed(fast.store, fast.num_views)
    with pytest.MonkeyPatch.context() as patch:

        def overtake() -> None:
            patch.undo()
            fast(unit)

        patch.setattr(FolderObjects, "create", at_nth_object(number, overtake))
        result = slow(unit)
    assert not result.failures
    merge_commits(fast.store)
    found = verify(url)
    assert not found.faults
    values = {
        scene: open_store(url).features(scene, TAPS[0]) for scene in open_store(url).scene_ids
    }
    assert len(values) == 2
    labelled = xarray.open_zarr(url)
    for row, (scene_id, features) in enumerate(values.items()):
        plain = labelled[TAPS[0]].values[row, : len(features)]
        np.testing.assert_array_equal(plain, features, err_msg=scene_id)


class Skewed(SyntheticWorker):
    """Computes other numbers than the others do."""

    def compute(self, unit: Unit, *rest: object, **named: object) -> object:
        computed = super().compute(unit, *rest, **named)
        for scene in computed.scenes:
            for tap in TAPS:
                scene.features[tap] += 1
        return computed


def test_a_late_publisher_is_mended_by_the_next_merge(url: str) -> None:
    """It put an older shard at the place where readers of Zarr look."""
    place = Path(url, TAPS[0], "c.1.0.0.0.0")
    older = place.read_bytes()
    write(url, retry=True)
    place.unlink()  # not written in place: the name is one of two of one file
    place.write_bytes(older)
    found = verify(url)
    assert list(found.faults) == [f"{TAPS[0]}/c.1.0.0.0.0"]
    assert open_store(url).features(FAILS, TAPS[0]).shape[0] == 3  # ours looks elsewhere
    merge_commits(make_worker(url, 5)[1].store)
    assert not verify(url).faults
    np.testing.assert_array_equal(
        xarray.open_zarr(url)[TAPS[0]].values[2], open_store(url).features(FAILS, TAPS[0])
    )


@pytest.mark.slow
def test_missing_views_cost_their_place_in_the_index_alone(tmp_path: Path) -> None:
    """Twenty short scenes stay short when a long one joins them."""
    from vega3d.pipeline.imports import import_arrays

    def scene(name: str, views: int) -> SceneArrays:
        return numbered(
            scene_id=name, features={"b": np.ones((views, 4, 4, 64), np.float32)},
            world_from_camera=np.tile(np.eye(4), (views, 1, 1)),
        )  # fmt: skip

    short = [scene(f"s{i:02d}", 3) for i in range(20)]
    alone = import_arrays(str(tmp_path / "alone"), short, model="x")
    joined = import_arrays(str(tmp_path / "joined"), [*short, scene("long", 1000)], model="x")
    view_bytes = 4 * 4 * (64 * 2 + 8 * 4) + 2 * 4  # features and geometry, each with its checksum
    places = 3 * 16 * (997 * 20 + 1000)  # in the index of each of three arrays
    grown = joined.records.stored_bytes - alone.records.stored_bytes
    assert grown - 1000 * view_bytes - places < 4000  # the long scene's moments and footers
    names = ("view_id", "image_size", "world_from_camera", "intrinsics")
    small = [f.stat().st_size for name in names for f in (tmp_path / "joined" / name).glob("c.*")]
    real_bytes = (20 * 32 + 1000 + 24) * (4 + 3 + 8 + 128)  # chunks of 32 views
    assert sum(small) < real_bytes + 4 * 16 * 21 * 32 + 10_000
    joined_array = xarray.open_zarr(tmp_path / "joined", chunks=None).b
    assert np.isnan(joined_array[0, 3:].values).all()


def test_a_unit_is_few_files_and_no_folder(whole: str) -> None:
    """One a tap, geometry, preview, moments, and the record."""
    units = len(make_plan(5).units)
    other = str(Path(whole).parent / "more")
    write(other, 7)
    more = [len(list(os.walk(url))) for url in (whole, other)]
    files = [sum(len(names) for *_, names in os.walk(url)) for url in (whole, other)]
    assert more[0] == more[1]
    assert files[1] - files[0] == (len(make_plan(7).units) - units) * (len(TAPS) + 4)


def test_a_unit_that_failed_whole_holds_nothing_but_indices(tmp_path: Path) -> None:
    plan, worker = make_worker(str(tmp_path / "s"), 2)
    worker.store.write_unit(
        plan.units[0], [SceneFailure(name, "away") for name in plan.units[0].scene_ids], {}
    )
    record = json.loads((tmp_path / "s/unit/commits/000000.0.json").read_text())
    assert [entry["size"] for entry in record["objects"].values()] == [68, 68, 68, 36, 68]
    assert open_store(str(tmp_path / "s")).failures == dict.fromkeys(
        plan.units[0].scene_ids, "away"
    )


def test_a_resume_scan_reads_no_record_that_the_index_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a bucket each would be a request: 10,000 of them, one after the other."""
    plan, worker = make_worker(str(tmp_path / "s"), 6, scenes_per_shard=1)
    list(run_inline(worker, plan.units[:4]))
    merge_commits(worker.store)
    read, asked = FolderObjects.read, []

    def noted(objects: FolderObjects, key: str, *limit: int) -> bytes:
        asked.append(key)
        return read(objects, key, *limit)

    monkeypatch.setattr(FolderObjects, "read", noted)
    assert [unit.index for unit in uncommitted(worker.store, plan)] == [4, 5]
    assert [key for key in asked if "commits/" in key] == []
