"""A run over scenes that are misread says so, and `poses` and `depth_scale` are content."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layout_writers import scannet_export
from planes import PlaneScene

from vega3d.pipeline import open_store
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.extract import Summary, extract
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.reading import read_scenes


class OpenGL(PlaneScene):
    """The analytic scene with poses in OpenGL axes and depth in tenths of millimetres."""

    def pose(self, view: int) -> np.ndarray:
        return super().pose(view) @ np.diag([1.0, -1, -1, 1])

    def depth(self, view: int, size: tuple[int, int] | None = None) -> np.ndarray:
        return 10 * PlaneScene(num_views=6).depth(view, size)

    def _hits(self, view: int, size: tuple[int, int], rays: np.ndarray | None = None) -> tuple:
        return PlaneScene(num_views=6)._hits(view, size, rays)


def run(source: Path, out: Path, config: ExtractConfig) -> Summary:
    return extract(
        read_scenes(str(source)), str(out), config, numerics=Numerics(threads=1), run=run_inline
    )


@pytest.mark.slow
def test_a_run_names_what_would_mend_a_scene_and_the_options_do(
    tmp_path: Path, tiny_wan: Path
) -> None:
    scannet_export(tmp_path / "told", OpenGL(num_views=6))
    scannet_export(tmp_path / "right", PlaneScene(num_views=6))
    backbone = WanConfig(model=str(tiny_wan), resolution=(96, 128))
    config = ExtractConfig(backbone=backbone, grid=(3, 4), scenes_per_shard=1)
    expected = run(tmp_path / "right", tmp_path / "a", config)
    assert expected.misread == {}
    assert 0 < expected.reprojection_m < 0.01
    told = run(tmp_path / "told", tmp_path / "b", config)
    (line,) = told.misread["scene0000_00"]
    assert "--poses opengl and --depth-scale 0.1 would make it" in line
    mended = replace(config, poses="opengl", depth_scale=0.1)
    assert mended.stored()["poses"] == "opengl"
    assert "poses" not in config.stored()
    assert ExtractConfig.from_stored(mended.stored()) == mended
    found = run(tmp_path / "told", tmp_path / "c", mended)
    assert found.misread == {}
    right, meant = (open_store(str(tmp_path / name)) for name in "ac")
    for part in ("world_xyz", "world_from_camera"):
        one, other = (getattr(store, part)("scene0000_00") for store in (right, meant))
        np.testing.assert_allclose(one, other, atol=0.002)
