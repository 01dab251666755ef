"""Features of others: what is content, what is refused, and what is not covered."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vega3d.pipeline.errors import SceneError, StoreError
from vega3d.pipeline.imports import SceneArrays, import_arrays, read_scene_arrays

VIEWS, ROWS, COLS = 3, 4, 5


def scene(**more: object) -> SceneArrays:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(VIEWS, ROWS, COLS, 6)).astype(np.float32)
    return SceneArrays(
        **{"scene_id": "a", "features": {"b0": features}, "view_ids": ("x", "y", "z"), **more}
    )


@pytest.mark.parametrize("filler", [0.0, np.inf, np.nan])
def test_what_is_not_covered_is_nan_and_in_no_statistic(tmp_path: Path, filler: float) -> None:
    coverage = np.ones((VIEWS, ROWS, COLS), dtype=np.float32)
    coverage[:, 0] = 0
    features = scene().features["b0"].copy()
    features[:, 0] = filler
    given = scene(features={"b0": features}, coverage=coverage)
    store = import_arrays(str(tmp_path / "s"), [given], model="m", store_dtype="float32")
    found = store.features("a")
    assert np.isnan(found[:, 0]).all()
    np.testing.assert_array_equal(found[:, 1:], features[:, 1:])
    seen = features[:, 1:].reshape(-1, 6).astype(np.float64)
    stats = store.channel_stats()
    np.testing.assert_allclose(stats["mean"], seen.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats["std"], seen.std(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(stats["absmax"], np.abs(seen).max(axis=0))


@pytest.mark.parametrize(
    "other",
    [
        {"world_xyz": np.full((VIEWS, ROWS, COLS, 3), 2.0, dtype=np.float32)},
        {"world_from_camera": np.tile(2 * np.eye(4), (VIEWS, 1, 1))},
        {"intrinsics": np.tile(2 * np.eye(3), (VIEWS, 1, 1))},
        {"view_ids": ("x", "y", "w")},
        {"coverage": np.full((VIEWS, ROWS, COLS), 0.5, dtype=np.float32)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_places_cameras_or_views_are_other_content(tmp_path: Path, other: dict) -> None:
    first = scene(
        world_xyz=np.ones((VIEWS, ROWS, COLS, 3), dtype=np.float32),
        world_from_camera=np.tile(np.eye(4), (VIEWS, 1, 1)),
        intrinsics=np.tile(np.eye(3), (VIEWS, 1, 1)),
    )
    out = str(tmp_path / "s")
    import_arrays(out, [first], model="m")
    import_arrays(out, [first], model="m")
    with pytest.raises(StoreError, match=r"other features, positions, cameras or views of a"):
        import_arrays(out, [replace(first, **other)], model="m")


def test_class_ids_that_the_stored_type_would_change_are_refused(tmp_path: Path) -> None:
    ids = np.full((VIEWS, ROWS, COLS, 1), np.nan, dtype=np.float32)
    ids[0] = 2547
    given = scene(features={"b0": ids}, coverage=None)
    given = replace(given, coverage=np.isfinite(ids[..., 0]).astype(np.float32))
    told = "float16 would make 2547 2548; use --store-dtype float32"
    with pytest.raises(SceneError, match=told):
        import_arrays(str(tmp_path / "s"), [given], model="m")
    assert not list(tmp_path.iterdir())
    store = import_arrays(str(tmp_path / "s"), [given], model="m", store_dtype="float32")
    assert store.features("a")[0].max() == 2547
    small = replace(given, features={"b0": np.minimum(ids, 2048)})
    import_arrays(str(tmp_path / "t"), [small], model="m")


def test_class_ids_of_a_file_are_not_rounded_on_the_way(tmp_path: Path) -> None:
    ids = np.full((VIEWS, ROWS, COLS, 1), 2**24 + 1, dtype=np.int64)
    path = tmp_path / "a.safetensors"
    save_file({"features.b0": ids}, path, metadata={"view_ids": json.dumps(["x", "y", "z"])})
    with pytest.raises(SceneError, match="float32 would make 16777217 16777216"):
        import_arrays(
            str(tmp_path / "s"), [read_scene_arrays(str(path))], model="m", store_dtype="float32"
        )


def test_a_file_names_its_views(tmp_path: Path) -> None:
    """Views numbered 0, 1, 2 would match whatever other images stand at those places."""
    path = tmp_path / "a.safetensors"
    tensors = {"features.b0": scene().features["b0"]}
    for metadata in (None, {"view_ids": "x, y"}, {"view_ids": "3"}, {"view_ids": "[1, 2, 3]"}):
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(SceneError, match=r"a.safetensors: the file's metadata must name its"):
            read_scene_arrays(str(path))
    save_file(tensors, path, metadata={"view_ids": json.dumps(["00000", "00010", "00020"])})
    store = import_arrays(str(tmp_path / "s"), [read_scene_arrays(str(path))], model="m")
    assert store.view_ids("a") == ("00000", "00010", "00020")


@pytest.mark.parametrize("names", [(), ("x", "y"), ("x", "x", "y")])
def test_arrays_name_their_views(tmp_path: Path, names: tuple[str, ...]) -> None:
    told = r"a: there are \d different view ids for 3 views; give view_ids, as other stores"
    with pytest.raises(SceneError, match=told):
        import_arrays(str(tmp_path / "s"), [scene(view_ids=names)], model="m")
    assert not list(tmp_path.iterdir())


def test_whole_ids_with_a_mask_are_kept_and_unseen_is_nan(tmp_path: Path) -> None:
    ids = np.full((VIEWS, ROWS, COLS, 1), 2047, dtype=np.int64)
    coverage = np.ones((VIEWS, ROWS, COLS), dtype=np.float32)
    coverage[:, 0] = 0
    given = scene(features={"b0": ids}, coverage=coverage)
    found = import_arrays(str(tmp_path / "s"), [given], model="m").features("a")
    assert np.isnan(found[:, 0]).all()
    assert (found[:, 1:] == 2047).all()


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8_e4m3fn"])
def test_short_floats_are_read_exactly(tmp_path: Path, name: str) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    values = torch.linspace(-2, 2, VIEWS * ROWS * COLS * 6).reshape(VIEWS, ROWS, COLS, 6)
    short = values.to(getattr(torch, name))
    path = tmp_path / "a.safetensors"
    save_torch({"features.b0": short}, path, metadata={"view_ids": json.dumps(["x", "y", "z"])})
    store = import_arrays(str(tmp_path / "s"), [read_scene_arrays(str(path))], model="m")
    np.testing.assert_array_equal(store.features("a"), short.float().numpy())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "blobs" / "none")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut, "incomplete metadata"),
        (pointer, "is a Git LFS pointer; fetch the file with git lfs pull"),
        (dangling, "is a link to a file that is not there; fetch the file"),
        (empty, "header too small"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_reason(
    tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"features.b0": scene().features["b0"]}, path, metadata={"view_ids": '["x"]'})
    damage(path)
    with pytest.raises(SceneError, match=f"a.safetensors: is no safetensors file.*{told}"):
        read_scene_arrays(str(path))
