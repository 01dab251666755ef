"""A scene's pixels are held up to a limit, and go through the encoder in parts; nothing changes."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vega3d.pipeline import features, read_scenes, reading_ahead
from vega3d.pipeline.backbones.controls import RandomConfig, RgbConfig
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.siglip import SiglipConfig
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import TransientError
from vega3d.pipeline.extract import Summary, extract
from vega3d.pipeline.features import decode_scene
from vega3d.pipeline.reading_ahead import read_ahead
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.checking import check_scene, diagnose_views
from vega3d.pipeline.scenes.decoding import decode_views
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, View
from vega3d.pipeline.taking import Part

VIEWS, SIZE = 7, (48, 64)
LARGE_SCENE = Path(__file__).parents[1] / "faults" / "large_scene.py"
K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    """Three scenes: one on its side, one that repeats a frame and has a bad one, and a plain one.

    The depth is a plane's, so that neighbouring views agree.
    """
    for scene in ("plain", "repeats", "sideways"):
        folder = tmp_path / "captures" / scene
        for name in ("color", "depth", "pose", "intrinsic"):
            (folder / name).mkdir(parents=True)
            for which in ("color", "depth"):
                if name == "intrinsic":
                    np.savetxt(folder / f"intrinsic/intrinsic_{which}.txt", K)
        for view in range(VIEWS):
            seed = view - (scene == "repeats" and view == 3)
            pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            exif = Image.Exif()
            exif[0x0112] = 6 if scene == "sideways" else 1
            Image.fromarray(pixels).save(folder / f"color/{view}.jpg", exif=exif)
            depth = np.full(SIZE, 2000 + seed, np.uint16)
            Image.fromarray(depth).save(folder / f"depth/{view}.png")
            pose = np.eye(4)
            pose[0, 3], pose[2, 3] = 0.1 * view, -0.001 * seed
            np.savetxt(folder / f"pose/{view}.txt", pose)
    (tmp_path / "captures/repeats/color/5.jpg").write_bytes(b"no image")
    return tmp_path / "captures"


def summary_of(
    captures: Path,
    out: Path,
    config: ExtractConfig,
    on_result: Callable[..., None] = lambda _result, _units: None,
) -> Summary:
    return extract(
        read_scenes(str(captures)),
        str(out),
        config,
        numerics=Numerics(threads=1, batch_size=2),
        run=run_inline,
        on_result=on_result,
    )


def files(store: Path) -> dict[str, bytes]:
    paths = [p for p in store.rglob("*") if p.is_file() and "runs" not in p.parts]
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in paths}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wan", "siglip", "rgb", "random"])
def test_a_store_is_the_same_whatever_is_held(
    captures: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch,
    tiny_wan: Path, tiny_siglip: Path,
) -> None:  # fmt: skip
    backbones: dict[str, BackboneConfig] = {
        "wan": WanConfig(model=str(tiny_wan), resolution=(48, 64), blocks=(1, 2)),
        "siglip": SiglipConfig(model=str(tiny_siglip)),
        "rgb": RgbConfig(resolution=(48, 64)),
        "random": RandomConfig(resolution=(48, 64)),
    }
    config = ExtractConfig(backbone=backbones[name], grid=(3, 4), num_views=0, scenes_per_shard=2)
    whole = summary_of(captures, tmp_path / "whole", config)
    assert (whole.committed, whole.dropped_views, whole.misread) == (3, 2, {})
    view_bytes = 7 * SIZE[0] * SIZE[1]
    limits = [(0, 1)] if name == "wan" else [(0, 1), (3 * view_bytes, 4 * view_bytes)]
    for held, part in limits:
        monkeypatch.setattr(features, "SCENE_HELD_BYTES", held)
        monkeypatch.setattr(features, "PART_BYTES", part)
        parts = summary_of(captures, tmp_path / f"parts{held}", config)
        assert parts.digest == whole.digest
        assert files(tmp_path / f"parts{held}") == files(tmp_path / "whole")
        assert parts.misread == {}


def test_geometry_is_seen_on_a_coarser_grid_where_depth_is_not_held(captures: Path) -> None:
    source = read_scenes(str(captures))
    whole = check_scene(source, "plain", num_views=0).check
    config = ExtractConfig(num_views=0)
    scene = source.read("plain")
    held, _ = decode_views(scene, num_views=0, sampling="uniform")
    coarse, _ = decode_views(scene, num_views=0, sampling="uniform", held_bytes=8 * 4 * 7 * 400)
    assert {one.glance.step for one in held if one.glance} == {1}
    assert [one.glance.step for one in coarse if one.glance][-3:] == [3] * 3
    assert whole.geometry is not None
    assert whole.geometry.state == "fits"
    assert decode_scene(source, "plain", config).seen.geometry.state == "fits"
    seen = diagnose_views(coarse)
    assert seen.state == "fits"
    assert seen.error_m == pytest.approx(diagnose_views(held).error_m, abs=2e-4)


@pytest.mark.slow
def test_peak_memory_is_bounded_by_what_is_held_and_not_by_the_scene() -> None:
    """24 views of 2 megapixels, 138 MiB decoded, with 8 MiB held and parts of 6 MiB."""
    command = [sys.executable, str(LARGE_SCENE), "24", "2", "8", "6"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    found = json.loads(done.stdout)
    assert found["decoded_mib"] > 130
    assert found["peak_mib"] < 90


def scene_of(images: dict[str, list[np.ndarray]], name: str = "s") -> Scene:
    """Return a scene whose views give one image of a list after the other."""
    return Scene(
        name, tuple(View(view_id=v, read_rgb=lambda v=v: images[v].pop(0)) for v in images)
    )


class Once:
    """A source of one scene."""

    root = "/captures"

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def entries(self) -> list[SceneEntry]:
        return [SceneEntry(scene_id=self.scene.scene_id, num_views=9, size_bytes=0)]

    def read(self, scene_id: str) -> Scene:
        return self.scene


def test_an_image_that_changes_while_it_is_read_leaves_the_unit_to_another_try() -> None:
    grey, white = np.full((8, 8, 3), 90, np.uint8), np.full((8, 8, 3), 255, np.uint8)
    (one,), _ = decode_views(
        scene_of({"0": [grey, grey, white]}), num_views=0, sampling="uniform", held_bytes=0
    )
    np.testing.assert_array_equal(one.rgb, grey)
    with pytest.raises(TransientError, match="changed between two readings"):
        _ = one.rgb


def test_a_part_that_never_comes_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SCENE_HELD_BYTES", 0)
    grey, left = np.full((8, 8, 3), 90, np.uint8), threading.Event()
    calls = iter(range(9))

    def read() -> np.ndarray:
        if next(calls) == 2:  # after the scene was looked at and hashed
            left.wait(60)
        return grey

    scene = Scene("s", (View(view_id="0", read_rgb=read),))
    reading = read_ahead(Once(scene), ["s"], ExtractConfig(num_views=0), limit_s=0.3)
    item = next(reading)
    with pytest.raises(TransientError, match="s: reading it gave no sign of life"):
        list(item.prefetch(item.scene.parts(1)))
    left.set()


def test_one_part_is_made_ahead_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SCENE_HELD_BYTES", 0)  # what is held is there already
    made: list[int] = []

    def parts() -> Iterator[Part]:
        for number in range(5):
            made.append(number)
            yield Part((), np.empty((0, 1, 1, 3), np.uint8), ())

    grey = np.full((8, 8, 3), 90, np.uint8)
    scene = Scene("s", (View(view_id="0", read_rgb=lambda: grey),))
    item = next(read_ahead(Once(scene), ["s"], ExtractConfig(num_views=0)))
    taken = item.prefetch(parts())
    for number in range(4):
        next(taken)
        threading.Event().wait(0.05)
        assert made == list(range(number + 2))
    assert len(list(taken)) == 1


class Counted:
    """Scenes of one view of 192 bytes, and which of them were read."""

    def __init__(self) -> None:
        self.was_read: list[str] = []

    def entries(self) -> list[SceneEntry]:
        return []

    def read(self, scene_id: str) -> Scene:
        self.was_read.append(scene_id)
        grey = np.full((8, 8, 3), 90, np.uint8)
        return Scene(scene_id, (View(view_id="0", read_rgb=lambda: grey),))


@pytest.mark.parametrize(("ahead_bytes", "most"), [(1 << 28, 4), (2 * 192, 2), (2 * 192 - 1, 1)])
def test_some_small_scenes_are_made_ahead_and_one_large_one(
    ahead_bytes: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_ahead, "SCENES_AHEAD_BYTES", ahead_bytes)
    source, names, ended = Counted(), list("abcdefgh"), threading.Event()
    reading = reading_ahead.UnitReading(source, names, ExtractConfig(num_views=0))
    for number, read in enumerate(reading.scenes(ended.set), 1):
        assert read.scene.scene_id == names[number - 1]
        expected = names[: number + most]
        for _ in range(200):
            if source.was_read == expected:
                break
            threading.Event().wait(0.05)
        threading.Event().wait(0.02)  # and no more
        assert source.was_read == expected
        # The next unit is begun when all of this one are read; what is too large was taken first.
        if number + most < len(names):
            assert not ended.is_set()
    assert ended.is_set()


@pytest.mark.slow
@pytest.mark.parametrize("context", ["clip", "stack"])
def test_views_that_must_go_in_together_are_bounded_too(
    captures: Path, tmp_path: Path, tiny_wan: Path, context: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = WanConfig(model=str(tiny_wan), resolution=(48, 64), blocks=(1,), context=context)
    config = ExtractConfig(backbone=backbone, grid=(3, 4), num_views=0, scenes_per_shard=1)
    whole = summary_of(captures, tmp_path / "whole", config)
    needed = 7 * 3 * 11 * SIZE[0] * SIZE[1]
    monkeypatch.setattr(features, "MAX_JOINT_BYTES", needed)
    monkeypatch.setattr(features, "SCENE_HELD_BYTES", 0)
    assert summary_of(captures, tmp_path / "parts", config).digest == whole.digest
    monkeypatch.setattr(features, "MAX_JOINT_BYTES", needed - 1)
    details: dict[str, str] = {}
    found = summary_of(
        captures, tmp_path / "less", config, lambda result, _: details.update(result.details)
    )
    assert list(found.failures) == ["plain", "sideways"]
    assert details == found.failures  # nothing more is known of these
    assert "plain: all 7 views of 64x48 go into this encoder together" in found.failures["plain"]
    assert "take fewer --views, a --context that sees each view alone" in found.failures["plain"]


def test_hashes_are_those_of_before(captures: Path) -> None:
    """Of ids, pixels, depths and cameras, as turned upright; by a second way."""
    scene = read_scenes(str(captures)).read("plain")
    digest = hashlib.sha256()
    for view in scene.views:
        rgb, depth_m = view.read_rgb(), view.read_depth_m()
        for name, values in ((f"view 1 {view.view_id}", rgb), ("depth", depth_m),
                             ("K_color", view.K_color), ("K_depth", view.K_depth),
                             ("world_from_camera", view.world_from_camera)):  # fmt: skip
            digest.update(f"{name}{(values.dtype.str, values.shape)}".encode() + values.tobytes())
    decoded = decode_scene(read_scenes(str(captures)), "plain", ExtractConfig(num_views=0))
    assert decoded.seen.content_sha256 == digest.hexdigest()
