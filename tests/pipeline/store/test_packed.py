"""A store of one byte a number: what it takes, how near it comes, and who can read it."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from vega3d.evaluate import consistency
from vega3d.pipeline import open_store
from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.imports import SceneArrays, import_arrays
from vega3d.pipeline.store.packed import packed, unpacked
from vega3d.pipeline.store.verify import status, verify
from vega3d.train.chunks import DirectChunks, bytes_of, page_aligned

VIEWS, GRID, CHANNELS = 3, (3, 4), 256


def like_a_transformer(seed: int, shape: tuple[int, ...] = (VIEWS, *GRID, CHANNELS)) -> np.ndarray:
    """Features with what DiTs have: channels of many sizes, few of them massive in every token."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal(shape) * np.exp(rng.standard_normal(shape[-1]))
    features[..., [3, 77]] += [900.0, -300.0]
    return features.astype(np.float32)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (a, b))
    return np.vecdot(a, b) / np.sqrt(np.vecdot(a, a) * np.vecdot(b, b))


def plainly_packed(token: np.ndarray, apart: int) -> bytes:
    """The slow twin: one token, as FORMAT.md says."""
    token = token.astype(np.float32)
    places = sorted(sorted(range(len(token)), key=lambda c: (-abs(token[c]), c))[:apart])
    top = max((abs(token[c]) for c in range(len(token)) if c not in places), default=0)
    scale = np.float32(top) / np.float32(127)
    scale = ((scale.view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
    inverse = np.float32(1) / scale if scale else np.float32(0)
    most = min(127, int(65504 / scale)) if scale else 0
    codes = np.clip(np.rint(token * inverse), -most, most)
    codes[places] = -128
    return (
        codes.astype(np.int8).tobytes()
        + scale.tobytes()[2:]
        + token[places].astype("<f2").tobytes()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "apart"), [(1536, 8), (128, 1), (5, 0)])
def test_bytes_and_numbers_are_those_of_the_slow_twin(channels: int, apart: int) -> None:
    values = like_a_transformer(0, (2, 2, 2, max(channels, 100)))[..., :channels].reshape(8, -1)
    values[1], values[2, :2] = 0, [1e-30, -1e-30]
    seen = np.arange(8) != 4
    found, absmax = packed(values, seen)
    assert found.shape[1] == channels + 2 + 2 * apart
    for t in np.flatnonzero(seen):
        assert found[t].tobytes() == plainly_packed(values[t], apart)
    np.testing.assert_array_equal(absmax, np.abs(values[seen]).max(axis=0))
    numbers = unpacked(found, channels)
    assert np.isnan(numbers[4]).all()
    scale = (
        np.ascontiguousarray(found[:, channels : channels + 2]).view("<u2").astype("<u4") << 16
    ).view("<f4")
    plain = (found[:, :channels].astype(np.float32) * scale).astype(np.float16)
    held = found[:, :channels] != -128
    np.testing.assert_array_equal(numbers[held], plain[held])
    np.testing.assert_array_equal(
        numbers[seen][~held[seen]], values[seen][~held[seen]].astype(np.float16)
    )


def test_the_largest_numbers_of_float16_stay_numbers() -> None:
    token = np.array([[65504.0, -65300.0, 1.0, 0.0]], np.float32)
    found, _ = packed(token, np.array([True]))
    assert found[0].tobytes() == plainly_packed(token[0], 0)
    np.testing.assert_allclose(unpacked(found, 4), token, atol=516)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("packed")
    coverage = np.ones((VIEWS, *GRID), dtype=np.float32)
    coverage[1, 0, 0] = 0
    scenes = [
        SceneArrays(
            scene_id=f"s{n}",
            features={"b20": like_a_transformer(n)[: VIEWS - n]},
            view_ids=tuple("xyz"[: VIEWS - n]),
            coverage=coverage[: VIEWS - n],
        )
        for n in range(2)
    ]
    for dtype in ("float16", "int8"):
        import_arrays(str(place / dtype), scenes, model="m", scenes_per_shard=2, store_dtype=dtype)
    return {dtype: place / dtype for dtype in ("float16", "int8")}


def test_it_takes_half_and_every_reader_sees_nearly_the_same(stores: dict[str, Path]) -> None:
    halves, bytes_ = (open_store(str(stores[name])) for name in ("float16", "int8"))
    sizes = [(stores[name] / "b20" / "c.0.0.0.0.0").stat().st_size for name in ("float16", "int8")]
    assert sizes[1] <= 0.52 * sizes[0]
    for scene_id in halves.scene_ids:
        a, b = halves.features(scene_id), bytes_.features(scene_id)
        assert b.dtype == np.float16
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        seen = ~np.isnan(a).any(axis=-1)
        alike = cosines(a[seen], b[seen])
        assert alike.mean() >= 0.99999, alike.mean()
        without = np.delete(a[seen], [3, 77], axis=1), np.delete(b[seen], [3, 77], axis=1)
        assert cosines(*without).mean() >= 0.9995  # massive channels hide nothing
        reader = DirectChunks(bytes_, "b20")
        buffer = page_aligned((*GRID, CHANNELS), reader.dtype)
        reader.read_into(bytes_.row(scene_id), 1, bytes_of(buffer))
        np.testing.assert_array_equal(buffer, b[1])
        np.testing.assert_array_equal(bytes_.view("b20", bytes_.row(scene_id), 1), b[1])
    for name, step in (("mean", 0.05), ("std", 0.05), ("absmax", 0.2)):
        a, b = (store.channel_stats()[name] for store in (halves, bytes_))
        np.testing.assert_allclose(b, a, atol=step, rtol=1e-3)  # half of a token's largest / 127
    xyz = np.random.default_rng(0).uniform(0, 0.3, (VIEWS, *GRID, 3)).astype(np.float32)
    valid = ~np.isnan(halves.features("s0")).any(axis=-1)
    scores = [
        consistency(store.features("s0"), xyz, valid).consistency for store in (halves, bytes_)
    ]
    assert abs(scores[0] - scores[1]) < 1e-3


def test_it_is_verified_repaired_and_told(stores: dict[str, Path]) -> None:
    url = str(stores["int8"])
    assert not verify(url).faults
    assert status(url)["complete"]
    path = stores["int8"] / "moments" / "c.0.0.0.0"
    whole = path.read_bytes()
    path.write_bytes(b"\0" * len(whole))
    assert list(verify(url, repair=True).restored) == ["moments/c.0.0.0.0"]  # from decoded features
    assert path.read_bytes() == whole


def test_stock_zarr_reads_it_as_the_format_says(stores: dict[str, Path]) -> None:
    """The example of FORMAT.md, word for word."""
    text = (Path(__file__).parents[3] / "pipeline/store/FORMAT.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    found: dict[str, object] = {"STORE": str(stores["int8"]), "TAP": "b20", "ROW": 0, "zarr": zarr}
    exec(code, found)
    ours = open_store(str(stores["int8"])).features("s0").astype(np.float32)
    seen = ~np.isnan(ours)
    theirs = np.asarray(found["features"])[:VIEWS]
    assert np.isnan(theirs[~seen]).all()
    np.testing.assert_allclose(theirs[seen], ours[seen], rtol=2**-11)  # ours are rounded to halves
    assert json.loads((stores["int8"] / "b20/zarr.json").read_text())["data_type"] == "int8"


def test_class_ids_are_not_packed(tmp_path: Path) -> None:
    ids = like_a_transformer(0)
    ids[..., 5] = np.arange(VIEWS * 12).reshape(VIEWS, *GRID)
    given = SceneArrays(scene_id="a", features={"b0": ids}, view_ids=("x", "y", "z"))
    with pytest.raises(SceneError, match=r"int8 would make .* use --store-dtype float16"):
        import_arrays(str(tmp_path / "s"), [given], model="m", store_dtype="int8")
