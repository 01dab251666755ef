"""`pack` understands a source as `run` does: what is packed needs no options any more."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_captures import run, write_captures

from vega3d.pipeline import open_store
from vega3d.pipeline.cli import app


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict]:
    with pytest.raises(SystemExit) as ended:
        app(list(map(str, words)))
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_packed_opengl_poses_and_scaled_depth_are_those_of_the_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Poses in OpenGL's axes, depth in centimetres: packed as meant, they give the same store."""
    from PIL import Image

    right = write_captures(tmp_path / "right")
    for path in right.glob("*/depth/*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 10 * 10).save(path)
    told = write_captures(tmp_path / "told")
    for path in told.glob("*/pose/*.txt"):
        np.savetxt(path, np.loadtxt(path) @ np.diag([1.0, -1, -1, 1]))
    for path in told.glob("*/depth/*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 10).save(path)
    code, found = command(
        capsys, "pack", told, "--out", tmp_path / "tars", "--poses", "opengl",
        "--depth-scale", "10", "--scenes-per-tar", "2",
    )  # fmt: skip
    assert (code, found["scenes"], found["tars"]) == (0, 3, 2)
    expected, packed = run(right, tmp_path / "a"), run(tmp_path / "tars", tmp_path / "b")
    assert packed.misread == expected.misread == {}
    stores = [open_store(str(tmp_path / name)) for name in "ab"]
    for scene_id in expected.scene_reprojection_m:
        for part in ("world_xyz", "world_from_camera"):
            one, other = (getattr(store, part)(scene_id) for store in stores)
            np.testing.assert_allclose(one, other, atol=1e-6)
    code, checked = command(capsys, "check", tmp_path / "tars")
    assert (code, checked["ok"]) == (0, 3)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["pack", "check"])
def test_bad_views_fail_is_taken_by_pack_and_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    captures = write_captures(tmp_path / "captures")
    (captures / "b" / "pose" / "1.txt").write_text("no numbers")
    out = ("--out", tmp_path / "out")
    code, found = command(capsys, verb, captures, *out, "--bad-views", "fail")
    assert code == 3
    lost = [one["scene_id"] for one in found["failed"]] if verb == "pack" else [
        one["scene_id"] for one in found["checks"] if one["verdict"] == "failed"
    ]  # fmt: skip
    assert lost == ["b"]
