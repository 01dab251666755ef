"""`vega3d-extract check`: what is right passes, what is misread is named, in every layout."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from layout_writers import png, units
from PIL import Image

from vega3d.pipeline.check import check, table
from vega3d.pipeline.cli import app
from vega3d.pipeline.config import CheckConfig
from vega3d.pipeline.scenes.checking import check_scene
from vega3d.pipeline.scenes.reading import read_scenes

VIEWS = 8
OPENGL = np.diag([1.0, -1, -1, 1])


@dataclass(frozen=True)
class Shot:
    rgb: np.ndarray
    depth_m: np.ndarray
    K_color: np.ndarray
    K_depth: np.ndarray
    world_from_camera: np.ndarray


def write_scannet(folder: Path, shots: Sequence[Shot]) -> None:
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    for name in ("color", "depth"):
        K = np.eye(4)
        K[:3, :3] = getattr(shots[0], f"K_{name}")
        np.savetxt(folder / f"intrinsic/intrinsic_{name}.txt", K)
    for index, shot in enumerate(shots):
        (folder / f"color/{index}.png").write_bytes(png(shot.rgb))
        (folder / f"depth/{index}.png").write_bytes(png(units(shot.depth_m, 1000)))
        np.savetxt(folder / f"pose/{index}.txt", shot.world_from_camera)


@pytest.fixture(scope="module")
def room() -> list[Shot]:
    scene = read_scenes("rooms:1?height=90&width=120&views=24").read("room0000")
    return [
        Shot(
            rgb=view.read_rgb(),
            depth_m=view.read_depth_m(),
            K_color=view.K_color,
            K_depth=view.K_depth,
            world_from_camera=view.world_from_camera,
        )
        for view in scene.views[:VIEWS]
    ]


def change(shot: Shot, how: str) -> Shot:
    pose = shot.world_from_camera
    changed = {
        "as it is": {},
        "opengl": {"world_from_camera": pose @ OPENGL},
        "inverse": {"world_from_camera": np.linalg.inv(pose)},
        "opengl-inverse": {"world_from_camera": np.linalg.inv(pose @ OPENGL)},
        "tenths of millimetres": {"depth_m": shot.depth_m * 10},
        "centimetres": {"depth_m": shot.depth_m / 10},
        "K of half the size": {
            name: np.diag([0.5, 0.5, 1]) @ getattr(shot, name) for name in ("K_color", "K_depth")
        },
        "K of a portrait": {
            name: getattr(shot, name)[[1, 0, 2]][:, [1, 0, 2]] for name in ("K_color", "K_depth")
        },
        "K of a longer lens": {"K_depth": shot.K_depth * [[1.5, 1, 1], [1, 1.5, 1], [1, 1, 1]]},
    }[how]
    return replace(shot, **changed)


EXPECTED = {
    "as it is": None,
    "opengl": "--poses opengl would make it",
    "inverse": "--poses inverse would make it",
    "opengl-inverse": "--poses opengl-inverse would make it",
    "tenths of millimetres": "--depth-scale 0.1 would make it",
    "centimetres": "--depth-scale 10 would make it",
    "K of half the size": "middle of an image 0.50 times as large",
    "K of a portrait": "once rows and columns are exchanged",
    "K of a longer lens": "a focal length of the depth camera about 0.67 times as long",
}


@pytest.mark.one_quick
@pytest.mark.parametrize("how", EXPECTED)
def test_what_is_wrong_is_named(tmp_path: Path, room: list[Shot], how: str) -> None:
    write_scannet(tmp_path / "room", [change(shot, how) for shot in room])
    found = check_scene(read_scenes(str(tmp_path)), "room", num_views=0).check
    if EXPECTED[how] is None:
        assert found.verdict == "ok"
        assert found.lines == ()
        assert found.geometry.error_m < 0.015  # a pixel of 120, and a millimetre of the file
        return
    assert found.verdict in ("wrong", "failed")
    assert EXPECTED[how] in "\n".join(found.lines)


@pytest.mark.one_quick
@pytest.mark.parametrize(
    ("how", "options"),
    [
        ("opengl", {"poses": "opengl"}),
        ("inverse", {"poses": "inverse"}),
        ("opengl-inverse", {"poses": "opengl-inverse"}),
        ("tenths of millimetres", {"depth_scale": 0.1}),
    ],
)
def test_the_option_that_is_named_mends_it(
    tmp_path: Path, room: list[Shot], how: str, options: dict
) -> None:
    write_scannet(tmp_path / "room", [change(shot, how) for shot in room])
    check_room = partial(check_scene, read_scenes(str(tmp_path)), "room", num_views=0)
    assert check_room(**options).check.verdict == "ok"
    # What is right and asked to be read otherwise: the option that takes it back.
    write_scannet(tmp_path / "right" / "room", room)
    undo = check_scene(read_scenes(str(tmp_path / "right")), "room", num_views=0, **options)
    back = "--depth-scale 1 would" if "depth_scale" in options else "--poses opencv would"
    assert back in undo.check.lines[0]


README = {"corridor_lidar": 13, "tum_fr3_structure": 6, "chair_lidar": 5}


@pytest.mark.one_quick
@pytest.mark.parametrize("name", README)
def test_real_captures_reproject_as_their_readme_says(data: Path, name: str) -> None:
    found = check_scene(read_scenes(str(data / name)), name, num_views=32).check
    assert found.verdict == "ok"
    assert found.lines == ()
    assert found.geometry.error_m * 1000 == pytest.approx(README[name], abs=1)


@pytest.mark.slow
def test_the_command_tells_a_person_and_a_program(
    tmp_path: Path, room: list[Shot], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, how in (
        ("right", "as it is"),
        ("turned", "opengl"),
        ("halved", "K of half the size"),
    ):
        write_scannet(tmp_path / "scenes" / name, [change(shot, how) for shot in room])
    with pytest.raises(SystemExit) as ended:
        app(["check", str(tmp_path / "scenes"), "--out", str(tmp_path / "pictures")])
    assert ended.value.code == 3
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert (found["scenes"], found["ok"], found["wrong"], found["failed"]) == (3, 1, 1, 1)
    assert set(found["to_mend"]) == {"turned", "halved"}
    assert [one["scene_id"] for one in found["checks"]] == ["halved", "right", "turned"]
    assert found["checks"][2]["fits_with"] == "--poses opengl"
    assert found["checks"][1]["intrinsics"]["size"] == [90, 120]
    assert "--poses opengl would make it" in told.err
    lines = told.err.splitlines()
    assert any(line.split()[:3] == ["right", "8", "8"] and "120x90" in line for line in lines)
    assert "3 scenes: 1 ok, 1 wrong, 1 failed" in lines[-1]
    with pytest.raises(SystemExit) as ended:
        app(["check", str(tmp_path / "scenes" / "right")])
    assert ended.value.code in (0, None)


@pytest.mark.slow
def test_the_picture_shows_the_reading_that_fits(tmp_path: Path, room: list[Shot]) -> None:
    """Two rows for a scene that is misread: dark where the warped neighbour is the view itself."""
    sizes = []
    for how in ("as it is", "opengl"):
        write_scannet(tmp_path / how / "room", [change(shot, how) for shot in room])
        found = check(
            read_scenes(str(tmp_path / how)), CheckConfig(num_views=0), out=str(tmp_path / "out")
        )
        with Image.open(found["pictures"][0]) as image:
            pixels = np.asarray(image).astype(int)
        sizes.append(pixels.shape[0])
    assert sizes[1] > 1.8 * sizes[0]
    apart = pixels[:, -320:].reshape(2, -1, 320, 3)  # the column of differences, both rows
    is_known = (apart[..., 0] > apart[..., 2]) | (apart.sum(axis=-1) == 0)
    shares = [row[known][:, 0].mean() for row, known in zip(apart, is_known, strict=True)]
    assert shares[1] < 0.5 * shares[0]


def test_repeated_frames_are_counted_and_prove_nothing(tmp_path: Path, room: list[Shot]) -> None:
    """Every view twice: its distance to itself is zero, whatever the poses are."""
    twice = [change(shot, "opengl") for shot in room for _ in range(2)]
    write_scannet(tmp_path / "room", twice)
    found = check_scene(read_scenes(str(tmp_path)), "room", num_views=0).check
    assert found.report.views == VIEWS
    assert found.report.repeated_views == tuple(str(2 * i + 1) for i in range(VIEWS))
    assert "dropped 8 repeated frames, 1 the first" in found.lines[0]
    assert "--poses opengl would make it" in found.lines[1]


def test_scenes_without_depth_prove_nothing_and_are_not_wrong(
    tmp_path: Path, room: list[Shot]
) -> None:
    write_scannet(tmp_path / "room", room)
    shutil.rmtree(tmp_path / "room" / "depth")
    found = check(read_scenes(str(tmp_path)), CheckConfig(), out=str(tmp_path / "out"))
    assert (found["unproven"], found["to_mend"], found["pictures"]) == (1, {}, [])
    assert found["checks"][0]["lines"] == ["has no depth: its tokens get no positions"]


def test_scenes_may_be_sampled_and_the_table_has_a_row_each(tmp_path: Path) -> None:
    source = read_scenes("rooms:5?height=24&width=32&views=3")
    seen = []
    found = check(source, CheckConfig(num_scenes=2), on_scene=seen.append)
    assert [one.scene_id for one in seen] == ["room0000", "room0004"]
    assert found["views_looked_at"] == 6
    assert len(table(seen)) == 3
    with pytest.raises(
        ValueError, match="poses must be one of opencv, opengl, inverse, opengl-inv"
    ):
        CheckConfig(poses="blender")
    with pytest.raises(ValueError, match="depth_scale must be positive"):
        CheckConfig(depth_scale=0)


@pytest.mark.slow
def test_it_needs_no_torch_and_no_store(tmp_path: Path, room: list[Shot]) -> None:
    write_scannet(tmp_path / "room", room[:3])
    code = (
        "import sys; from vega3d.pipeline.cli import app\n"
        f"try:\n    app(['check', {str(tmp_path)!r}])\n"
        "except SystemExit as ended:\n    assert not ended.code\n"
        "heavy = {'torch', 'ray', 'zarr', 'diffusers', 'transformers', 'matplotlib'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
