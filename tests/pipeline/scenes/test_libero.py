"""LIBERO's HDF5: demos as scenes, images turned upright, nothing followed out of the file."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from demos import frames, h5py, write_demos

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.packing import pack
from vega3d.pipeline.scenes.reading import read_scenes


def test_a_demo_is_a_scene_and_its_images_stand_upright(tmp_path: Path) -> None:
    write_demos(tmp_path / "suite/put_red_demo.hdf5", [4, 3])
    source = pickle.loads(pickle.dumps(read_scenes(str(tmp_path / "suite"))))
    assert [(e.scene_id, e.num_views) for e in source.entries()] == [
        ("put_red_demo/demo_0", 8), ("put_red_demo/demo_1", 6),
    ]  # fmt: skip
    scene = source.read("put_red_demo/demo_1")
    assert [view.view_id for view in scene.views] == [
        *(f"agentview/{i:06d}" for i in range(3)), *(f"eye_in_hand/{i:06d}" for i in range(3)),
    ]  # fmt: skip
    for number, view in enumerate(scene.views):
        camera, frame = divmod(number, 3)
        np.testing.assert_array_equal(view.read_rgb(), frames(3, (12, 16), camera + 2)[frame])
    assert "images are stored bottom row first and were turned over" in scene.notes
    assert pack(source, str(tmp_path / "packed"))["views"] == 14
    alone = read_scenes(str(tmp_path / "suite/put_red_demo.hdf5"))
    assert [e.scene_id for e in alone.entries()] == ["put_red_demo/demo_0", "put_red_demo/demo_1"]
    write_demos(tmp_path / "suite/put_red_demo.hdf5", [6])  # a listing is of the file as it is now
    assert [(e.scene_id, e.num_views) for e in source.entries()] == [("put_red_demo/demo_0", 12)]


def test_images_that_stand_upright_stay_so(tmp_path: Path) -> None:
    write_demos(tmp_path / "a.hdf5", [2], convention="opencv")
    scene = read_scenes(str(tmp_path)).read("a/demo_0")
    np.testing.assert_array_equal(scene.views[1].read_rgb(), frames(2, (12, 16))[1])
    assert scene.notes == ("has no poses: its tokens get no positions",)


def test_what_cannot_be_read_says_why_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "none.hdf5").write_bytes(b"no hdf5")
    write_demos(tmp_path / "secret.hdf5", [1])
    write_demos(tmp_path / "suite.hdf5", [2, 2, 2, 2, 2])
    with h5py.File(tmp_path / "suite.hdf5", "r+") as file:
        data = file["data"]
        del data["demo_1/obs/agentview_rgb"], data["demo_1/obs/eye_in_hand_rgb"]
        outside = h5py.ExternalLink("secret.hdf5", "/data/demo_0/obs")
        del data["demo_2/obs"]
        data["demo_2/obs"] = outside
        del data["demo_3/obs/agentview_rgb"]
        data["demo_3/obs"].create_dataset(
            "agentview_rgb", (2, 1 << 14, 1 << 14, 3), "u1", chunks=(1, 1 << 14, 1 << 14, 3)
        )
        del data["demo_4/obs/agentview_rgb"]
        data["demo_4/obs"].create_dataset(
            "agentview_rgb", (2, 12, 16, 3), "u1", external=[("/etc/hostname", 0, 1152)]
        )
    source = read_scenes(str(tmp_path))
    assert [(e.scene_id, e.num_views) for e in source.entries()] == [
        ("none", 0), ("secret/demo_0", 2), ("suite/demo_0", 4),
        *((f"suite/demo_{n}", 0) for n in (1, 2, 3, 4)),
    ]  # fmt: skip
    for scene_id, reason in (
        ("none", "cannot be read as HDF5"),
        ("suite/demo_1", "must hold frames"),
        ("suite/demo_2", "is a link, which is not followed"),
        ("suite/demo_3", "over the limit of"),
        ("suite/demo_4", "keeps its values in other files"),
    ):
        with pytest.raises(SceneError, match=reason):
            source.read(scene_id)
    assert len(source.read("suite/demo_0").views) == 4
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SceneError, match=r"pip install 'vega3d\[hdf5\]'"):
        source.read("suite/demo_0")
