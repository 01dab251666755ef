"""The store's contract, read by others and broken on purpose."""

import json
import pickle
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from numbered import numbered
from synthetic_unit import CHANNELS, GRID, TAPS, make_plan, make_store, make_worker, scene_arrays

from vega3d.pipeline import open_store
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.errors import SceneError, StoreError
from vega3d.pipeline.imports import import_arrays
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.store.creating import create_or_resume
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.objects import FolderObjects, open_objects, zarr_store
from vega3d.pipeline.store.records import Records
from vega3d.pipeline.store.store import JoinedStore
from vega3d.pipeline.store.verify import status, verify
from vega3d.pipeline.store.writer import uncommitted


def write(url: str, count: int = 5, **faults: object) -> str:
    plan, worker = make_worker(url, count, **faults)
    list(run_inline(worker, uncommitted(worker.store, plan)))
    merge_commits(worker.store)
    return url


@pytest.fixture
def url(tmp_path: Path) -> str:
    return write(str(tmp_path / "store"), fail_on=("hall/002 \u00fc",))


def test_what_was_written_is_what_is_read(url: str) -> None:
    store = open_store(url)
    assert store.scene_ids == tuple(f"hall/{i:03d} \u00fc" for i in (0, 1, 3, 4))
    assert store.failures == {"hall/002 \u00fc": "the JPEG is truncated"}
    for scene_id in store.scene_ids:
        expected = scene_arrays(scene_id, store.num_views(scene_id))
        for tap in TAPS:
            stored = store.features(scene_id, tap)
            np.testing.assert_array_equal(stored, expected.features[tap].astype(np.float16))
        np.testing.assert_array_equal(store.world_xyz(scene_id), expected.world_xyz)
        np.testing.assert_array_equal(store.preview(scene_id), expected.preview)
        np.testing.assert_array_equal(store.world_from_camera(scene_id), expected.world_from_camera)
        assert store.depth_share(scene_id).min() == 1
        assert np.isnan(store.intrinsics(scene_id)).all()
        assert store.image_size(scene_id).tolist() == [[30, 40]] * store.num_views(scene_id)


def test_channel_stats_are_those_of_all_tokens(url: str) -> None:
    store = open_store(url)
    tokens = np.concatenate(
        [
            scene_arrays(name, store.num_views(name)).features[TAPS[0]].reshape(-1, CHANNELS)
            for name in store.scene_ids
        ]
    )
    tokens = tokens.astype(np.float16).astype(np.float64)  # of what is stored
    stats = store.channel_stats(TAPS[0])
    np.testing.assert_allclose(stats["mean"], tokens.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(stats["std"], tokens.std(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(stats["absmax"], np.abs(tokens).max(axis=0))
    merged = xarray.open_zarr(url)["stats"].sel(tap=TAPS[0])
    for name, values in stats.items():
        np.testing.assert_array_equal(merged.sel(stat=name).values, values)


def test_xarray_zarr_zarrs_and_tensorstore_read_the_same_numbers(url: str) -> None:
    store = open_store(url)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labelled = xarray.open_zarr(url)
        group = zarr.open_group(url, mode="r", use_consolidated=False)
        names = {name for name, _ in group.members(max_depth=None)}
    assert {"scene", "committed", "num_views", "view_id", "unit"} <= set(labelled.coords)
    assert labelled[TAPS[0]].dims == ("scene", "view", "row", "col", "channel")
    assert labelled.committed.values.tolist() == [True, True, False, True, True]
    assert set(labelled.variables) == names
    small = ("num_views", "image_size", "world_from_camera", "intrinsics", "stats")
    for name in (*TAPS, "geometry", "preview", "moments", *small):
        ours = zarr.open_array(url, path=name, mode="r")[:]
        np.testing.assert_array_equal(labelled[name].values, ours)
        np.testing.assert_array_equal(_through_zarrs(url, name), ours)
        np.testing.assert_array_equal(_through_tensorstore(url, name), ours)
    depth = labelled.geometry.sel(quantity="depth_share").values
    np.testing.assert_array_equal(depth[0, :1], store.depth_share("hall/000 \u00fc"))
    row = store.row("hall/003 \u00fc")
    assert np.isnan(labelled[TAPS[0]].values[2]).all()
    assert labelled.view_id.values[row].tolist() == ["0", "", ""]
    assert str(labelled.failure.values[2]) == "the JPEG is truncated"


def _through_zarrs(url: str, name: str) -> np.ndarray:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return np.asarray(zarr.open_array(url, path=name, mode="r")[:])


def _through_tensorstore(url: str, name: str) -> np.ndarray:
    path = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{url}/{name}/"}}
    return np.asarray(tensorstore.open(path, open=True).result().read().result())


@pytest.mark.parametrize("place", [0.0, 0.05, 0.999])
def test_a_flipped_bit_makes_every_reader_raise(url: str, place: float) -> None:
    shard = Path(url, TAPS[0], "c.0.0.0.0.0")
    raw = bytearray(shard.read_bytes())
    raw[int(place * (len(raw) - 1))] ^= 4
    shard.write_bytes(raw)
    with pytest.raises(StoreError, match=r"damaged.*verify STORE --repair"):
        open_store(url).features("hall/000 \u00fc", TAPS[0])
    with pytest.raises(ValueError, match="checksum"):
        xarray.open_zarr(url)[TAPS[0]].load()
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(url, path=TAPS[0], mode="r")[:]
    with pytest.raises(RuntimeError, match="checksum"):
        _through_zarrs(url, TAPS[0])
    with pytest.raises(ValueError, match="DATA_LOSS"):
        _through_tensorstore(url, TAPS[0])
    found = verify(url)
    assert found.faults == {f"{TAPS[0]}/c.0.0.0.0.0": "does not match its checksum"}


def test_repair_takes_the_unit_back_and_the_next_run_restores_the_bytes(url: str) -> None:
    digest = open_store(url).digest()
    Path(url, TAPS[1], "c.0.0.0.0.0").write_bytes(b"nonsense")
    Path(url, TAPS[1], "c.2.0.0.0.0").unlink()
    assert sorted(verify(url, repair=True).taken_back) == [0, 2]
    assert status(url)["pending"] == 3
    with pytest.raises(StoreError, match="planned but not committed; run the extraction again"):
        open_store(url).features("hall/000 \u00fc", TAPS[0])
    write(url, fail_on=("hall/002 \u00fc",))
    assert open_store(url).digest() == digest
    assert not verify(url).damaged


def test_another_config_is_refused_with_both_digests_and_the_field(url: str) -> None:
    with pytest.raises(
        StoreError, match=r"[0-9a-f]{12} there, [0-9a-f]{12} asked.*store_dtype"
    ) as e:
        make_store(url, make_plan(5), store_dtype="float32")
    assert '"float16" -> "float32"' in str(e.value)
    make_store(url, make_plan(5), model="the same weights by another name")


def test_other_scenes_are_refused(url: str) -> None:
    with pytest.raises(StoreError, match=r"1 new \['hall/005 .*never grows"):
        make_store(url, make_plan(6))
    with pytest.raises(StoreError, match=r"1 missing \['hall/004"):
        make_store(url, make_plan(4))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"not empty \(thesis.txt\).*choose a new"):
        make_store(str(tmp_path), make_plan(2))
    zarr.create_group(tmp_path / "other", zarr_format=3)
    with pytest.raises(StoreError, match="no vega3d attributes"):
        make_store(str(tmp_path / "other"), make_plan(2))
    with pytest.raises(StoreError, match="no vega3d store here"):
        open_store(str(tmp_path))


def test_numerics_of_the_store_win(url: str) -> None:
    plan = make_plan(5)
    identity = open_store(url).identity
    other = create_or_resume(url, plan, identity, {"threads": 9})
    assert other.numerics == asdict(Numerics())


def test_a_value_that_float16_cannot_hold_fails_the_scene_with_the_remedy(tmp_path: Path) -> None:
    plan, worker = make_worker(str(tmp_path / "s"), 2)
    good, bad = (scene_arrays(name, n) for name, n in worker.num_views.items())
    bad.features[TAPS[1]][0, 1, 2, 4] = 70_000
    record = worker.store.write_unit(plan.units[0], [good, bad], {})
    assert [bool(scene.failure) for scene in record.scenes] == [False, True]
    assert "tap k300_b2: channel 4 reaches 70000" in record.scenes[1].failure
    assert "--store-dtype float32" in record.scenes[1].failure
    bad.features[TAPS[1]][0, 1, 2, 4] = np.inf
    plan, worker = make_worker(str(tmp_path / "t"), 2)
    record = worker.store.write_unit(plan.units[0], [good, bad], {})
    assert "channel 4 (1 in all) is not finite" in record.scenes[1].failure


def test_an_orphans_shards_are_validated_and_committed(url: str, tmp_path: Path) -> None:
    """A worker died between its shards and its commit; another one finds the shards."""
    whole = open_store(url)
    orphaned = tmp_path / "orphaned"
    shutil.copytree(url, orphaned)
    (orphaned / "unit/commits/000001.0.json").unlink()
    write(str(orphaned), fail_on=("hall/002 \u00fc",))
    assert open_store(str(orphaned)).digest() == whole.digest()


def test_repair_beside_a_run_takes_nothing_from_it(url: str) -> None:
    """A unit is committed while `verify` lists: its shards stay, its commit stays."""
    record = Path(url, "unit/commits/000001.0.json")
    kept = record.read_bytes()
    record.unlink()
    keys = FolderObjects.keys

    def commit_while_listing(objects: FolderObjects, prefix: str) -> list[str]:
        found = list(keys(objects, prefix))
        if not prefix:
            record.write_bytes(kept)
        return found

    patch = pytest.MonkeyPatch()
    patch.setattr(FolderObjects, "keys", commit_while_listing)
    try:
        assert not verify(url, repair=True).taken_back
    finally:
        patch.undo()
    assert not verify(url).damaged
    assert not open_store(url).pending


def test_a_shard_that_is_gone_is_damage_not_nan(url: str) -> None:
    Path(url, TAPS[0], "c.0.0.0.0.0").unlink()
    with pytest.raises(StoreError, match=r"c.0.0.0.0.0 is committed but gone.*--repair"):
        open_store(url).features("hall/000 \u00fc", TAPS[0])


@pytest.mark.parametrize("name", ["world_from_camera/c.0.0.0.0", "view_id/c.0.0", "scene/c.0"])
def test_damaged_small_arrays_are_found_and_repaired(url: str, name: str) -> None:
    file = Path(url, name)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    found = verify(url)
    assert name in found.damaged or name in found.unmerged
    verify(url, repair=True)
    again = verify(url)
    assert not again.damaged
    assert not again.unmerged


def test_an_open_store_keeps_what_was_committed_when_it_was_opened(tmp_path: Path) -> None:
    """More units than records are held in memory, read by several threads."""
    url = write(str(tmp_path / "store"), 26)
    store = open_store(url)
    digest, names = store.digest(), list(store.scene_ids)
    poses = {name: scene_arrays(name, store.num_views(name)).world_from_camera for name in names}

    def read(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(len(names), size=100):
            np.testing.assert_array_equal(
                store.world_from_camera(names[index]), poses[names[index]]
            )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    Records(open_objects(url)).revoke(1, 1)
    assert store.digest() == digest
    np.testing.assert_array_equal(store.world_from_camera(names[2]), poses[names[2]])
    assert names[2] in open_store(url).pending
    assert open_store(url).digest() != digest


def test_a_commit_removed_under_an_open_store_is_an_error(url: str) -> None:
    store = open_store(url)
    Path(url, "unit/commits/000000.0.json").unlink()
    with pytest.raises(StoreError, match=r"commit of unit 0 was removed .*--repair.* open it"):
        store.world_from_camera(store.scene_ids[0])


def test_stores_survive_pickling(url: str) -> None:
    store = pickle.loads(pickle.dumps(open_store([url])))
    both = pickle.loads(pickle.dumps(JoinedStore.of([open_store(url)])))
    np.testing.assert_array_equal(
        both.features("hall/001 \u00fc", TAPS[0]), store.features("hall/001 \u00fc", TAPS[0])
    )


def test_a_second_job_does_no_harm(tmp_path: Path) -> None:
    """Both compute every unit; each shard and each commit is written once."""
    url = str(tmp_path / "s")
    plan, first = make_worker(url, 5)
    _, second = make_worker(url, 5)
    units = uncommitted(first.store, plan)
    computed = [second.compute(unit) for unit in units]
    results = [first(unit) for unit in units]
    again = [second.commit(unit, done) for unit, done in zip(units, computed, strict=True)]
    assert all(result.by_others and result.wasted_s > 0 for result in again)
    told = [replace(result, seconds={}, by_others=False, wasted_s=0) for result in again]
    assert [replace(result, seconds={}) for result in results] == told
    assert open_store(url).digest() == open_store(write(str(tmp_path / "t"))).digest()


def test_any_order_of_units_gives_the_same_digest(tmp_path: Path) -> None:
    plan, worker = make_worker(str(tmp_path / "s"), 7)
    list(run_inline(worker, plan.units[::-1]))
    merge_commits(worker.store)
    other = write(str(tmp_path / "t"), 7)
    assert open_store(worker.store.url).digest() == open_store(other).digest()
    assert _bytes(Path(worker.store.url)) == _bytes(Path(other))


def _bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.server
def test_a_store_in_a_bucket_is_the_same_store(bucket: str, tmp_path: Path) -> None:
    remote = write(f"{bucket}/{tmp_path.name}/s")
    local = write(str(tmp_path / "s"))
    assert open_store(remote).digest() == open_store(local).digest()
    name = "hall/001 \u00fc"
    np.testing.assert_array_equal(
        open_store(remote).features(name, TAPS[0]), open_store(local).features(name, TAPS[0])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labelled = xarray.open_zarr(zarr_store(remote))
    np.testing.assert_array_equal(labelled[TAPS[0]].values, xarray.open_zarr(local)[TAPS[0]].values)
    open_objects(remote).replace(f"{TAPS[0]}/c.0.0.0.0.0", [b"damage"])
    assert list(verify(remote, repair=True).damaged) == [f"{TAPS[0]}/c.0.0.0.0.0"]
    write(remote)
    assert open_store(remote).digest() == open_store(local).digest()
    assert not verify(remote).faults
    np.testing.assert_array_equal(labelled[TAPS[0]].values, xarray.open_zarr(local)[TAPS[0]].values)


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("world_xyz", (2, *GRID, 1), [2, *GRID, 3]),
        ("coverage", (1, *GRID), [2, *GRID]),
        ("world_from_camera", (4, 4), [2, 4, 4]),
        ("image_size", (1, 2), [2, 2]),
    ],
)
def test_imported_arrays_are_not_stretched_to_fit(
    tmp_path: Path, name: str, shape: tuple[int, ...], wanted: list[int]
) -> None:
    scene = numbered(
        scene_id="a", features={"b0": np.zeros((2, *GRID, 3))}, **{name: np.zeros(shape)}
    )
    told = f"a: {name} must be {wanted} for features of 2 views .* got {list(shape)}"
    with pytest.raises(SceneError, match=told.replace("[", r"\[")):
        import_arrays(str(tmp_path / "s"), [scene], model="x")
    assert not list(tmp_path.iterdir())


def test_several_stores_read_as_one(tmp_path: Path) -> None:
    def part(name: str, ids: str, source: str = "x") -> str:
        scenes = [
            numbered(scene_id=i, features={"b0": np.full((2, *GRID, 3), ord(i), np.float32)})
            for i in ids
        ]
        import_arrays(str(tmp_path / name), scenes, model=source)
        return str(tmp_path / name)

    first, second = part("one", "ab"), part("two", "cd")
    scenes = [numbered(scene_id=i, features={"b0": np.zeros((2, *GRID, 3))}) for i in "ab"]
    with pytest.raises(StoreError, match=r"holds other features.* of a already"):
        import_arrays(first, scenes, model="x")
    both = open_store([first, second])
    assert both.scene_ids == ("a", "b", "c", "d")
    assert both.features("c").min() == ord("c")
    assert both.taps == ("b0",)
    assert both.channel_stats()["mean"][0] == np.mean([ord(i) for i in "abcd"])
    with pytest.raises(StoreError, match=r"no scene 'z'"):
        both.features("z")
    with pytest.raises(StoreError, match=r"'a' is in .*leave one store out"):
        open_store([first, part("three", "a")])
    with pytest.raises(StoreError, match=r"differ in config.*source"):
        open_store([first, part("four", "e", "y")])


def test_commit_records_name_no_time_host_process_or_path(url: str) -> None:
    record = json.loads(Path(url, "unit/commits/000000.0.json").read_text())
    names = "digest environment format kind objects scenes sequence unit sha256"
    assert list(record) == names.split()
    assert str(url) not in json.dumps(record)


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    plan, worker = make_worker(str(tmp_path / "s"), 1)
    scene = scene_arrays("hall/000 \u00fc", 2)
    record = worker.store.write_unit(plan.units[0], [scene], {})  # a capture that grew
    assert "2 views, where the store was planned for 1 to 1" in record.scenes[0].failure
    wrong = replace(scene, features={tap: v[..., :5] for tap, v in scene.features.items()})
    plan, worker = make_worker(str(tmp_path / "t"), 1)
    with pytest.raises(StoreError, match=r"must be \[views, 3, 4, 6\], got \[2, 3, 4, 5\]"):
        worker.store.write_unit(plan.units[0], [wrong], {})


def test_a_quarantined_unit_replaces_what_its_dying_worker_left(tmp_path: Path) -> None:
    plan, worker = make_worker(str(tmp_path / "s"), 3)
    worker(plan.units[1])
    Path(worker.store.url, "unit/commits/000001.0.json").unlink()
    worker.store.write_failed_unit(plan.units[1], "quarantined")
    assert open_store(worker.store.url).failures == {"hall/002 \u00fc": "quarantined"}
