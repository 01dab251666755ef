"""Caches as the released code leaves them: one tensor a scene, no names, no places."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vega3d.pipeline import cli, open_store, read_scenes
from vega3d.pipeline.backbones.controls import RgbConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.config import CacheConfig, ExtractConfig
from vega3d.pipeline.errors import SceneError, UsageError
from vega3d.pipeline.extract import extract
from vega3d.pipeline.released_caches import import_caches
from vega3d.pipeline.released_files import find_caches, read_cache
from vega3d.pipeline.runners import run_inline

ROOMS = "rooms:2?views=5&height=48&width=64"
IDS = ["room0000", "room0001"]
CHANNELS, GRID = 6, 14


def features(seed: int, views: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(views, CHANNELS, GRID, GRID, generator=generator)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A folder a scene with a seva.pt in bfloat16, as the released code writes it."""
    root = tmp_path / "uniform_seva_middle_feats_onestep_t250_input16_patch14"
    for seed, name in enumerate(IDS):
        (root / name).mkdir(parents=True)
        torch.save(features(seed).to(torch.bfloat16), root / name / "seva.pt")
    return root


def command(*args: object) -> int:
    sys.argv = ["vega3d-extract", *map(str, args)]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(cli, "exit_on_sigterm", lambda: None)


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_the_command_brings_them_beside_what_we_extract(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same scenes, views, places and grid as a store of ours: reports can pair the two."""
    out = tmp_path / "seva.zarr"
    args = ("--source", "seva t250", "--scenes", ROOMS, "--view-ids", "uniform", "--tap", "t250")
    assert command("import", released, "--out", out, *args) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["committed"] == 2
    store, ours = open_store(str(out)), tmp_path / "rgb.zarr"
    assert store.taps == ("t250",)
    config = ExtractConfig(backbone=RgbConfig(resolution=(48, 64)), scenes_per_shard=1)
    extract(read_scenes(ROOMS), str(ours), config, numerics=Numerics(threads=1), run=run_inline)
    there = open_store(str(ours))
    for seed, name in enumerate(IDS):
        assert store.view_ids(name) == there.view_ids(name)
        np.testing.assert_array_equal(store.world_xyz(name), there.world_xyz(name))
        found = store.features(name)
        # The square that SEVA saw is columns 8 to 56 of 64: cells of 64 / 14 px, tokens of 48 / 14.
        assert np.isnan(found[:, :, [0, 13]]).all()
        assert np.isfinite(found[:, :, 2:12]).all()
        tokens = features(seed).to(torch.bfloat16).float().numpy().transpose(0, 2, 3, 1)
        left, right = (7 * 64 / 14 - 8) * 14 / 48, (8 * 64 / 14 - 8) * 14 / 48  # cell 7 in tokens
        weights = [max(0.0, min(right, i + 1) - max(left, i)) for i in range(GRID)]
        expected = np.einsum("t,vrtc->vrc", weights, tokens) / sum(weights)
        np.testing.assert_allclose(found[:, :, 7], expected, atol=2e-3)  # float16


@pytest.mark.usefixtures("in_process")
def test_views_must_be_named(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s"
    assert command("import", released, "--out", out, "--source", "seva") == 2
    assert "released caches do not say which views they hold" in capsys.readouterr().err
    args = ("--source", "seva", "--view-ids", "uniform")
    assert command("import", released, "--out", out, *args) == 2
    assert "uniform needs --scenes" in capsys.readouterr().err
    names = tmp_path / "views.json"
    names.write_text(json.dumps({IDS[0]: list("abcde")}))
    assert command("import", released, "--out", out, "--source", "s", "--view-ids", names) == 2
    assert "must give room0001 a list of names" in capsys.readouterr().err
    assert not out.exists()
    names.write_text(json.dumps({name: list("abcde") for name in IDS}))
    assert command("import", released, "--out", out, "--source", "s", "--view-ids", names) == 0
    store = open_store(str(out))
    assert store.view_ids(IDS[1]) == tuple("abcde")
    expected = features(1).to(torch.bfloat16).float().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(store.features(IDS[1]), expected, atol=2e-3)


@pytest.mark.parametrize("kind", [".pt", ".npy", ".safetensors", "dict.pt"])
def test_each_kind_of_file_is_read(tmp_path: Path, kind: str) -> None:
    path, held = tmp_path / f"a{kind}", features(0)
    if kind == ".npy":
        np.save(path, held.numpy())
    elif kind == ".safetensors":
        save_file({"x": held}, path)
    else:
        torch.save({"feature": held} if kind == "dict.pt" else held, path)
    np.testing.assert_array_equal(read_cache(path), held.numpy())


def test_the_half_that_was_conditioned_is_the_second(tmp_path: Path) -> None:
    torch.save(torch.cat([features(0), features(1)]), tmp_path / "a.pt")
    found = read_cache(tmp_path / "a.pt", cond_half=True)
    np.testing.assert_array_equal(found, features(1).numpy())
    torch.save(features(0), tmp_path / "b.pt")
    with pytest.raises(SceneError, match="5 rows, which are no two halves"):
        read_cache(tmp_path / "b.pt", cond_half=True)


class Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this ran",))


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("code.pt", pickle.dumps(Runs(), protocol=2)),
        ("object.npy", None),
        ("short.pt", b"PK\x03\x04"),
        ("text.safetensors", b"no tensors"),
    ],
    ids=["code", "object", "short", "text"],
)
def test_nothing_but_tensors_is_read(
    name: str, held: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if held is None:
        np.save(path, np.array([Runs()], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(held)
    with pytest.raises(SceneError, match=f"{name} cannot be read"):
        read_cache(path)
    assert "this ran" not in capsys.readouterr().out


def test_a_cache_that_does_not_fit_is_its_scene_s_failure(released: Path, tmp_path: Path) -> None:
    torch.save(features(1, views=4), released / IDS[1] / "seva.pt")
    names = tmp_path / "views.json"
    names.write_text(json.dumps({name: list("abcde") for name in IDS}))
    caches = find_caches([released], str(names), None)
    out = str(tmp_path / "s")
    store = import_caches(out, caches, CacheConfig(), source="seva", captures=None)
    assert store.scene_ids == (IDS[0],)
    assert "holds [4, 6, 14, 14]; 5 views are named" in store.failures[IDS[1]]


@pytest.mark.slow
def test_a_view_that_the_capture_lacks_is_named(released: Path, tmp_path: Path) -> None:
    rooms = read_scenes(ROOMS)
    ids = [view.view_id for view in rooms.read(IDS[0]).views]
    names = tmp_path / "views.json"
    names.write_text(json.dumps({IDS[0]: ids, IDS[1]: [*ids[:4], "nine"]}))
    caches = find_caches([released], str(names), rooms)
    out = str(tmp_path / "s")
    store = import_caches(out, caches, CacheConfig(), source="seva", captures=rooms)
    assert store.failures == {IDS[1]: "room0001: the capture has no view nine"}


@pytest.mark.slow
def test_fewer_frames_than_views_come_more_than_once_and_are_kept_once(tmp_path: Path) -> None:
    """A scene of 5 frames sampled 8 times: np.linspace repeats some, as the released code does."""
    torch.save(features(0, views=8), tmp_path / "room0000.pt")
    rooms = read_scenes(ROOMS)
    (cache,) = find_caches([tmp_path / "room0000.pt"], "uniform", rooms)
    names = [view.view_id for view in rooms.read(IDS[0]).views]
    assert cache.view_ids == tuple(names[i] for i in (0, 0, 1, 1, 2, 2, 3, 4))
    config = CacheConfig(cached_fit="stretch")
    store = import_caches(
        str(tmp_path / "s"), [cache], config, source="x", captures=rooms, store_dtype="float32"
    )
    assert store.view_ids(IDS[0]) == tuple(names)
    kept = features(0, views=8)[[0, 2, 4, 6, 7]].numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(store.features(IDS[0]), kept, rtol=1e-6)


def test_what_cannot_be_told_apart_is_refused(released: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no file of the kinds .pt"):
        find_caches([tmp_path / "empty"], "uniform", None)
    with pytest.raises(UsageError, match="--scenes has no room0001"):
        find_caches([released], "uniform", read_scenes("rooms:1"))
    torch.save(features(0), released / IDS[0] / "other.pt")
    with pytest.raises(UsageError, match="3 files name 2 scenes"):
        find_caches([released], "uniform", read_scenes(ROOMS))
