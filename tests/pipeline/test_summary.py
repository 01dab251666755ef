"""What a run says of its scenes, in numbers and for a person."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_captures import VIEWS, run, write_captures

from vega3d.pipeline import open_store


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    return write_captures(tmp_path / "captures")


@pytest.mark.slow
def test_a_run_counts_views_with_depth_and_pose_and_repeated_frames(
    captures: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for part, suffix in (("color", "png"), ("depth", "png"), ("pose", "txt")):
        shutil.copy(captures / f"a/{part}/0.{suffix}", captures / f"a/{part}/{VIEWS}.{suffix}")
    shutil.rmtree(captures / "b" / "depth")
    (captures / "b" / "depth_raw").mkdir()
    shutil.copy(captures / "a/depth/0.png", captures / "b/depth_raw/0.png")
    shutil.rmtree(captures / "c" / "pose")
    found = run(captures, tmp_path / "s")
    assert (found.views, found.views_with_depth, found.views_with_pose) == (9, 6, 6)
    assert (found.dropped_views, found.repeated_views) == (1, 1)
    record = open_store(str(tmp_path / "s")).record("a")
    assert (record.dropped_views, record.repeated_views) == (1, 1)
    assert list(found.scene_reprojection_m) == ["a"]
    assert found.reprojection_m == found.scene_reprojection_m["a"] < 0.02
    for line in (
        f"a: dropped 1 repeated frames, {VIEWS} the first",
        "b: has no depth: its tokens get no positions",
        "b: depth_raw/ looks like depth (1 files) and was not read",
        "c: has no poses: its tokens get no positions",
    ):
        assert line in caplog.text
    again = run(captures, tmp_path / "s")  # nothing is computed, and all of it is still said
    for name in ("views_with_depth", "views_with_pose", "repeated_views", "scene_reprojection_m"):
        assert getattr(again, name) == getattr(found, name)


@pytest.mark.slow
def test_a_scene_that_is_misread_stays_named(captures: Path, tmp_path: Path) -> None:
    for path in (captures / "a" / "pose").iterdir():
        np.savetxt(path, np.loadtxt(path) @ np.diag([1.0, -1, -1, 1]))
    for _ in range(2):
        found = run(captures, tmp_path / "s")
        assert list(found.misread) == ["a"]
        assert "--poses opengl would make it" in found.misread["a"][0]
        assert found.scene_reprojection_m["a"] > 10 * found.scene_reprojection_m["b"]
