"""Stores of somebody who means harm: an error of ours, at once, and nothing outside is touched."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numbered import numbered
from synthetic_unit import TAPS, make_worker

from vega3d.pipeline import open_store
from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.imports import import_arrays
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.store.identity import canonical_json, config_digest, sha256_of
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.objects import open_objects
from vega3d.pipeline.store.record import sealed, unsealed
from vega3d.pipeline.store.verify import verify

SHARD = f"{TAPS[0]}/c.0.0.0.0.0"
RECORD = "unit/commits/000000.0.json"
FIRST = "hall/000 \u00fc"


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = str(tmp_path / "store")
    plan, worker = make_worker(url, 3)
    list(run_inline(worker, plan.units))
    merge_commits(worker.store)
    return url


@pytest.mark.parametrize("key", [SHARD, RECORD, "zarr.json", "unit/rows.json", "unit/index.jsonl"])
@pytest.mark.parametrize("kind", ["fifo", "device", "link", "folder"])
def test_only_plain_files_of_the_store_are_opened(
    url: str, tmp_path: Path, key: str, kind: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(Path(url, key).read_bytes())
    path = Path(url, key)
    path.unlink()
    make: dict[str, Callable[[], object]] = {
        "fifo": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "link": lambda: path.symlink_to(secret),
        "folder": path.mkdir,
    }
    make[kind]()
    with suppress(StoreError):
        open_store(url).features(FIRST, TAPS[0])
    assert key in verify(url).faults
    before = secret.read_bytes()
    if kind != "folder":
        verify(url, repair=True)
    assert secret.read_bytes() == before


@pytest.mark.parametrize("key", ["/etc/passwd", "../x", "a/../../x", "a//b", "a\x00b", "a\nb", ""])
def test_names_that_lead_out_of_the_store_are_refused(tmp_path: Path, key: str) -> None:
    objects = open_objects(str(tmp_path))
    for ask in (objects.read, objects.exists, lambda k: objects.create(k, [b"x"])):
        with pytest.raises(StoreError):
            ask(key)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "tap", ["/tmp/x", "../x", "a/b", "geometry", "Unit", "", "a\nb", "x" * 200]
)
def test_taps_that_cannot_name_an_array_are_refused(tmp_path: Path, tap: str) -> None:
    scene = numbered(scene_id="a", features={tap: np.zeros((1, 2, 2, 3), np.float32)})
    with pytest.raises(StoreError, match=r"rename it"):
        import_arrays(str(tmp_path / "s"), [scene], model="x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scene_id", ["/etc", "../x", "a/../b", "a\x1b[2J", "", "a//b", "x" * 2000])
def test_scene_ids_that_lead_out_of_a_folder_are_refused(tmp_path: Path, scene_id: str) -> None:
    scene = numbered(scene_id=scene_id, features={"b": np.zeros((1, 2, 2, 3), np.float32)})
    with pytest.raises(StoreError, match="rename"):
        import_arrays(str(tmp_path / "s"), [scene], model="x")
    assert not list(tmp_path.iterdir())


def reseal_record(url: str, change: Callable[[dict], None]) -> None:
    """Change a record and give it a hash that holds; nothing else knows of it."""
    path = Path(url, RECORD)
    document = json.loads(unsealed(path.read_bytes(), "r"))
    change(document)
    path.write_bytes(sealed(canonical_json(document)))
    Path(url, "unit/index.jsonl").unlink(missing_ok=True)


def move(document: dict, key: str) -> None:
    document["objects"][key] = document["objects"].pop(SHARD)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["scenes"][0].update(row=1),
        lambda d: d["scenes"][0].update(row=10**15),
        lambda d: d["scenes"][0].update(scene_id="hall/001 \u00fc"),
        lambda d: d["scenes"][0].update(view_ids=["v"] * 5),
        lambda d: d["scenes"][0].update(view_ids=["a\x1b[2J"]),
        lambda d: d["scenes"][0].update(world_from_camera="AAAA"),
        lambda d: d["scenes"][0].update(image_size=[[1]]),
        lambda d: d["scenes"].pop(),
        lambda d: d.update(unit=1),
        lambda d: d.update(sequence=7),
        lambda d: d.update(kind="x"),
        lambda d: d.update(environment={"a": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}),
        lambda d: d.update(objects={}),
        lambda d: d["objects"][SHARD].update(size=2**60),
        lambda d: d["objects"][SHARD].update(size=101),
        lambda d: d["objects"][SHARD].update(sha256="x"),
        lambda d: move(d, "/etc/passwd"),
        lambda d: move(d, f"{TAPS[0]}/../../x"),
        lambda d: move(d, f"{TAPS[0]}/c.1.0.0.0.0"),
    ],
)
def test_a_record_that_does_not_fit_the_plan_is_refused_whatever_its_hash(
    url: str, change: Callable[[dict], None]
) -> None:
    reseal_record(url, change)
    with pytest.raises(StoreError, match="--repair"):
        open_store(url)
    assert RECORD in verify(url).faults
    verify(url, repair=True)
    assert open_store(url).pending


def reseal_root(url: str, change: Callable[[dict], None]) -> None:
    path = Path(url, "zarr.json")
    root = json.loads(path.read_text())
    ours = root["attributes"]["vega3d"]
    change(ours)
    ours["config_digest"] = config_digest(ours["identity"])
    del ours["attributes_sha256"]
    ours["attributes_sha256"] = sha256_of([canonical_json(root["attributes"])])
    path.write_text(json.dumps(root))


@pytest.mark.parametrize(
    "change",
    [
        lambda o: o["identity"].update(channels=2**60),
        lambda o: o["identity"].update(channels=True),
        lambda o: o["identity"].update(taps=["/etc"]),
        lambda o: o["identity"].update(taps=5),
        lambda o: o["identity"]["config"].update(grid=[2**40, 2]),
        lambda o: o["identity"]["config"].update(store_dtype="object"),
        lambda o: o.update(scenes_per_shard=2**60),
        lambda o: o.update(scenes_per_shard=0),
        lambda o: o.update(numerics=[]),
        lambda o: o.update(extra=1),
    ],
)
def test_a_root_with_impossible_sizes_is_refused_before_anything_is_allocated(
    url: str, change: Callable[[dict], None]
) -> None:
    whole = open_store(url).digest()
    reseal_root(url, change)
    with pytest.raises(StoreError):
        open_store(url)
    verify(url, repair=True)
    assert open_store(url).digest() == whole


@pytest.mark.one_quick
@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 50_000,
        '{"attributes": {"vega3d": {"format": 1' + "0" * 400 + "}}}",
        '{"zarr_format": 3, "attributes": {"vega3d": {"format": 1e400}}}',
        '{"zarr_format": 3, "attributes": {"vega3d": NaN}}',
        '{"zarr_format": 3, "attributes": {"vega3d": {"\\ud800": 1}}}',
        "\x00",
        "null",
        "\u20ac" * 10,
    ],
)
@pytest.mark.parametrize("key", ["zarr.json", "unit/rows.json", RECORD, "unit/copy.json"])
def test_odd_json_is_an_error_of_ours(url: str, key: str, text: str) -> None:
    Path(url, key).write_text(text)
    with suppress(StoreError):
        open_store(url)
    assert key in verify(url).faults
    verify(url, repair=True)
    assert not verify(url).faults
