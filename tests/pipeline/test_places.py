"""Every place is absolute from the start: workers stand in other folders than the user."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from safetensors.torch import save_file

from vega3d.pipeline import open_store, read_scenes
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.prompt import empty_prompt_embedding
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.extract import extract
from vega3d.pipeline.places import absolute
from vega3d.pipeline.results import UnitResult
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.reading import absolute_location
from vega3d.pipeline.scenes.tars import pack
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.worker import UnitWriter


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["folder", "tars"])
def test_a_worker_in_another_folder_reads_and_writes_the_same_places(
    tmp_path: Path, tiny_wan: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """Scenes, store, model and prompt are all given relative to the folder of the start."""
    import torch

    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    shutil.copytree(tiny_wan, here / "model")
    monkeypatch.chdir(here)
    pack(read_scenes("rooms:1?views=2&height=48&width=64"), "tars")
    if layout == "folder":
        _as_posed_images(here / "scenes")
    rows = empty_prompt_embedding("model", here / "cache")
    save_file({"prompt_embeds": torch.from_numpy(rows)}, "prompt.safetensors")

    def run(worker: UnitWriter, units: Sequence[Unit]) -> Iterator[UnitResult]:
        os.chdir(elsewhere)
        yield from run_inline(worker, units)
        os.chdir(here)

    summary = extract(
        read_scenes("scenes" if layout == "folder" else "tars/*.tar"),
        "store",
        ExtractConfig(
            backbone=WanConfig(model="model", resolution=(96, 128)), grid=(2, 3), num_views=2
        ),
        numerics=Numerics(threads=1),
        run=run,
        prompt_embeds="prompt.safetensors",
    )
    assert summary.committed == summary.scenes == 1
    assert not list(elsewhere.iterdir())
    store = open_store(str(here / "store"))
    assert store.identity["config"]["model"] == str(here / "model")


def _as_posed_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    scene = folder / "room"
    scene.mkdir(parents=True)
    for view in read_scenes("rooms:1?views=2&height=48&width=64").read("room0000").views:
        Image.fromarray(view.read_rgb()).save(scene / f"{view.view_id}.jpg")
        np.savetxt(scene / f"{view.view_id}.txt", view.world_from_camera)
        np.savetxt(scene / "intrinsic.txt", view.K_color)


def test_only_local_paths_are_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("a/b") == str(tmp_path / "a/b")
    assert absolute("~/a") == str(Path.home() / "a")
    for name in ("s3://bucket/a", "http://host/{0..3}.tar", "/data/a", "rooms:3?views=2"):
        assert absolute_location(name) == name
    assert absolute_location("tars/{0..3}.tar") == str(tmp_path / "tars/{0..3}.tar")
