"""Intrinsics of another image are refused; those of real cameras pass."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.cameras import check_fits, field_of_view, pinhole
from vega3d.pipeline.scenes.depth_images import decode_depth_m, encode_depth_png
from vega3d.pipeline.scenes.images import encode_png
from vega3d.pipeline.scenes.reading import read_scenes

SCANNET = pinhole(1170.19, 1170.19, 647.75, 483.75)  # of 1296x968
PHONE = pinhole(529.6, 529.6, 315.7, 242.5)  # corridor_lidar, of 640x480
FREIBURG_1 = pinhole(517.3, 516.5, 318.6, 255.3)  # TUM RGB-D's, the most off its middle


@pytest.mark.parametrize(
    ("K", "height", "width"),
    [
        (SCANNET, 968, 1296),
        (PHONE, 480, 640),
        (FREIBURG_1, 480, 640),
        (pinhole(1920, 1920, 540, 960), 1920, 1080),  # a portrait as it should be
        (pinhole(300, 300, 256, 256), 512, 512),
        (pinhole(500, 500, 420, 240), 480, 640),  # a lens shifted to one side
        (pinhole(320, 320, 320, 240), 480, 640),  # wide: 90 degrees
    ],
)
def test_real_cameras_fit(K: np.ndarray, height: int, width: int) -> None:
    check_fits(K, height, width, "s/view 0: colour")


@pytest.mark.parametrize(
    ("scale", "told"),
    [
        (0.5, "middle of an image 0.50 times as large"),
        (2.0, "2.00 times"),
        (2 / 3, "0.67 times"),
        (1.5, "1.50 times"),
        (0.4, "0.40 times"),
    ],
)
@pytest.mark.parametrize(
    ("K", "height", "width"), [(SCANNET, 968, 1296), (pinhole(500, 500, 320, 240), 480, 640)]
)
def test_intrinsics_of_another_size_are_refused(
    K: np.ndarray, height: int, width: int, scale: float, told: str
) -> None:
    """Exactly half was accepted: the check counted its own border as inside."""
    with pytest.raises(SceneError, match=rf"s/view 0: colour is .*{told}.* so scale the"):
        check_fits(np.diag([scale, scale, 1]) @ K, height, width, "s/view 0: colour")


@pytest.mark.parametrize(("height", "width"), [(480, 640), (1080, 1920), (968, 1296), (1024, 1280)])
def test_portrait_intrinsics_of_a_landscape_are_refused(height: int, width: int) -> None:
    portrait = pinhole(1.2 * width, 1.2 * width, height / 2 + 3, width / 2 - 4)
    check_fits(portrait, width, height, "as it is")
    with pytest.raises(SceneError, match="once rows and columns are exchanged"):
        check_fits(portrait, height, width, "s/view 0: colour")


@pytest.mark.parametrize("focal", [26.0, 4.2, 6000.0])
def test_a_focal_length_in_millimetres_is_no_lens(focal: float) -> None:
    with pytest.raises(SceneError, match="a field of view of .* degrees, and lenses have 8 to 150"):
        check_fits(pinhole(focal, focal, 320, 240), 480, 640, "s/view 0: colour")


def test_the_field_of_view_is_between_the_edges() -> None:
    across, down = field_of_view(pinhole(320, 240, 320, 240), 480, 640)
    assert (across, down) == pytest.approx((90, 90))
    assert field_of_view(pinhole(100, 100, 0, 50), 100, 100)[0] == pytest.approx(45)


def test_the_size_that_the_source_says_is_asked() -> None:
    check_fits(PHONE, 480, 640, "w", (480, 640))
    with pytest.raises(SceneError, match=r"is 480x640, but its intrinsics are of 960x1280 by the"):
        check_fits(PHONE, 480, 640, "s/view 0: colour", (960, 1280))


@pytest.mark.parametrize(("fx_in_file", "is_refused"), [(60.0, True), (120.0, False)])
def test_scannet_says_of_which_size_its_intrinsics_are(
    tmp_path: Path, fx_in_file: float, is_refused: bool
) -> None:
    """Its own text counts where its focal length is that of K: else K was resized with the images.

    A crop to 56 of 64 columns moves the principal point by too little to be noticed.
    """
    scene = tmp_path / "scene0000_00"
    for name in ("color", "intrinsic", "pose"):
        (scene / name).mkdir(parents=True)
    Image.new("RGB", (56, 48)).save(scene / "color/0.png")
    np.savetxt(scene / "pose/0.txt", np.eye(4))
    np.savetxt(scene / "intrinsic/intrinsic_color.txt", pinhole(60, 60, 30, 24))
    text = f"axisAlignment = 1 0 0\ncolorHeight = 48\ncolorWidth = 64\nfx_color = {fx_in_file}\n"
    (scene / "scene0000_00.txt").write_text(text)
    (view,) = read_scenes(str(tmp_path)).read("scene0000_00").views
    if not is_refused:
        assert view.read_rgb().shape == (48, 56, 3)
        return
    with pytest.raises(SceneError, match="is 48x56, but its intrinsics are of 48x64"):
        view.read_rgb()


def test_saturated_depth_is_no_reading_in_any_layout() -> None:
    readings = np.array([[1234, 65535, 0, 65534]], dtype=np.uint16)
    read = decode_depth_m(encode_png(readings), "s/view 0")
    np.testing.assert_array_equal(read, np.array([[1.234, 0, 0, 65.534]], np.float32))
    tenths = decode_depth_m(readings, "s/view 0", unit_m=1e-4)
    np.testing.assert_allclose(tenths, [[0.1234, 0, 0, 6.5534]], rtol=1e-6)
    with pytest.raises(SceneError, match="depth reaches 65.535 m, .* ends at 65.534 m"):
        encode_depth_png(np.full((1, 1), 65.535, np.float32), "s/view 0")
