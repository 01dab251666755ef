"""`--jpeg scaled`: photographs decoded at 1/2, 1/4 or 1/8 of their sides where that is enough."""

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vega3d.pipeline import read_scenes
from vega3d.pipeline.backbones.checkpoints import planned_facts
from vega3d.pipeline.backbones.controls import RgbConfig
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.qwen_vision import QwenVisionConfig
from vega3d.pipeline.backbones.siglip import SiglipConfig
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import SceneError, StoreError, UsageError
from vega3d.pipeline.extract import extract
from vega3d.pipeline.features import decode_scene
from vega3d.pipeline.feeding import write_captures
from vega3d.pipeline.in_time import InTime
from vega3d.pipeline.jpeg_sizes import jpeg_divisor
from vega3d.pipeline.recompute import verify_deep
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes import decoding, images
from vega3d.pipeline.scenes.crew import in_order
from vega3d.pipeline.scenes.images import decode_rgb
from vega3d.pipeline.store.store import Store
from vega3d.pipeline.together import check_alike

SIZE = (96, 128)
SMALL = RgbConfig(resolution=(48, 64))
WHOLE = ExtractConfig(backbone=SMALL, num_views=3, grid=(6, 6))
SCALED = replace(WHOLE, jpeg="scaled")


def picture(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(height)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def encoded(image: Image.Image, form: str = "JPEG", **told: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **told)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captures(tmp_path_factory.mktemp("captures"), 4, SIZE)


def store_of(captures: Path, out: Path, config: ExtractConfig) -> Store:
    numerics = Numerics(threads=1)
    extract(read_scenes(str(captures)), str(out), config, numerics=numerics, run=run_inline)
    return Store.open(str(out))


@pytest.mark.parametrize(
    ("size", "mode", "subsampling", "progressive"),
    [*product([(96, 128), (24, 56)], ["RGB", "L", "CMYK"], [0, 2], [False, True])],
)
def test_a_jpeg_is_what_pillow_drafts(
    size: tuple[int, int],
    mode: str,
    subsampling: int,
    progressive: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encoded(
        picture(*size).convert(mode), quality=85, subsampling=subsampling, progressive=progressive
    )
    for divisor in (2, 4, 8):
        image = Image.open(io.BytesIO(data))
        image.draft(None, (size[1] // divisor, size[0] // divisor))
        theirs = np.asarray(image.convert("RGB"))
        assert theirs.shape[:2] == (size[0] // divisor, size[1] // divisor)
        np.testing.assert_array_equal(decode_rgb(data, "a view", divisor), theirs)
        with monkeypatch.context() as patch:
            patch.setattr(images, "_decoder", lambda: None)  # where simplejpeg has no wheel
            np.testing.assert_array_equal(decode_rgb(data, "a view", divisor), theirs)


def test_other_formats_are_means() -> None:
    image = picture(*SIZE)
    means = np.asarray(image, np.float64).reshape(24, 4, 32, 4, 3).mean(axis=(1, 3))
    found = decode_rgb(encoded(image, "PNG"), "a view", 4)
    assert np.abs(found - means).max() <= 0.5


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(5, 5), (95, 128), (96, 127)])
def test_sides_that_leave_a_rest_are_refused_by_their_true_size(
    size: tuple[int, int], form: str
) -> None:
    with pytest.raises(SceneError, match=f"is {size[0]}x{size[1]}, and .* divided by 8"):
        decode_rgb(encoded(picture(*size), form), "a view", 8)


def test_a_scaled_photograph_looks_like_a_small_one() -> None:
    image = picture(*SIZE)
    scaled = decode_rgb(encoded(image, quality=95), "a view", 2).astype(np.float64)
    small = np.asarray(image.resize((64, 48), Image.Resampling.BOX), np.float64)
    assert np.abs(scaled - small).mean() < 2


SIDES = st.sampled_from(
    [240, 360, 480, 484, 540, 720, 968, 1080, 1168, 1296, 1440, 1752, 1920, 999]
)
ENCODERS = [WanConfig(), SiglipConfig(), QwenVisionConfig(), RgbConfig(), RgbConfig(fit="crop")]


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, backbone=st.sampled_from(ENCODERS))
def test_an_encoder_is_never_given_less_than_it_takes(
    height: int, width: int, backbone: BackboneConfig
) -> None:
    facts = planned_facts(backbone)
    divisor = jpeg_divisor(ExtractConfig(backbone=backbone, jpeg="scaled"), height, width)
    assert height % divisor == width % divisor == 0
    whole = backbone.placement(facts, height, width)
    part = backbone.placement(facts, height // divisor, width // divisor)
    assert (part.canvas, part.target) == (whole.canvas, whole.target)
    if divisor > 1:
        top, left, bottom, right = part.target
        above, before, below, after = part.source
        assert bottom - top <= below - above
        assert right - left <= after - before
    assert jpeg_divisor(ExtractConfig(backbone=backbone), height, width) == 1


def test_published_encoders_take_scannet_at_half_its_sides() -> None:
    for backbone in (WanConfig(), SiglipConfig()):
        assert jpeg_divisor(ExtractConfig(backbone=backbone, jpeg="scaled"), 968, 1296) == 2


def test_tokens_lie_where_they_lay(captures: Path, tmp_path: Path) -> None:
    """Cameras are divided like the pixels: the store differs in what colour decides alone."""
    whole = store_of(captures, tmp_path / "whole", WHOLE)
    scaled = store_of(captures, tmp_path / "scaled", SCALED)
    for scene_id in whole.scene_ids:
        np.testing.assert_array_equal(scaled.image_size(scene_id), [[48, 64]] * 3)
        np.testing.assert_array_equal(
            scaled.intrinsics(scene_id)[:, :2] * 2, whole.intrinsics(scene_id)[:, :2]
        )
        np.testing.assert_array_equal(scaled.world_xyz(scene_id), whole.world_xyz(scene_id))
        np.testing.assert_array_equal(scaled.depth_share(scene_id), whole.depth_share(scene_id))
        ours, theirs = scaled.features(scene_id), whole.features(scene_id)
        assert not np.array_equal(ours, theirs)
        np.testing.assert_allclose(ours, theirs, atol=0.02)
    assert whole.identity["config"] == {
        name: value for name, value in scaled.identity["config"].items() if name != "jpeg"
    }
    with pytest.raises(StoreError, match="config.jpeg"):
        store_of(captures, tmp_path / "whole", SCALED)


def test_a_scaled_store_is_recomputed_and_found_unchanged(
    captures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(captures, tmp_path / "scaled", SCALED)
    for source in (read_scenes(str(captures)), InTime(read_scenes(str(captures)))):
        found = list(verify_deep(store.url, source, sample=2))
        assert [(one.same_content, one.passed) for one in found] == [(True, True)] * 2
    for path in captures.rglob("*.jpg"):
        path.touch()  # looks changed: content is compared
    with caplog.at_level(logging.WARNING):
        store_of(captures, tmp_path / "scaled", SCALED)
    assert "changed" not in caplog.text


def test_what_stays_whole(captures: Path, tmp_path: Path) -> None:
    """Not a video or a room, nor what is no JPEG, nor sides that leave a rest."""
    assert decode_scene(read_scenes(str(captures)), "scene0000", SCALED).image_size == (48, 64)
    room = read_scenes("rooms:1?views=2&height=96&width=128")
    assert decode_scene(room, "room0000", SCALED).image_size == SIZE
    for name, size, form in (("odd", (97, 129), "JPEG"), ("png", SIZE, "PNG")):
        folder = write_captures(tmp_path / name, 2, size)
        for path in folder.rglob("color/*.jpg"):
            path.write_bytes(encoded(Image.open(path), form))
        found = decode_scene(read_scenes(str(folder)), "scene0000", SCALED)
        assert found.image_size == size


def test_a_png_among_jpegs_comes_at_their_size(tmp_path: Path) -> None:
    folder = write_captures(tmp_path, 3, SIZE)
    path = folder / "scene0000" / "color" / "1.jpg"
    path.write_bytes(encoded(Image.open(path), "PNG"))
    found = decode_scene(read_scenes(str(folder)), "scene0000", SCALED)
    assert (found.view_ids, found.image_size) == (("0", "1", "2"), (48, 64))


DAMAGED = {
    "cut": b"\xff\xd8 not at all",
    "empty": b"",
    "page": b"<html>not found</html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_first_view_changes_nothing(tmp_path: Path, kind: str) -> None:
    folder = write_captures(tmp_path, 3, SIZE)
    (folder / "scene0000" / "color" / "0.jpg").unlink()
    (folder / "scene0000" / "color" / "0.jpg").write_bytes(DAMAGED[kind])
    found = decode_scene(read_scenes(str(folder)), "scene0000", SCALED)
    assert (found.view_ids, found.image_size) == (("1", "2"), (48, 64))


def test_photographs_that_lie_on_their_side_are_turned(tmp_path: Path) -> None:
    folder = write_captures(tmp_path, 2, SIZE)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    for path in folder.rglob("color/*.jpg"):
        path.write_bytes(encoded(Image.open(path), exif=exif, quality=90))
    source, square = read_scenes(str(folder)), RgbConfig(resolution=(64, 64))
    config = replace(SCALED, backbone=square)
    whole = decode_scene(source, "scene0000", replace(config, jpeg="whole"))
    scaled = decode_scene(source, "scene0000", config)
    assert (whole.image_size, scaled.image_size) == ((128, 96), (64, 48))
    for ours, theirs in zip(scaled.decoded, whole.decoded, strict=True):
        np.testing.assert_array_equal(ours.view.world_from_camera, theirs.view.world_from_camera)
        np.testing.assert_allclose(ours.view.K_color[:2] * 2, theirs.view.K_color[:2])


def test_a_view_that_is_not_chosen_decides_nothing(tmp_path: Path) -> None:
    """Its tracking was lost, and it is larger than the others."""
    folder = write_captures(tmp_path, 3, SIZE)
    scene = folder / "scene0000"
    (scene / "color" / "0.jpg").write_bytes(encoded(picture(192, 256)))
    (scene / "pose" / "0.txt").write_text("inf " * 16)
    found = decode_scene(read_scenes(str(folder)), "scene0000", SCALED)
    assert (found.view_ids, found.image_size) == (("1", "2"), (48, 64))


@pytest.mark.parametrize("size", [(95, 127), (97, 129), (88, 128)])
def test_images_that_differ_in_size_are_named_as_when_they_are_whole(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    folder = write_captures(tmp_path, 3, SIZE)
    (folder / "scene0000" / "color" / "1.jpg").write_bytes(encoded(picture(*size)))
    config = replace(SCALED, bad_views="fail")
    for jpeg in ("whole", "scaled"):
        with pytest.raises(SceneError, match="differ in size"):
            decode_scene(read_scenes(str(folder)), "scene0000", replace(config, jpeg=jpeg))


def test_a_progressive_jpeg_is_counted_at_its_whole_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libjpeg holds all of its coefficients: how many are decoded at once goes by that."""
    folder = write_captures(tmp_path, 4, (192, 256))
    config = replace(SCALED, num_views=0, backbone=RgbConfig(resolution=(16, 32)))
    asked = []

    def noting(function: object, items: Sequence[object], threads: int) -> Iterator[object]:
        asked.append(threads)
        return in_order(function, items, threads)

    monkeypatch.setattr(decoding, "in_order", noting)
    monkeypatch.setattr(decoding, "DECODERS", 9)
    depth_bytes = 4 * 96 * 128
    for jpeg, divisor in (("whole", 1), ("scaled", 8)):
        found = decode_scene(read_scenes(str(folder)), "scene0000", replace(config, jpeg=jpeg))
        assert found.image_size == (192 // divisor, 256 // divisor)
    whole, scaled = asked
    assert whole == scaled == 9
    monkeypatch.setattr(decoding, "DECODING_BYTES", 3 * 4 * (192 * 256 * 3 + 64 * depth_bytes))
    decode_scene(read_scenes(str(folder)), "scene0000", config)
    assert asked[-1] == 3


def test_several_stores_have_no_scaled_pixels_in_common() -> None:
    with pytest.raises(UsageError, match="one after the other"):
        check_alike([SCALED, replace(SCALED, backbone=RgbConfig(resolution=(96, 128)))])
    with pytest.raises(UsageError, match="jpeg"):
        check_alike([SCALED, WHOLE])
    check_alike([SCALED])
