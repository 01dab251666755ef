"""What follows from the device: precision and batch size, resolved once and kept in the store."""

import io
import json
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from vega3d.pipeline import batch_size, cli, read_scenes
from vega3d.pipeline.backbones.loading import load_from_config
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.wan import WanConfig, WanEncoder
from vega3d.pipeline.batch_size import SIZES, Pass, best_size
from vega3d.pipeline.config import ExtractConfig, RunConfig
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.extract import open_for
from vega3d.pipeline.places import bench_file
from vega3d.pipeline.prepared import PreparedModel, prepare_model
from vega3d.pipeline.store.store import stored_attributes


def printed(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.app([*map(str, args)])
    assert not ended.value.code
    return capsys.readouterr().out


def shown(capsys: pytest.CaptureFixture[str], *args: object) -> dict:
    return tomllib.loads(printed(capsys, *args, "--show-config"))


@pytest.mark.parametrize(
    ("asked", "dtype"),
    [
        (("--device", "cuda"), "bfloat16"),
        (("--device", "cpu"), "float32"),
        (("--device", "cuda", "--dtype", "auto"), "bfloat16"),
        (("--device", "cuda", "--dtype", "float32"), "float32"),
        (("--device", "cpu", "--dtype", "bfloat16"), "bfloat16"),
        (("--device", "cuda", "--preset", "siglip"), "bfloat16"),
        (("--device", "cpu", "--preset", "reference"), "bfloat16"),  # the release's own
        (("--device", "cuda", "--preset", "rgb"), None),
    ],
)
def test_the_precision_follows_the_device_where_none_is_asked_for(
    asked: tuple[str, ...], dtype: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(capsys, "run", *asked).get("dtype") == dtype


def test_the_batch_size_is_searched_on_a_gpu_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "run", "--device", "cuda")["batch_size"] == 0
    assert shown(capsys, "run", "--device", "cpu")["batch_size"] == 4
    assert shown(capsys, "run", "--device", "cuda", "--batch-size", "2")["batch_size"] == 2


def test_a_store_keeps_its_precision_whatever_the_device(
    tmp_path: Path, tiny_wan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = WanConfig(model=str(tiny_wan), blocks=(1,), resolution=(96, 128))
    out = str(tmp_path / "s")
    open_for(read_scenes("rooms:1"), out, ExtractConfig(backbone=backbone), Numerics(), "")
    assert shown(capsys, "run", "--out", out, "--device", "cuda")["dtype"] == "float32"


@pytest.mark.slow
def test_what_is_submitted_says_its_precision(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("submit", "rooms:2", "--out", "s3://b/s", "--to", "ray")
    assert "--dtype bfloat16" in printed(capsys, *asked)
    assert "--dtype float32" in printed(capsys, *asked, "--dtype", "float32")
    assert "--batch-size 4" in printed(capsys, *asked, "--batch-size", "4")


def test_the_batch_size_is_the_smallest_that_is_about_as_fast_as_any() -> None:
    ms = {1: 20.0, 2: 12.0, 4: 10.0, 8: 9.9, 16: 9.8}
    assert best_size(lambda size: Pass(ms[size], size), 100) == 4
    assert best_size(lambda size: Pass(1 / size, 10 * size), 45) == 4  # memory

    def up_to_2(size: int) -> Pass:
        if size > 2:
            raise MemoryError
        return Pass(1 / size, 1)

    assert best_size(up_to_2, 100) == 2
    assert best_size(lambda size: Pass(1.0, 10**9), 1) == 1  # one view must go somehow

    def never(_size: int) -> Pass:
        raise MemoryError

    with pytest.raises(UsageError, match="one view are more than this device's memory"):
        best_size(never, 100)


@pytest.mark.slow
def test_what_is_measured_of_a_size_is_what_a_store_of_it_runs(
    tiny_wan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    run = WanEncoder._run_blocks

    def counted(
        self: WanEncoder, video: Tensor, modulation: Tensor
    ) -> Iterator[tuple[int, Tensor]]:
        passes.append(len(video))
        yield from run(self, video, modulation)

    monkeypatch.setattr(WanEncoder, "_run_blocks", counted)
    backbone = WanConfig(
        model=str(tiny_wan), blocks=(1,), resolution=(32, 48), timesteps=(100, 300)
    )
    model = prepare_model(ExtractConfig(backbone=backbone))
    _, measure = batch_size._measuring(model, Numerics(threads=1))
    for size in (2, 16):
        passes.clear()
        measure(size)
        assert passes == [size] * (2 * 2 * 16 // size)  # two timesteps, once to warm up
        measured = set(passes)
        passes.clear()
        store = load_from_config(model.config.backbone, Numerics(batch_size=size), model.prompt)
        views = np.zeros((16, 96, 128, 3), np.uint8)
        store.encode_pooled(views, (2, 2), scene_id="s", view_ids=list(map(str, range(16))))
        assert set(passes) == measured


def test_a_part_of_a_gpu_is_searched_with_a_part_of_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(batch_size, "_measuring", lambda model, numerics: (1000, None))
    monkeypatch.setattr(batch_size, "best_size", lambda _measure, limit: asked.append(limit) or 4)
    for share in (1.0, RunConfig(gpus_per_worker=0.5).gpu_share, RunConfig().gpu_share):
        batch_size.search_here(None, Numerics(), share)  # type: ignore[arg-type]
    assert asked == [800, 400, 800]


@pytest.mark.slow
def test_a_store_keeps_the_batch_size_that_was_searched(tmp_path: Path, tiny_wan: Path) -> None:
    backbone = WanConfig(model=str(tiny_wan), blocks=(1,), resolution=(32, 48))
    asked = (read_scenes("rooms:1"), str(tmp_path / "s"), ExtractConfig(backbone=backbone))
    _, _, store = open_for(*asked, Numerics(threads=1, batch_size=0), "")
    assert store.numerics["batch_size"] in SIZES
    attributes = stored_attributes(store.url)
    assert attributes is not None
    assert attributes["numerics"] == {**Numerics(threads=1).stored(), **store.numerics}
    _, _, again = open_for(*asked, Numerics(threads=1, batch_size=0), "")
    assert again.numerics == store.numerics


@pytest.mark.slow
def test_a_search_that_cannot_be_done_says_why_and_makes_no_store(
    tmp_path: Path, tiny_wan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the process that searches: its own errors come back, a crash is named, a share arrives."""
    backbone = WanConfig(model=str(tiny_wan), blocks=(1,), resolution=(32, 48))
    model = prepare_model(ExtractConfig(backbone=backbone))
    searched = Numerics(threads=1, batch_size=0)
    gone = replace(backbone, model=str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=str(tmp_path / "gone")):
        batch_size.with_batch_size(
            searched, replace(model, config=replace(model.config, backbone=gone))
        )
    asked: list[tuple[PreparedModel, Numerics, float]] = []
    run = subprocess.run

    def crashing(command: list[str], **how: Any) -> subprocess.CompletedProcess[bytes]:  # noqa: ANN401
        asked.append(pickle.loads(how["input"]))
        return run([*command[:3], "import sys; sys.exit(3)"], **how)

    monkeypatch.setattr(batch_size.subprocess, "run", crashing)
    monkeypatch.setattr(batch_size, "search_here", lambda *given: asked.append(given) or 4)
    with pytest.raises(UsageError, match="ended with exit code 3.*--batch-size takes one"):
        batch_size.with_batch_size(searched, model, 0.25)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(pickle.dumps(asked[0]))))
    batch_size._answer()
    assert [given[2] for given in asked] == [0.25, 0.25]


def test_a_dry_run_goes_by_what_bench_measured_as_a_plan_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VEGA3D_CACHE", str(tmp_path))
    rooms = ("rooms:2", "--model", "desk", "--device", "cpu")
    stated = json.loads(printed(capsys, "plan", *rooms).splitlines()[-1])
    table = bench_file("wan2.1-t2v", "cpu", "float32")
    table.parent.mkdir(parents=True)
    table.write_text(json.dumps({"tflops": 10 * stated["assumed"]["tflops_per_worker"]}))
    found = [
        json.loads(printed(capsys, *words, *rooms, *more).splitlines()[-1])
        for words, more in ((["plan"], []), (["run"], ["--out", tmp_path / "s", "--dry-run"]))
    ]
    assert found[0]["stages_s"] == found[1]["stages_s"]
    assert found[0]["stages_s"]["model"] == pytest.approx(stated["stages_s"]["model"] / 10)


def test_a_store_says_only_where_it_was_not_compiled() -> None:
    assert "compiled" not in Numerics().stored()
    assert Numerics(**Numerics(compiled=False).stored()) == Numerics(compiled=False)
