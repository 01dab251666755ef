"""What nobody saw is NaN in the store, whoever wrote it: any encoder, any file."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from vega3d.pipeline import load_backbone, read_scenes
from vega3d.pipeline.backbones.backbone import Backbone
from vega3d.pipeline.backbones.encoder import Views
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.features import decode_scene, encode_scene
from vega3d.pipeline.plan import plan_units
from vega3d.pipeline.scenes.scene import SceneEntry
from vega3d.pipeline.store.creating import create_or_resume
from vega3d.pipeline.store.identity import FORMAT_VERSION
from vega3d.pipeline.store.scene_arrays import SceneArrays
from vega3d.pipeline.store.store import Store

SIZE = (96, 96)


class InfiniteOutside:
    """The mean colours of `rgb`, and inf in every token of the padding."""

    joint = False

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def tokens(self, views: Views) -> Iterator[tuple[str, np.ndarray]]:
        top, left, bottom, right = views.placement.target
        for tap, found in self._inner.tokens(views):
            tokens = np.full_like(found, np.inf)
            side = views.canvas[0] // tokens.shape[1]
            inside = (slice(None), slice(top // side, -(-bottom // side)),
                      slice(left // side, -(-right // side)))  # fmt: skip
            tokens[inside] = np.asarray(found)[inside]
            yield tap, tokens


def encoded(fit: str) -> SceneArrays:
    """Return a wide room through that encoder: padded above and below, or cropped."""
    backbone: Backbone = load_backbone("rgb", resolution=SIZE, fit=fit)
    backbone._encoder = InfiniteOutside(backbone._encoder)
    config = ExtractConfig(grid=(6, 8), num_views=2)
    decoded = decode_scene(read_scenes("rooms:1?views=2&height=48&width=96"), "room0000", config)
    return encode_scene(decoded, backbone, config)


def stored(folder: Path, scene: SceneArrays) -> Store:
    (values,) = scene.features.values()
    views, rows, cols, channels = values.shape
    identity = {
        "format": FORMAT_VERSION,
        "config": {"grid": [rows, cols], "store_dtype": "float16", "backbone": "toy"},
        "taps": list(scene.features),
        "channels": channels,
    }
    entry = SceneEntry(scene_id=scene.scene_id, num_views=views, size_bytes=0)
    plan = plan_units([entry], num_views=0, scenes_per_shard=1)
    writer = create_or_resume(str(folder / "s"), plan, identity, asdict(Numerics()))
    writer.write_unit(plan.units[0], [scene], {})
    return Store.open(str(folder / "s"))


def test_what_a_token_of_the_padding_holds_reaches_no_cell(tmp_path: Path) -> None:
    scene = encoded("pad")
    assert (scene.coverage == 1).all()
    store = stored(tmp_path, scene)
    assert not store.failures
    assert np.isfinite(store.features("room0000")).all()


def test_a_cell_that_a_crop_hides_is_nan_and_in_no_statistic(tmp_path: Path) -> None:
    scene = encoded("crop")
    hidden = np.asarray(scene.coverage) == 0
    assert hidden.any()
    (tap,) = scene.features
    values = scene.features[tap].copy()
    values[hidden] = np.inf  # an encoder, a plug-in or a file may say so
    filled = SceneArrays(
        scene_id="room0000",
        features={tap: values},
        view_ids=scene.view_ids,
        coverage=scene.coverage,
    )
    store = stored(tmp_path, filled)
    found = store.features("room0000")
    assert np.isnan(found[hidden]).all()
    assert np.isfinite(found[~hidden]).all()
    np.testing.assert_allclose(
        store.channel_stats()["mean"], found[~hidden].astype(np.float64).mean(axis=0)
    )


def test_class_ids_are_whole_in_the_store_or_refused_whoever_writes_them(tmp_path: Path) -> None:
    """A model that labels tokens: two channels of ids, of which float16 would round one."""
    ids = np.tile(np.array([7.0, 2547.0], np.float32), (2, 3, 4, 1))
    scene = SceneArrays(scene_id="room", features={"labels": ids}, view_ids=("0", "1"))
    told = stored(tmp_path, scene).failures["room"]
    assert "float16 would make 2547 2548; use --store-dtype float32" in told
    exact = SceneArrays(
        scene_id="room", features={"labels": np.minimum(ids, 2048)}, view_ids=("0", "1")
    )
    (tmp_path / "exact").mkdir()
    assert stored(tmp_path / "exact", exact).features("room").max() == 2048


def test_large_features_that_are_no_ids_are_rounded_as_float16_rounds(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(3000, 100, size=(2, 3, 4, 5)).astype(np.float32)
    scene = SceneArrays(scene_id="room", features={"b": values}, view_ids=("0", "1"))
    store = stored(tmp_path, scene)
    np.testing.assert_array_equal(store.features("room"), values.astype(np.float16))


@pytest.mark.parametrize("names", [(), ("0",), ("0", "0")])
def test_views_without_names_of_their_own_are_refused(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    scene = SceneArrays(
        scene_id="room", features={"b": np.ones((2, 3, 4, 5), np.float32)}, view_ids=names
    )
    assert "view ids for 2 views; give view_ids" in stored(tmp_path, scene).failures["room"]
