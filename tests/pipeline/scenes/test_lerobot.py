"""LeRobot v3: episodes as scenes, cameras as views, frames by their times."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from layout_writers import lerobot

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.decoding import decode_views
from vega3d.pipeline.scenes.packing import pack
from vega3d.pipeline.scenes.reading import read_scenes

TOP, WRIST = "observation.images.top", "observation.images.wrist"


def grey(view: object) -> float:
    return float(view.read_rgb().mean())


def test_an_episode_is_a_scene_and_its_cameras_are_views(tmp_path: Path) -> None:
    lerobot(tmp_path / "arm", {"top": (48, 64), "wrist": (48, 64)}, [5, 3])
    source = pickle.loads(pickle.dumps(read_scenes(str(tmp_path / "arm"))))
    assert [(e.scene_id, e.num_views) for e in source.entries()] == [
        ("episode_000000", 10), ("episode_000001", 6),
    ]  # fmt: skip
    scene = source.read("episode_000001")
    assert [view.view_id for view in scene.views] == [
        *(f"{TOP}/{i:06d}" for i in range(3)), *(f"{WRIST}/{i:06d}" for i in range(3)),
    ]  # fmt: skip
    found = [grey(view) for view in scene.views]
    np.testing.assert_allclose(found, [80, 87, 94, 85, 92, 99], atol=2)
    backwards = [grey(view) for view in reversed(scene.views)]
    np.testing.assert_allclose(backwards, found[::-1], atol=0)
    assert scene.notes == ("has no poses: its tokens get no positions",)
    _, report = decode_views(scene, num_views=4, sampling="uniform")
    assert (report.views, report.with_depth, report.with_pose) == (4, 0, 0)


def test_cameras_of_other_sizes_are_scenes_of_their_own(tmp_path: Path) -> None:
    lerobot(tmp_path / "d" / "arm", {"top": (48, 64), "wrist": (32, 32)}, [2])
    source = read_scenes(str(tmp_path / "d"))
    assert [(e.scene_id, e.num_views) for e in source.entries()] == [
        (f"arm/episode_000000/{TOP}", 2), (f"arm/episode_000000/{WRIST}", 2),
    ]  # fmt: skip
    scene = source.read(f"arm/episode_000000/{WRIST}")
    assert scene.views[0].read_rgb().shape == (32, 32, 3)
    assert grey(scene.views[1]) == pytest.approx(32, abs=2)
    assert pack(source, str(tmp_path / "packed"))["views"] == 4


def test_what_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lerobot(tmp_path / "arm", {"top": (48, 64)}, [4])
    path = tmp_path / "arm/meta/info.json"
    info = json.loads(path.read_text())
    features = {**info["features"], "depth": {"dtype": "video", "shape": [4, 4, 1],
                                              "info": {"is_depth_map": True}}}  # fmt: skip
    path.write_text(json.dumps({**info, "features": features}))
    scene = read_scenes(str(tmp_path / "arm")).read("episode_000000")
    assert scene.notes[1] == "depth videos are not read: depth"
    video = next(tmp_path.rglob("*.mp4"))
    video.write_bytes(video.read_bytes()[:-900])
    with pytest.raises(SceneError, match="cannot be decoded|has no frame"):
        [grey(view) for view in scene.views]
    path.write_text(json.dumps({**info, "codebase_version": "v2.1"}))
    again = tmp_path / "again"
    (tmp_path / "arm").rename(again)
    source = read_scenes(str(again))
    assert [(e.scene_id, e.num_views) for e in source.entries()] == [("again", 0)]
    with pytest.raises(SceneError, match="is a LeRobot dataset of v2.1; convert it to v3.0"):
        source.read("again")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (again / "meta/info.json").write_text(json.dumps(info))
    last = tmp_path / "last"
    again.rename(last)
    with pytest.raises(SceneError, match=r"pip install 'vega3d\[lerobot\]'"):
        read_scenes(str(last)).read("last")
