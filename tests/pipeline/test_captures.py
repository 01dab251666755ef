"""Must hold: each real capture through the tiny checkpoint, read by everybody."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import xarray
import zarr

from vega3d.pipeline import open_store, read_scenes
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.extract import extract
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.tars import pack

CAPTURES = ("chair_lidar", "corridor_lidar", "tum_fr3_structure")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stores(data: Path, tiny_wan: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    config = ExtractConfig(
        backbone=WanConfig(model=str(tiny_wan), resolution=(144, 192)),
        num_views=6,
        scenes_per_shard=1,
    )
    written = {}
    for name in CAPTURES:
        out = str(tmp_path_factory.mktemp("captures") / name)
        extract(
            read_scenes(str(data / name)), out, config, numerics=Numerics(threads=1), run=run_inline
        )
        written[name] = out
    return written


@pytest.mark.parametrize("name", CAPTURES)
def test_all_readers_see_the_same_numbers(stores: dict[str, str], name: str) -> None:
    url = stores[name]
    store = open_store(url)
    assert store.scene_ids == (name,)
    ours = store.features(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labelled = xarray.open_zarr(url)["k300_b20"].values[0]
    np.testing.assert_array_equal(labelled, ours)
    np.testing.assert_array_equal(zarr.open(url, mode="r")["k300_b20"][0], ours)
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        np.testing.assert_array_equal(zarr.open(url, mode="r")["k300_b20"][0], ours)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{url}/k300_b20/"}}
    read = tensorstore.open(spec, open=True).result()[0].read().result()
    np.testing.assert_array_equal(np.asarray(read), ours)
    assert np.isfinite(ours).all()


@pytest.mark.parametrize("name", CAPTURES)
def test_tokens_lie_where_the_depth_says(stores: dict[str, str], name: str, data: Path) -> None:
    """Each token's centre, unprojected by hand from the raw files, is where the store puts it."""
    from PIL import Image

    store = open_store(stores[name])
    depth_file = data / name / "depth" / f"{store.view_ids(name)[0]}.png"
    with Image.open(depth_file) as image:
        depth = np.asarray(image).astype(float) / 1000
    height, width = store.image_size(name)[0]
    fx, fy = store.intrinsics(name)[0][[0, 1], [0, 1]]
    cx, cy = store.intrinsics(name)[0][[0, 1], [2, 2]]
    pose = np.loadtxt(data / name / "pose" / f"{store.view_ids(name)[0]}.txt")
    errors_px = []
    for row in range(14):
        for col in range(14):
            u, v = (col + 0.5) * width / 14, (row + 0.5) * height / 14
            z = depth[int(v * depth.shape[0] / height), int(u * depth.shape[1] / width)]
            if z == 0:
                continue
            camera = [(u - cx) / fx * z, (v - cy) / fy * z, z, 1]
            expected = (pose @ camera)[:3]
            got = store.center_xyz(name)[0, row, col]
            errors_px.append(np.linalg.norm(got - expected) / (z / fx) * depth.shape[1] / width)
    # A cell's centre may fall between two depth pixels: half a pixel, more only at edges.
    assert len(errors_px) > 100
    assert np.median(errors_px) < 0.75
    assert np.mean(np.array(errors_px) < 1.5) > 0.75


def test_a_packed_capture_gives_the_same_features(
    stores: dict[str, str], data: Path, tiny_wan: Path, tmp_path: Path
) -> None:
    pack(read_scenes(str(data / "chair_lidar")), str(tmp_path / "tars"))
    config = ExtractConfig(
        backbone=WanConfig(model=str(tiny_wan), resolution=(144, 192)),
        num_views=6,
        scenes_per_shard=1,
    )
    packed = extract(
        read_scenes(str(tmp_path / "tars")),
        str(tmp_path / "s"),
        config,
        numerics=Numerics(threads=1),
        run=run_inline,
    )
    store = open_store(stores["chair_lidar"])
    again = open_store(packed.store)
    assert again.content_sha256("chair_lidar") == store.content_sha256("chair_lidar")
    np.testing.assert_array_equal(again.features("chair_lidar"), store.features("chair_lidar"))
    assert json.dumps(again.identity) == json.dumps(store.identity)


def test_a_video_gives_features_without_geometry(
    data: Path, tiny_wan: Path, tmp_path: Path
) -> None:
    config = ExtractConfig(
        backbone=WanConfig(model=str(tiny_wan), resolution=(96, 128), context="clip"),
        num_views=5,
        scenes_per_shard=1,
    )
    extract(
        read_scenes(str(data / "video")),
        str(tmp_path / "s"),
        config,
        numerics=Numerics(threads=1),
        run=run_inline,
    )
    store = open_store(str(tmp_path / "s"))
    (name,) = store.scene_ids
    assert store.features(name).shape == (5, 14, 14, 48)
    assert np.isnan(store.world_xyz(name)).all()
    # Views 1 to 4 share a latent of the causal VAE; view 0 has its own.
    features = store.features(name)
    np.testing.assert_array_equal(features[1], features[4])
    assert not np.array_equal(features[0], features[1])
