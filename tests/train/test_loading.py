import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered import numbered
from small_captures import run, write_captures
from worlds import World, write_world

from vega3d.pipeline import open_store
from vega3d.pipeline.errors import StoreError, UsageError
from vega3d.pipeline.imports import import_arrays
from vega3d.pipeline.store.creating import create_or_resume
from vega3d.pipeline.store.units import Plan, PlannedScene
from vega3d.train import chunks
from vega3d.train.batch import Batch
from vega3d.train.chunks import DirectChunks, StoredChunks, bytes_of, open_chunks
from vega3d.train.config import TrainConfig
from vega3d.train.gates import read_gates
from vega3d.train.kept import keeps
from vega3d.train.loader import Loader, kept_features
from vega3d.train.order import Sample, SceneViews, TrainOrder, scoring_samples, split_scenes
from vega3d.train.pairing import pair_stores
from vega3d.train.processes import Processes
from vega3d.train.rundir import plan_run
from vega3d.train.scoring import score_model
from vega3d.train.streams import FeatureCache

CONFIG = TrainConfig(views_per_sample=3, batch_size=4)


def scenes_of(**views: int) -> list[SceneViews]:
    return [SceneViews(name, tuple(range(count))) for name, count in views.items()]


# Chunks


@pytest.mark.parametrize("store_dtype", ["float16", "float32"])
def test_direct_reading_gives_what_the_store_gives(
    make_stores: Callable[..., object], store_dtype: str
) -> None:
    # Three scenes in shards of two: the last shard is not full.
    url = make_stores(num_scenes=3, num_views=5, store_dtype=store_dtype).prior
    store = open_store(url)
    direct = open_chunks(store, "b0")
    assert isinstance(direct, DirectChunks)
    assert direct.dtype == store_dtype
    through_store = StoredChunks(store, "b0")
    for scene_id in store.scene_ids:
        want = store.features(scene_id).reshape(5, 20, 12)
        for view in range(5):
            for reader in (direct, through_store):
                out = np.zeros((20, 12), dtype=store_dtype)
                reader.read_into(store.row(scene_id), view, bytes_of(out))
                np.testing.assert_array_equal(out, want[view])


@pytest.mark.slow
def test_many_shards_need_few_open_files(tmp_path: Path) -> None:
    values = np.arange(90 * 6, dtype=np.float32).reshape(90, 1, 1, 2, 3)
    scenes = [numbered(scene_id=f"s{i:03d}", features={"b": v}) for i, v in enumerate(values)]
    import_arrays(str(tmp_path / "store"), scenes, model="x", scenes_per_shard=1)
    np.save(tmp_path / "want.npy", values)
    script = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from vega3d.pipeline import open_store
from vega3d.train.chunks import DirectChunks, bytes_of, open_chunks
store = open_store(sys.argv[1] + "/store")
want = np.load(sys.argv[1] + "/want.npy")[:, 0, 0]
reader = open_chunks(store, "b")
assert isinstance(reader, DirectChunks)
resource.setrlimit(resource.RLIMIT_NOFILE, (85, 85))
def read(index):
    out = np.zeros((2, 3), reader.dtype)
    reader.read_into(store.row(f"s{index:03d}"), 0, bytes_of(out))
    np.testing.assert_array_equal(out, want[index])
with ThreadPoolExecutor(4) as pool:
    list(pool.map(read, [*range(90), *range(90)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def flip(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (100, r"chunk \(0, 0\) does not match its checksum; run .*verify STORE --repair"),
        (-20, "the shard's index does not match its checksum"),
    ],
)
def test_a_flipped_bit_is_an_error_with_its_place(
    make_stores: Callable[..., object], offset: int, message: str
) -> None:
    url = make_stores(num_scenes=1).prior
    flip(Path(url, "b0", "c.0.0.0.0.0"), offset)
    store = open_store(url)
    with pytest.raises(StoreError, match=message):
        open_chunks(store, "b0").read_into(0, 0, bytes_of(np.zeros((20, 12), dtype=np.float32)))


@pytest.mark.parametrize("size", [0, 10, 30])
def test_a_shard_that_is_cut_off_is_an_error_with_its_place(
    make_stores: Callable[..., object], size: int
) -> None:
    store = open_store(make_stores(num_scenes=1).prior)
    os.truncate(Path(store.url, "b0", "c.0.0.0.0.0"), size)
    with pytest.raises(StoreError, match=r"c.0.0.0.0.0: the shard is cut off; run .*--repair"):
        open_chunks(store, "b0").read_into(0, 0, bytes_of(np.zeros((20, 12), dtype=np.float32)))


@pytest.mark.parametrize("at_once", [0, chunks.AT_ONCE])
def test_views_that_are_not_in_memory_are_asked_for_and_read(
    on_disk: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Without the flag every view counts as not in memory, as on systems that cannot tell."""
    stores = write_world(on_disk, World())
    asked: list[int] = []
    told = os.posix_fadvise
    monkeypatch.setattr(chunks, "AT_ONCE", at_once)
    monkeypatch.setattr(os, "posix_fadvise", lambda *a: (asked.append(a[1]), told(*a)))
    pairing = pair_stores(stores.prior, stores.semantic)
    store = open_store(stores.prior)
    request = requests(pairing, 1)[0]
    for workers in (0, 2):
        (batch,) = Loader(pairing, min_depth_share=0.5, workers=workers).batches([request])
        for sample, gen in zip(request, batch.gen.numpy(), strict=True):
            want = store.features(sample.scene_id)[list(sample.views)].reshape(gen.shape)
            np.testing.assert_array_equal(gen, want)
    # Two streams of 4 samples x 3 views; the first one was read before anything was asked for.
    assert len(asked) == (0 if at_once else 2 * (2 * 12 - 1))


def test_a_shard_that_is_gone_is_an_error_for_every_reader(
    make_stores: Callable[..., object],
) -> None:
    """Zarr fills in NaN."""
    store = open_store(make_stores(num_scenes=1).prior)
    Path(store.url, "b0", "c.0.0.0.0.0").unlink()
    out = bytes_of(np.zeros((20, 12), dtype=np.float32))
    with pytest.raises(StoreError, match="a committed shard is missing"):
        open_chunks(store, "b0").read_into(0, 0, out)
    with pytest.raises(StoreError, match="is committed but gone"):
        StoredChunks(store, "b0").read_into(0, 0, out)


# Order and split


def test_an_epoch_visits_every_view_once_in_shuffled_blocks() -> None:
    scenes = scenes_of(a=6, b=6, c=6, d=6)
    units = [("a", "b"), ("c",), ("d",)]
    config = replace(CONFIG, shards_in_flight=1)
    order = TrainOrder(scenes, units, config, adjacent=False)
    assert order.samples_per_epoch == 8
    first, second = order.samples(0, 8), order.samples(8, 8)
    for epoch in (first, second):
        seen = [(s.scene_id, view) for s in epoch for view in s.views]
        assert sorted(seen) == [(name, view) for name in "abcd" for view in range(6)]
        # One shard at a time: the unit of a sample changes only twice.
        unit_of = {"a": 0, "b": 0, "c": 1, "d": 2}
        units_in_order = [unit_of[s.scene_id] for s in epoch]
        assert sum(x != y for x, y in itertools.pairwise(units_in_order)) == 2
    assert first != [replace(s, epoch=0) for s in second]


def test_any_position_gives_the_same_sample_whoever_asks_and_when() -> None:
    scenes = scenes_of(a=7, b=9, c=4)
    units = [("a",), ("b", "c")]
    whole = TrainOrder(scenes, units, CONFIG, adjacent=False).samples(0, 60)
    later = TrainOrder(scenes, units, CONFIG, adjacent=False)
    assert [later.sample(p) for p in reversed(range(60))] == whole[::-1]
    other_seed = TrainOrder(scenes, units, replace(CONFIG, seed=1), adjacent=False)
    assert other_seed.samples(0, 60) != whole


def test_adjacent_samples_are_neighbours_and_all_pairs_of_neighbours_meet() -> None:
    order = TrainOrder(scenes_of(a=9), [("a",)], CONFIG, adjacent=True)
    samples = order.samples(0, 30 * order.samples_per_epoch)
    met = set()
    for sample in samples:
        assert [v - sample.views[0] for v in sample.views] == [0, 1, 2]
        met |= {(sample.views[0], sample.views[1]), (sample.views[1], sample.views[2])}
    assert met == {(view, view + 1) for view in range(8)}


def test_scoring_asks_every_view_exactly_once() -> None:
    samples = scoring_samples(scenes_of(a=7, b=3), 3)
    asked = [
        (s.scene_id, view)
        for s in samples
        for view, yes in zip(s.views, s.asked, strict=True)
        if yes
    ]
    assert asked == [("a", v) for v in range(7)] + [("b", v) for v in range(3)]
    assert all(len(s.views) == 3 for s in samples)


def test_split_is_by_scene_fixed_by_its_seed_and_independent_of_the_training_seed() -> None:
    views = {f"s{i}": 4 for i in range(8)}
    split = split_scenes(views, CONFIG)
    train, val = ({s.scene_id for s in side} for side in (split.train, split.val))
    assert len(val) == 2
    assert train | val == set(views)
    assert not train & val
    assert split == split_scenes(views, replace(CONFIG, seed=5))
    assert {split_scenes(views, replace(CONFIG, split_seed=s)).val for s in range(9)} != {split.val}
    assert "Split by scene: 6 to train, 2 scored" in split.note


def test_one_scene_is_split_by_time_with_a_gap_and_says_so() -> None:
    split = split_scenes({"a": 20}, replace(CONFIG, gap_views=2, val_share=0.25))
    assert split.train[0].views == tuple(range(13))
    assert split.val[0].views == tuple(range(15, 20))
    assert split.kind == "time"
    assert "say nothing about a new scene" in split.note


def test_too_few_views_is_an_error_with_what_to_lower() -> None:
    with pytest.raises(
        ValueError, match=r"only scene and has 7 views: too few.*--views-per-sample"
    ):
        split_scenes({"a": 7}, CONFIG)
    with pytest.raises(ValueError, match=r"no scene has 3 views.*most is 2.*--views-per-sample"):
        split_scenes({"a": 2, "b": 1}, CONFIG)
    left_out = split_scenes({"a": 2, "b": 5, "c": 5}, CONFIG)
    assert "1 scenes with fewer than 3 views are left out" in left_out.note


# Batches


def requests(pairing: object, count: int = 6) -> list[list[Sample]]:
    scenes = [SceneViews(name, tuple(range(8))) for name in pairing.scene_ids]
    order = TrainOrder(scenes, pairing.units, CONFIG, adjacent=False)
    return [order.samples(4 * step, 4) for step in range(count)]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("cache_bytes", [0, 3000, 1 << 20])
def test_batches_do_not_depend_on_workers_or_cache(
    stores: object, workers: int, cache_bytes: int
) -> None:
    pairing = pair_stores(stores.prior, stores.semantic, labels=stores.labels)
    asked = requests(pairing, 8)
    cache = FeatureCache(cache_bytes)
    loader = Loader(pairing, min_depth_share=0.5, workers=workers, prefetch=3, cache=cache)
    store = open_store(stores.prior)
    count = 0
    for request, batch in zip(asked, loader.batches(asked), strict=True):
        for b, sample in enumerate(request):
            views = list(sample.views)
            want = store.features(sample.scene_id)[views].reshape(3, 20, 12)
            np.testing.assert_array_equal(batch.gen[b].numpy(), want)
            xyz = store.world_xyz(sample.scene_id)[views].reshape(3, 20, 3)
            np.testing.assert_array_equal(batch.xyz_world[b].numpy(), xyz)
            assert batch.views[b].tolist() == views
        assert batch.scene_ids == tuple(s.scene_id for s in request)
        count += 1
    assert count == 8
    assert cache.size_bytes <= cache_bytes


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_of_kept_features_are_those_that_are_read(stores: object, workers: int) -> None:
    pairing = pair_stores(stores.prior, stores.semantic)
    asked = requests(pairing, 8)
    kept = kept_features(pairing, "always", torch.device("cpu"))
    loader = Loader(pairing, min_depth_share=0.5, workers=workers, kept=kept)
    plain = Loader(pairing, min_depth_share=0.5, workers=0)
    for mine, theirs in zip(loader.batches(asked), plain.batches(asked), strict=True):
        for field in fields(Batch):
            if isinstance(value := getattr(theirs, field.name), torch.Tensor):
                torch.testing.assert_close(
                    getattr(mine, field.name), value, rtol=0, atol=0, equal_nan=True
                )


def test_features_are_kept_on_a_gpu_where_they_fit() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert keeps("auto", 59, gpu, free=lambda: 100)
    assert not keeps("auto", 61, gpu, free=lambda: 100)
    assert not keeps("never", 1, gpu, free=lambda: 100)
    assert not keeps("auto", 1, cpu)
    assert keeps("always", 10**15, cpu)


@pytest.mark.slow
@pytest.mark.server
def test_stores_in_a_bucket_give_the_same_batches(stores: object, bucket: str) -> None:
    import boto3

    client = boto3.client("s3")
    for url, name in ((stores.prior, "prior"), (stores.semantic, "semantic")):
        for path in (path for path in Path(url).rglob("*") if path.is_file()):
            key = f"loader/{name}/{path.relative_to(url)}"
            client.upload_file(str(path), bucket.removeprefix("s3://"), key)
    local = pair_stores(stores.prior, stores.semantic)
    remote = pair_stores(f"{bucket}/loader/prior", f"{bucket}/loader/semantic")
    assert isinstance(open_chunks(remote.prior, "b0"), StoredChunks)
    asked = requests(local, 3)
    here, there = (Loader(one, min_depth_share=0.5).batches(asked) for one in (local, remote))
    for mine, theirs in zip(here, there, strict=True):
        for field in fields(Batch):
            if isinstance(value := getattr(mine, field.name), torch.Tensor):
                torch.testing.assert_close(
                    value, getattr(theirs, field.name), rtol=0, atol=0, equal_nan=True
                )


def test_an_error_of_a_reading_thread_reaches_the_caller(
    make_stores: Callable[..., object],
) -> None:
    stores = make_stores()
    pairing = pair_stores(stores.prior, stores.semantic)
    asked = requests(pairing, 8)
    flip(Path(stores.semantic, "b0", "c.0.0.0.0.0"), 100)
    batches = Loader(pairing, min_depth_share=0.5, workers=2).batches(asked)
    with pytest.raises(StoreError, match=r"chunk \(0, 0\) does not match its checksum"):
        list(batches)
    assert not reading_threads()


def reading_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if "vega3d-loader" in one.name]


def test_an_epoch_may_be_left_in_the_middle_and_another_run_beside_it(stores: object) -> None:
    pairing = pair_stores(stores.prior, stores.semantic)
    asked = requests(pairing, 8)
    loader = Loader(pairing, min_depth_share=0.5, workers=2, prefetch=3)
    left = loader.batches(asked)
    first = next(left).gen.clone()
    beside = [batch.gen.clone() for batch in loader.batches(asked)]
    torch.testing.assert_close(beside[0], first, rtol=0, atol=0)
    torch.testing.assert_close(next(left).gen, beside[1], rtol=0, atol=0)
    left.close()
    assert not reading_threads()


def test_a_loader_refuses_threads_that_could_never_work(stores: object) -> None:
    pairing = pair_stores(stores.prior, stores.semantic)
    for workers, prefetch in ((-1, 4), (2, 0)):
        with pytest.raises(ValueError, match=r"0 or more workers, .* prefetch of 1 or more"):
            Loader(pairing, min_depth_share=0.5, workers=workers, prefetch=prefetch)


def test_buffers_are_used_again_and_not_before_they_are_free(stores: object) -> None:
    pairing = pair_stores(stores.prior, stores.semantic)
    loader = Loader(pairing, min_depth_share=0.5, workers=2, prefetch=2)
    held, addresses = [], set()
    for batch in loader.batches(requests(pairing, 12), hold=2):
        held = [*held[-1:], (batch, batch.gen.clone())]
        for kept, copy in held:  # the last two are still what they were
            assert torch.equal(kept.gen, copy)
        addresses.add(batch.gen.data_ptr())
    assert len(addresses) <= 4  # prefetch + hold


def test_geometry_is_in_each_views_camera_and_masked_where_unknown(tmp_path: Path) -> None:
    # Camera 0 looks along +z from (1, 0, 0); camera 1 is turned by 90 degrees: its z is world x.
    turned = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1.0]])
    moved = np.eye(4)
    moved[0, 3] = 1
    poses = np.stack([moved, turned, np.full((4, 4), np.nan)])
    xyz = np.tile(np.array([3.0, 0.5, 2.0], dtype=np.float32), (3, 1, 2, 1))
    xyz[0, 0, 1] = np.nan
    share = np.ones((3, 1, 2), dtype=np.float32)
    share[1, 0, 1] = 0.4
    coverage = np.ones((3, 1, 2), dtype=np.float32)
    coverage[1, 0, 0] = 0
    features = np.ones((3, 1, 2, 4), dtype=np.float32)
    covered = np.where(coverage[..., None] > 0, features, np.nan)
    common = {"scene_id": "a", "world_xyz": xyz, "depth_share": share, "world_from_camera": poses}
    import_arrays(str(tmp_path / "p"), [numbered(features={"b": features}, **common)], model="p")
    import_arrays(
        str(tmp_path / "s"),
        [numbered(features={"b": covered}, coverage=coverage, **common)],
        model="s",
    )
    found = pair_stores(str(tmp_path / "p"), str(tmp_path / "s")).geometry("a", 0.5)
    assert found.has_depth.tolist() == [[True, False], [False, False], [False, False]]
    assert found.valid.tolist() == [[True, True], [False, True], [True, True]]
    np.testing.assert_allclose(found.xyz_camera[0, 0], [2.0, 0.5, 2.0])
    assert np.isnan(found.xyz_camera[~found.has_depth]).all()
    wider = pair_stores(str(tmp_path / "p"), str(tmp_path / "s")).geometry("a", 0.3)
    np.testing.assert_allclose(wider.xyz_camera[1, 1], [-2.0, 0.5, 3.0])


def test_views_are_seeded_one_by_one(stores: object) -> None:
    pairing = pair_stores(stores.prior, stores.semantic)
    loader = Loader(pairing, min_depth_share=0.5, workers=0, seed=3)
    (batch,) = (
        b.seeds.clone()
        for b in loader.batches([[Sample("scene0", (0, 1)), Sample("scene0", (1, 0))]])
    )
    assert batch[0].tolist() == batch[1].tolist()[::-1]
    assert len(set(batch[0].tolist())) == 2


# Misuse


def test_stores_that_share_no_scene_say_what_they_hold(
    make_stores: Callable[..., object], tmp_path: Path
) -> None:
    stores = make_stores(num_scenes=1)
    scene = numbered(scene_id="other", features={"b": np.ones((8, 4, 5, 3), np.float32)})
    import_arrays(str(tmp_path / "other"), [scene], model="x")
    with pytest.raises(
        ValueError, match=r"share no scene: prior has 1, such as \['scene0'\]; semantic .*'other'"
    ):
        pair_stores(stores.prior, str(tmp_path / "other"))


def test_another_view_sampling_names_the_scene_and_both_samplings(
    make_stores: Callable[..., object],
) -> None:
    with pytest.raises(
        ValueError, match=r"scene0 has other views in the semantic store: 6 views.*8 views.*--views"
    ):
        pair_stores(make_stores(num_views=8).prior, make_stores(num_views=6).semantic)


def extracted(url: str, content: str) -> str:
    """Write a store as if its features had been computed here, of these pixels."""
    plan = Plan((PlannedScene("scene0", 2, 2),), 1)
    config = {"backbone": "siglip", "grid": [2, 2], "store_dtype": "float16"}
    identity = {"config": config, "taps": ["b0"], "channels": 3, "weights_sha256": "0" * 64}
    scene = numbered(
        scene_id="scene0",
        features={"b0": np.ones((2, 2, 2, 3), np.float32)},
        world_xyz=np.ones((2, 2, 2, 3), np.float32),
        content_sha256=content * 64,
    )
    create_or_resume(url, plan, identity, {}).write_unit(plan.units[0], [scene], {})
    return url


def test_features_of_other_pixels_are_refused(tmp_path: Path) -> None:
    prior, semantic = (extracted(str(tmp_path / name), name) for name in "ab")
    with pytest.raises(UsageError, match="scene0 was extracted from other pixels in the semantic"):
        pair_stores(prior, semantic)


def test_another_grid_is_refused(make_stores: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=r"semantic store has \(3, 5\) tokens.*same --grid"):
        pair_stores(make_stores().prior, make_stores(grid=(3, 5)).semantic)


def test_a_half_extracted_store_is_refused_unless_asked_for(
    make_stores: Callable[..., object],
) -> None:
    stores = make_stores(num_scenes=4, scenes_per_shard=2)
    (record,) = Path(stores.semantic).rglob("commits/000001.*.json")
    record.unlink()
    with pytest.raises(
        ValueError, match=r"semantic store .* is half-extracted: 2 of 4 scenes.*--allow-partial"
    ):
        pair_stores(stores.prior, stores.semantic)
    pairing = pair_stores(stores.prior, stores.semantic, allow_partial=True)
    assert pairing.scene_ids == ("scene0", "scene1")
    assert pairing.units == (("scene0", "scene1"),)
    assert any("in the prior store alone" in note for note in pairing.notes)


def test_a_wrong_tap_gets_the_list_of_taps(stores: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tap 'k300'; give --prior-tap one of \['b0'\]"):
        pair_stores(stores.prior, stores.semantic, prior_tap="k300")
    values = np.ones((8, 4, 5, 3), np.float32)
    two = numbered(scene_id="scene0", features={"k1": values, "k2": values})
    import_arrays(str(tmp_path / "two"), [two], model="x")
    with pytest.raises(
        ValueError, match=r"several taps; give --semantic-tap one of \['k1', 'k2'\]"
    ):
        pair_stores(stores.prior, str(tmp_path / "two"))


def test_a_label_store_with_more_than_one_channel_is_refused(stores: object) -> None:
    with pytest.raises(ValueError, match="label store has one channel"):
        pair_stores(stores.prior, stores.semantic, labels=stores.prior)


def test_several_stores_are_read_as_one(make_stores: Callable[..., object], tmp_path: Path) -> None:
    first = make_stores(num_scenes=1)
    arrays = open_store(first.prior)
    more = numbered(
        scene_id="more",
        features={"b0": arrays.features("scene0") + 1},
        world_xyz=arrays.world_xyz("scene0"),
        world_from_camera=arrays.world_from_camera("scene0"),
    )
    urls = {}
    for name in ("prior", "semantic"):
        urls[name] = str(tmp_path / f"more_{name}")
        import_arrays(
            urls[name],
            [
                more
                if name == "prior"
                else replace(more, features={"b0": open_store(first.semantic).features("scene0")})
            ],
            model=f"synthetic-{name}",
            scenes_per_shard=2,
            store_dtype="float32",
        )
    pairing = pair_stores([first.prior, urls["prior"]], [first.semantic, urls["semantic"]])
    assert pairing.scene_ids == ("scene0", "more")
    loader = Loader(pairing, min_depth_share=0.5, workers=1)
    for batch in loader.batches([[Sample("scene0", (0,)), Sample("more", (0,))]]):
        torch.testing.assert_close(batch.gen[1], batch.gen[0] + 1)


def test_gates_of_views_that_fill_up_a_sample_count_once(
    make_stores: Callable[..., object],
) -> None:
    stores = make_stores(num_scenes=3, num_views=5)
    config = TrainConfig(tasks=("depth",), hidden_dim=8, heads=2, views_per_sample=4)
    plan = plan_run(pair_stores(stores.prior, stores.semantic), config)
    loader = Loader(plan.pairing, min_depth_share=0.5, workers=0)
    processes = Processes(0, 1, torch.device("cpu"))
    model = plan.build_model()
    scores = score_model(model, loader, plan.scoring, processes, batch_size=2)
    assert sum(scores.gate_counts) == 5 * 20
    assert len(read_gates(model, loader, list(plan.scoring))) == 5


@pytest.mark.slow
def test_scenes_that_are_read_wrongly_are_named(tmp_path: Path) -> None:
    captures = write_captures(tmp_path / "captures")
    for path in (captures / "b" / "pose").iterdir():  # as OpenGL has them
        np.savetxt(path, np.loadtxt(path) @ np.diag([1.0, -1, -1, 1]))
    run(captures, tmp_path / "s")
    (note,) = pair_stores(str(tmp_path / "s"), str(tmp_path / "s")).notes
    assert note.startswith("1 of 3 scenes are read wrongly, such as b (")
    assert "--poses opengl" in note
