"""Stale work is not called done: what changed in a source is listed, and --refresh mends it."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_captures import CONFIG, SCENES, VIEWS, move_poses, run, write_captures

from vega3d.pipeline import changes, open_store, read_scenes
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import preset
from vega3d.pipeline.cli import app
from vega3d.pipeline.extract import Summary, extract
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.scene import Scene, SceneEntry
from vega3d.pipeline.scenes.tars import pack
from vega3d.pipeline.together import StorePlan, extract_together


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captures(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def captures(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "captures"))


def check_refreshed(captures: Path | str, out: Path | str, whole: Path | str) -> None:
    """Assert that a store is what a run from scratch over the captures of now would make it."""
    fresh = run(captures, whole)
    store, expected = open_store(str(out)), open_store(str(whole))
    assert store.digest() == expected.digest() == fresh.digest
    for scene_id in store.scene_ids:
        np.testing.assert_array_equal(store.world_xyz(scene_id), expected.world_xyz(scene_id))


@pytest.mark.slow
def test_poses_that_moved_by_ten_metres_are_no_longer_called_done(
    captures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "s"
    first = run(captures, out)
    assert (first.committed, first.changed, first.unwatched) == (3, {}, 0)
    before = {name: open_store(str(out)).world_xyz(name) for name in SCENES}
    for name in SCENES:
        move_poses(captures, name)
    second = run(captures, out)
    told = "poses (by up to 10.00 m); files that look different: pose/*.txt"
    assert second.changed == dict.fromkeys(SCENES, told)
    assert second.units_this_run == 0
    assert second.digest == first.digest  # nothing was touched
    assert "b: its source has changed since it was computed: poses (by up to 10.00 m)" in (
        caplog.text
    )
    third = run(captures, out, refresh=True)
    assert (third.changed, third.committed, third.units_this_run) == ({}, 3, 2)
    for name in SCENES:
        moved = open_store(str(out)).world_xyz(name) - before[name]
        known = moved[np.isfinite(moved).all(axis=-1)]
        np.testing.assert_allclose(known, np.tile([10.0, 0, 0], (len(known), 1)), atol=1e-4)
    check_refreshed(captures, out, tmp_path / "whole")
    last = run(captures, out)  # who computed them noted how their source looked
    assert (last.changed, last.unwatched) == ({}, 0)


@pytest.mark.slow
def test_only_what_changed_is_computed_anew(captures: Path, tmp_path: Path) -> None:
    """The other unit keeps its commit; the good scene of the unit is carried over."""
    out = tmp_path / "s"
    run(captures, out)
    move_poses(captures, "b")
    commits = lambda: sorted(path.name for path in (out / "unit" / "commits").iterdir())  # noqa: E731
    assert commits() == ["000000.0.json", "000001.0.json"]
    kept = open_store(str(out)).features("a").tobytes()
    again = run(captures, out, refresh=True)
    assert (again.units_this_run, again.changed) == (1, {})
    assert commits() == ["000000.0.json", "000000.1.json", "000001.0.json"]
    assert open_store(str(out)).features("a").tobytes() == kept
    check_refreshed(captures, out, tmp_path / "whole")


def repaint(folder: Path) -> None:
    path = folder / "color" / "1.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


def deepen(folder: Path) -> None:
    path = folder / "depth" / "1.png"
    Image.fromarray(np.asarray(Image.open(path)) + np.uint16(40)).save(path)


def refocus(folder: Path) -> None:
    for path in (folder / "intrinsic").iterdir():
        np.savetxt(path, np.loadtxt(path) * [[1.01], [1], [1]] - [[0, 0, 0.32], [0, 0, 0], [0] * 3])


def rename(folder: Path) -> None:
    for part, suffix in (("color", "png"), ("depth", "png"), ("pose", "txt")):
        (folder / part / f"2.{suffix}").rename(folder / part / f"7.{suffix}")


@pytest.mark.one_quick
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (repaint, "images; files that look different: color/*.png"),
        (deepen, "depth, its intrinsics, or details of the images; files that look different: dep"),
        (refocus, "intrinsics; files that look different: intrinsic/*.txt"),
        (rename, "other views (2 are in one alone); files that look different: color/*.png, depth"),
    ],
)
def test_it_is_said_what_changed(
    captures: Path, tmp_path: Path, change: Callable[[Path], None], told: str
) -> None:
    run(captures, tmp_path / "s")
    change(captures / "b")
    found = run(captures, tmp_path / "s").changed
    assert list(found) == ["b"]
    assert found["b"].startswith(told)
    assert run(captures, tmp_path / "s", refresh=True).changed == {}
    check_refreshed(captures, tmp_path / "s", tmp_path / "whole")


def test_a_file_that_was_only_touched_changes_nothing_and_is_read_once(
    captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s"
    first = run(captures, out)
    for path in (captures / "a").rglob("*.txt"):
        os.utime(path)
    asked: list[list[str]] = []
    read_ahead = changes.read_ahead

    def counted(source: object, scene_ids: list[str], config: object) -> object:
        asked.append(list(scene_ids))
        return read_ahead(source, scene_ids, config)

    monkeypatch.setattr(changes, "read_ahead", counted)
    for _ in range(2):
        again = run(captures, out)
        assert (again.changed, again.digest) == ({}, first.digest)
    assert asked == [["a"], []]


@pytest.mark.slow
def test_a_pose_of_the_same_length_under_a_restored_time_is_found(
    captures: Path, tmp_path: Path
) -> None:
    run(captures, tmp_path / "s")
    path = captures / "c" / "pose" / "0.txt"
    seen = path.stat()
    pose = np.loadtxt(path)
    pose[2, 3] += 1
    np.savetxt(path, pose)
    assert path.stat().st_size == seen.st_size
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert "poses (by up to 1.00 m)" in run(captures, tmp_path / "s").changed["c"]


@pytest.mark.slow
def test_a_store_of_an_older_version_says_so_once_and_learns(
    captures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "s"
    first = run(captures, out)
    shutil.rmtree(out / "unit" / "notes")
    move_poses(captures, "b")
    again = run(captures, out)
    assert (again.changed, again.unwatched, again.views_with_depth) == ({}, 3, None)
    assert caplog.text.count("of 3 committed scenes nothing says how their source looked") == 1
    assert "--refresh compares their content once" in caplog.text
    found = run(captures, out, refresh=True)
    assert (found.changed, found.unwatched, found.units_this_run) == ({}, 0, 1)
    assert found.views_with_depth == first.views_with_depth == 3 * VIEWS
    check_refreshed(captures, out, tmp_path / "whole")


@pytest.mark.slow
def test_what_can_no_longer_be_read_keeps_its_features(captures: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    first = run(captures, out)
    for path in (captures / "b" / "color").iterdir():
        path.write_bytes(b"no image")
    for refresh in (False, True):
        again = run(captures, out, refresh=refresh)
        assert list(again.changed) == ["b"]
        assert again.changed["b"].startswith("cannot be read: b: more than 50% of its views")
        assert (again.digest, again.committed) == (first.digest, 3)


class Told:
    """A source of somebody's that says nothing of its files."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def entries(self) -> list[SceneEntry]:
        return self._inner.entries()

    def read(self, scene_id: str) -> Scene:
        return self._inner.read(scene_id)


@pytest.mark.slow
def test_a_source_that_cannot_say_is_compared_when_asked(captures: Path, tmp_path: Path) -> None:
    def go(refresh: bool) -> Summary:
        return extract(
            Told(read_scenes(str(captures))), str(tmp_path / "s"), CONFIG,
            numerics=Numerics(threads=1), run=run_inline, refresh=refresh,
        )  # fmt: skip

    go(False)
    move_poses(captures, "a")
    assert go(False).unwatched == 3
    assert go(True).units_this_run == 1
    check_refreshed(captures, tmp_path / "s", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.server
def test_tars_and_a_store_in_a_bucket(captures: Path, tmp_path: Path, bucket: str) -> None:
    """There it is the etag that changes."""
    import boto3

    place = f"{bucket}/{tmp_path.name}"

    def upload() -> None:
        shutil.rmtree(tmp_path / "tars", ignore_errors=True)
        pack(read_scenes(str(captures)), str(tmp_path / "tars"))
        for path in (tmp_path / "tars").iterdir():
            key = f"{tmp_path.name}/tars/{path.name}"
            boto3.client("s3").upload_file(str(path), bucket.removeprefix("s3://"), key)

    upload()
    first = run(f"{place}/tars", f"{place}/store")
    assert run(f"{place}/tars", f"{place}/store").changed == {}
    upload()  # the same bytes, written again
    assert run(f"{place}/tars", f"{place}/store").changed == {}
    move_poses(captures, "b")
    upload()
    told = run(f"{place}/tars", f"{place}/store").changed
    assert told == {"b": "poses (by up to 10.00 m); files that look different: scenes-00000.tar"}
    assert run(f"{place}/tars", f"{place}/store", refresh=True).digest != first.digest
    check_refreshed(f"{place}/tars", f"{place}/store", tmp_path / "whole")


def test_the_command_lists_it_exits_3_and_refresh_exits_0(
    captures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*more: str) -> tuple[int, dict, str]:
        with pytest.raises(SystemExit) as ended:
            app([
                "run", str(captures), "--out", str(tmp_path / "s"), "--backbone", "rgb",
                "--resolution", "64x48", "--grid", "4x3", "--threads", "1", "--device", "cpu",
                *more,
            ])  # fmt: skip
        told = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(told.out.splitlines()[-1]), told.err

    assert command()[0] == 0
    move_poses(captures, "b")
    code, found, told = command()
    assert code == 3
    assert list(found["changed"]) == ["b"]
    assert "1 scenes have another source now; run with --refresh" in told
    code, found, _ = command("--refresh")
    assert (code, found["changed"], found["units_this_run"]) == (0, {}, 1)


@pytest.mark.slow
def test_several_stores_of_one_pass_are_refreshed_each(captures: Path, tmp_path: Path) -> None:
    def go(refresh: bool = False) -> list[Summary]:
        plans = [
            StorePlan(out=str(tmp_path / name), config=replace(CONFIG, backbone=backbone))
            for name, backbone in (("rgb", CONFIG.backbone), ("random", preset("random")))
        ]
        return extract_together(
            read_scenes(str(captures)), plans, numerics=Numerics(threads=1), run=run_inline,
            refresh=refresh,
        )  # fmt: skip

    assert [one.committed for one in go()] == [3, 3]
    move_poses(captures, "b")
    assert [list(one.changed) for one in go()] == [["b"], ["b"]]
    assert [(one.units_this_run, one.changed) for one in go(refresh=True)] == [(1, {}), (1, {})]
    check_refreshed(captures, tmp_path / "rgb", tmp_path / "whole")
    assert [one.changed for one in go()] == [{}, {}]
