"""A store holds one arithmetic: what was begun before a rounding moved is not gone on with."""

from pathlib import Path

import pytest

from vega3d.pipeline import read_scenes
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.settings import Precision
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.extract import open_for


def config(model: Path, dtype: Precision) -> ExtractConfig:
    backbone = WanConfig(model=str(model), blocks=(1,), resolution=(96, 128), dtype=dtype)
    return ExtractConfig(backbone=backbone, grid=(3, 4), scenes_per_shard=1)


def begin(out: Path, asked: ExtractConfig) -> dict[str, object]:
    source = read_scenes("rooms:1")
    _, model, _ = open_for(source, str(out), asked, Numerics(threads=1), "")
    return model.identity


def test_a_bfloat16_store_of_another_arithmetic_is_not_gone_on_with(
    tmp_path: Path, tiny_wan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(tiny_wan, "bfloat16")
    with monkeypatch.context() as before:
        before.setattr(WanConfig, "arithmetic", property(lambda _: 0))
        assert "arithmetic_version" not in begin(tmp_path / "s", asked)
    with pytest.raises(StoreError, match=r"another way \(arithmetic_version: not set -> 1\)"):
        begin(tmp_path / "s", asked)
    assert begin(tmp_path / "new", asked)["arithmetic_version"] == 1
    begin(tmp_path / "new", asked)  # its own is gone on with


def test_float32_never_moved_and_its_stores_go_on(tmp_path: Path, tiny_wan: Path) -> None:
    assert "arithmetic_version" not in begin(tmp_path / "s", config(tiny_wan, "float32"))
