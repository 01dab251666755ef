"""Encoders side by side on a few rooms: two tables, one page, gone on with; and the controls."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vega3d.evaluate.config import ReportConfig
from vega3d.evaluate.encoders.choosing import choose, told_of
from vega3d.evaluate.encoders.comparison import compare_encoders
from vega3d.evaluate.encoders.config import EncodersConfig
from vega3d.evaluate.probes.config import ProbeConfig
from vega3d.evaluate.report import report
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import backbone_names, family
from vega3d.pipeline.backbones.small.catalogue import SMALL
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.imports import SceneArrays, import_arrays

ROOMS = "rooms:4?views=4&height=48&width=64"
CONFIG = EncodersConfig(encoders=("dinov3", "rgb", "position", "random"), grid=(6, 8), num_views=4)
PROBING = ProbeConfig(folds=2, mlp_hidden=0, bootstrap_samples=100)


def run(out: Path, scenes: list[str], config: EncodersConfig = CONFIG) -> dict[str, Any]:
    scoring = ReportConfig(bootstrap_samples=200)
    numerics = Numerics(threads=1)
    return compare_encoders(scenes, str(out), config, numerics, scoring=scoring, probing=PROBING)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("encoders")
    return out, run(out, [ROOMS])


@pytest.mark.slow
def test_both_tables_are_on_the_page_and_say_what_is_untrained(
    compared: tuple[Path, dict[str, Any]],
) -> None:
    out, told = compared
    page, held = Path(told["page"]).read_text(), json.loads((out / "encoders.json").read_text())
    place = held["places"]["rooms-4"]
    assert [row["store"] for row in place["consistency"]] == list(told["above_chance"]["rooms-4"])
    for row in place["consistency"]:
        assert f"{round(row['consistency']['mean'], 3):.3f}" in page
    assert {row["store"] for row in place["probe"]} == {
        "nothing", "position in the grid", *CONFIG.encoders}  # fmt: skip
    assert {"depth", "normal", "place", "class", "turn", "step"} < set(place["probe"][2])
    assert held["encoders"]["dinov3"]["random_weights"]
    assert not held["encoders"]["rgb"]["random_weights"]
    assert "<b>1 of these encoders have random weights:</b>" in page
    for link in ("rooms-4/report/report.html", "rooms-4/probe/probe.html"):
        assert f'href="{link}"' in page
        assert (out / link).exists()


@pytest.mark.slow
def test_controls_do_what_a_control_must(compared: tuple[Path, dict[str, Any]]) -> None:
    out, _ = compared
    held = json.loads((out / "encoders.json").read_text())["places"]["rooms-4"]
    rows = {row["store"]: row for row in held["consistency"]}
    chance = rows["random"]["above_chance"]
    assert chance["low"] <= 0 <= chance["high"]
    assert abs(chance["mean"]) < 0.05
    assert rows["position"]["tells_position"]
    assert not rows["random"]["tells_position"]
    page = (out / "encoders.html").read_text()
    assert "0 within its interval, as noise must" in page
    assert "is named as image position" in page


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(compared: tuple[Path, dict[str, Any]]) -> None:
    out, told = compared
    first = json.loads((out / "encoders.json").read_text())
    kept = {
        path: path.stat().st_mtime_ns
        for folder in ("models", "rooms-4/stores", "rooms-4/report/partials")
        for path in (out / folder).rglob("*.partial" if "partials" in folder else "c/*")
    }
    assert kept
    (out / "encoders.html").unlink()
    assert run(out, [ROOMS])["above_chance"] == told["above_chance"]
    assert json.loads((out / "encoders.json").read_text()) == first
    assert (out / "encoders.html").exists()
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


@pytest.mark.slow
def test_a_constant_has_nothing_above_chance(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scenes = [
        SceneArrays(
            scene_id=f"s{k}",
            features={"b0": np.full((3, 6, 8, 16), 0.5, np.float32)},
            world_xyz=rng.uniform(0, 0.3, (3, 6, 8, 3)).astype(np.float32),
            world_from_camera=np.tile(np.eye(4), (3, 1, 1)),
            view_ids=("0", "1", "2"),
        )
        for k in range(3)
    ]
    import_arrays(str(tmp_path / "constant"), scenes, model="constant")
    (row,) = report([str(tmp_path / "constant")], str(tmp_path / "out")).summary.rows
    assert row.mean("consistency") == pytest.approx(1)
    assert row.mean("above_chance") == 0


def test_every_encoder_with_weights_has_a_small_model() -> None:
    assert set(SMALL) == {name for name in backbone_names() if family(name).parts}


def test_weights_are_small_given_or_published(tmp_path: Path) -> None:
    (tmp_path / "stores.toml").write_text(
        '[stores.early]\nbackbone = "dinov2"\nmodel = "facebook/dinov2-base"\nblocks = [3]\n'
    )
    config = EncodersConfig(
        encoders=("wan2.1-t2v", "clip", "early", "dinov2", "rgb"),
        models=("clip=openai/clip-vit-base-patch16",),
        tables=str(tmp_path / "stores.toml"),
    )
    assert told_of(config) == {
        "wan2.1-t2v": "desk model, trained on rooms",
        "clip": "openai/clip-vit-base-patch16",
        "early": "facebook/dinov2-base",
        "dinov2": "small, random",
        "rgb": "none, a control",
    }
    assert not list(tmp_path.glob("models"))
    published = told_of(EncodersConfig(encoders=("dinov2",), weights="published"))
    assert published == {"dinov2": "facebook/dinov2-large"}
    given = EncodersConfig(encoders=("early",), tables=config.tables)
    (chosen,) = choose(given, tmp_path / "models", "cuda")
    assert (chosen.label, chosen.config.blocks, chosen.config.dtype) == ("early", (3,), "bfloat16")
    assert chosen.heavy


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"encoders": ("nil",)}, "encoders must be of wan2.1-t2v, .*got 'nil'"),
        ({"models": ("nil=x",)}, "got 'nil'"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        told_of(EncodersConfig(**settings))


@pytest.mark.slow
def test_an_encoder_or_a_place_that_fails_is_named_beside_the_others(tmp_path: Path) -> None:
    config = EncodersConfig(
        encoders=("rgb", "random", "dinov2"), models=(f"dinov2={tmp_path}",), grid=(3, 4)
    )
    places = ["rooms:2?views=2&height=48&width=64", "one=rooms:2?views=1&height=48&width=64"]
    told = run(tmp_path / "out", places, config)
    assert set(told["above_chance"]) == {"rooms-2"}
    assert set(told["above_chance"]["rooms-2"]) == {"rgb", "random"}
    assert "<b>one is not compared</b>" in Path(told["page"]).read_text()
    assert set(told["failed"]) == {"rooms-2", "one"}
    assert "config.json" in told["failed"]["rooms-2"]["dinov2"]
    assert "config.json" in Path(told["page"]).read_text()
