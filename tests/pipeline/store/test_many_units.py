"""What is read of many units at once is what is read of each."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from synthetic_unit import make_plan, make_store, scene_arrays

from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.committed import Committed
from vega3d.pipeline.store.index import INDEX
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.moments import read_moments
from vega3d.pipeline.store.objects import open_objects
from vega3d.pipeline.store.record import (
    Record,
    pack_matrices,
    parse_record,
    sealed,
    unpack_matrices,
)
from vega3d.pipeline.store.records import Records
from vega3d.pipeline.store.store import Store
from vega3d.pipeline.store.verify import status
from vega3d.pipeline.store.writer import StoreWriter

MACHINES = ({"torch": "2", "format": "x"}, {}, {"cpu": "b"})


@pytest.fixture
def writer(tmp_path: Path) -> StoreWriter:
    plan = make_plan(5, scenes_per_shard=2)
    made = make_store(str(tmp_path / "s"), plan)
    views = {scene.scene_id: scene.num_views for scene in plan.scenes}
    for unit, machine in zip(plan.units, MACHINES, strict=True):
        scenes = [scene_arrays(name, views[name]) for name in unit.scene_ids]
        made.write_unit(unit, scenes, machine)
    return made


def test_environments_are_told_with_and_without_an_index(writer: StoreWriter) -> None:
    named = [machine for machine in MACHINES if machine]
    assert status(writer.url)["environments"] == named
    merge_commits(writer)
    assert status(writer.url)["environments"] == named
    path = Path(writer.url, INDEX)
    raw = path.read_bytes()
    at = raw.index(b'"torch"')
    path.write_bytes(raw[:at] + b'"tosch"' + raw[at + 7 :])  # that line is not believed
    assert status(writer.url)["environments"] == named


def test_the_index_holds_the_texts_of_the_records(writer: StoreWriter) -> None:
    merge_commits(writer)
    records = Records(open_objects(writer.url))
    lines = Path(writer.url, INDEX).read_bytes().split(b"\n")
    for unit, sequence in Committed(records, writer.layout)._committed.items():
        raw = Path(writer.url, records.key(unit, sequence)).read_bytes()
        assert lines[unit] == raw
        record = parse_record(raw, "r")
        rebuilt = {name: getattr(record, name) for name in Record.__slots__ if name != "text"}
        assert Record(**rebuilt).to_json() == raw  # a record that was not read gives the same


def test_small_arrays_hold_what_the_records_say(writer: StoreWriter) -> None:
    """Their chunks are put together from bytes; zarr reads what the store itself says."""
    import zarr

    merge_commits(writer)
    group, store = zarr.open_group(writer.url, mode="r"), Store.open(writer.url)
    for scene_id in store.scene_ids:
        row, count = store.row(scene_id), store.num_views(scene_id)
        assert group["view_id"][row].tolist()[:count] == list(store.view_ids(scene_id))
        assert set(group["view_id"][row].tolist()[count:]) <= {""}
        for name, ours in (
            ("image_size", store.image_size(scene_id)),
            ("world_from_camera", store.world_from_camera(scene_id)),
            ("intrinsics", store.intrinsics(scene_id)),
        ):
            np.testing.assert_array_equal(group[name][row][:count], ours)
        assert np.isnan(group["world_from_camera"][row][count:]).all()


def test_moments_that_are_damaged_or_gone_are_named(writer: StoreWriter) -> None:
    objects = open_objects(writer.url)
    commits = Committed(Records(objects), writer.layout).read_all()
    path = Path(writer.url, writer.layout.find("moments").file_key(1))
    raw = path.read_bytes()
    for damaged, told in (
        (raw[:-1] + b"x", "index does not match"),
        (b"x" + raw[1:], r"chunk \(0, 0, 0, 0\) does not match"),
        (b"", "index does not match"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=told):
            list(read_moments(objects, writer.layout, commits))
    path.unlink()
    with pytest.raises(StoreError, match="is committed but gone"):
        list(read_moments(objects, writer.layout, commits))


def test_a_record_behind_a_link_that_leads_out_is_not_read(
    writer: StoreWriter, tmp_path: Path
) -> None:
    objects = open_objects(writer.url)
    records = Records(objects)
    assert objects.read(records.key(0, 0))  # now the folder is known
    path = Path(writer.url, records.key(1, 0))
    path.rename(tmp_path / "outside.json")
    path.symlink_to(tmp_path / "outside.json")
    with pytest.raises(StoreError, match="leads out of the store"):
        objects.read(records.key(1, 0))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match="cannot read"):
        objects.read(records.key(1, 0))


def changed(raw: bytes, member: str, value: object, of: str = "") -> bytes:
    """Return a record's text with another member, and the hash that fits it."""
    document = json.loads(raw)
    del document["sha256"]
    objects = next(iter(document["objects"].values()))
    place = {"": document, "scene": document["scenes"][0], "object": objects}[of]
    place[member] = value
    return sealed(json.dumps(document).encode())


DAMAGED = [
    ("", "unit", True, "int"),
    ("", "unit", 2**24 + 1, "unit"),
    ("", "sequence", -1, "sequence"),
    ("", "sequence", 2.0, "sequence"),
    ("", "kind", "comit", "kind"),
    ("", "format", 1, "another format"),
    ("", "digest", "a" * 64 + "\n", "digest"),
    ("", "objects", {"../k": {"sha256": "a" * 64, "size": 1}}, "leads out"),
    ("", "scenes", None, "scenes"),
    ("", "more", 1, "more"),
    ("", "environment", {"a": 10**19}, "19 digits"),
    ("object", "size", -1, "size"),
    ("object", "sha256", "A" * 64, "sha256"),
    ("object", "name", "x", "name"),
    ("scene", "row", "0", "row"),
    ("scene", "content_sha256", "a", "content_sha256"),
    ("scene", "failure", "\u00fc" * 2049, "longer than"),
    ("scene", "scene_id", "a\x1bb", "control character"),
    ("scene", "scene_id", "\ud800", "surrogate"),
    ("scene", "view_ids", ["0", "fine", "a\x1bb"], "control character"),
    ("scene", "view_ids", ["0", "1", "x" * 1025], "longer than"),
    ("scene", "view_ids", ["0", "1", 2], "view_ids"),
    ("scene", "view_ids", ["0"], "3 image sizes for 1 views"),
    ("scene", "image_size", [[1, 2], [1, 2], [3]], "image_size"),
    ("scene", "image_size", [[1, 2], [1, 2], [3, 2**31]], "image_size"),
    ("scene", "image_size", [[1, 2], [1, 2], [1, -1]], "image_size"),
    ("scene", "image_size", [[1, 2], [1, 2], [1, True]], "image_size"),
    ("scene", "image_size", [[1, 2], [1, 2], [1, 2.0]], "image_size"),
    ("scene", "world_from_camera", "AAAA", "matrices of 3 bytes"),
    ("scene", "intrinsics", "A=AA", "base64"),
    ("scene", "repeated_views", -1, "repeated_views"),
]


@pytest.mark.parametrize(("of", "member", "value", "told"), DAMAGED)
def test_a_record_that_fits_its_hash_and_nothing_else_is_not_believed(
    writer: StoreWriter, of: str, member: str, value: object, told: str
) -> None:
    raw = Path(writer.url, Records(open_objects(writer.url)).key(1, 0)).read_bytes()
    assert parse_record(changed(raw, "sequence", 7), "r").sequence == 7
    with pytest.raises(StoreError, match=told):
        parse_record(changed(raw, member, value, of), "r")


def test_names_may_be_long(writer: StoreWriter) -> None:
    raw = Path(writer.url, Records(open_objects(writer.url)).key(1, 0)).read_bytes()
    names = ["x" * 1024, "\u00fc", "2"]
    record = parse_record(changed(raw, "view_ids", names, "scene"), "r")
    assert list(record.scenes[0].view_ids) == names


@pytest.mark.parametrize("takes_s", [0.0, 0.002])
def test_objects_come_in_order_read_one_by_one_or_at_once(takes_s: float) -> None:
    from vega3d.pipeline.store.ahead import in_order

    def read(item: int) -> int:
        time.sleep(takes_s if item % 3 else 2 * takes_s)
        return -item

    assert list(in_order(read, range(70))) == [-item for item in range(70)]
    assert list(in_order(read, [])) == []


@pytest.mark.parametrize(
    "text",
    ["A" * 11, "A" * 10 + "==", "A" * 9 + "===", "AAAA=AAAAAA=", "A" * 9 + "\n==", "AA\u00e9="],
)
def test_matrices_are_base64_of_their_size(writer: StoreWriter, text: str) -> None:
    raw = Path(writer.url, Records(open_objects(writer.url)).key(1, 0)).read_bytes()
    with pytest.raises(StoreError, match="base64|matrices of 7 bytes"):
        parse_record(changed(raw, "intrinsics", text, "scene"), "r")


def test_matrices_are_kept_to_the_bit() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 4))
    values[1, 2, 3] = np.inf
    packed = pack_matrices(values)
    values[1] = np.nan
    np.testing.assert_array_equal(unpack_matrices(packed, 3, 4), values)
    assert pack_matrices(np.full((2, 3, 3), np.nan)) == pack_matrices(None) == b""
