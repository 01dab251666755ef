"""Several encoders in one pass: one decode a scene, stores as of separate runs, faults apart."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from vega3d.pipeline import extract as extracting
from vega3d.pipeline import open_store, read_scenes
from vega3d.pipeline.backbones.controls import PositionConfig, RandomConfig, RgbConfig
from vega3d.pipeline.backbones.encoder import Views
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import configured
from vega3d.pipeline.backbones.twins import write_random_generator
from vega3d.pipeline.config import ExtractConfig, RunConfig
from vega3d.pipeline.errors import SceneError, TransientError, UsageError
from vega3d.pipeline.extract import Summary, extract, open_for
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, SceneSource
from vega3d.pipeline.store.record import Record
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.store.writer import StoreWriter
from vega3d.pipeline.together import StorePlan, TogetherWriter, extract_together
from vega3d.pipeline.worker import UnitWriter

ROOMS = read_scenes("rooms:3?views=3&height=48&width=64")
SIZE = {"resolution": (48, 64)}
BACKBONES = {"rgb": RgbConfig(**SIZE), "random": RandomConfig(**SIZE)}


@dataclass
class Counted:
    """A source that counts how often each image is opened."""

    source: SceneSource
    opened: Counter[str] = field(default_factory=Counter)

    def entries(self) -> Sequence[SceneEntry]:
        return self.source.entries()

    def read(self, scene_id: str) -> Scene:
        scene = self.source.read(scene_id)

        def counting(view_id: str, read: object) -> object:
            def opened() -> np.ndarray:
                self.opened[f"{scene_id}/{view_id}"] += 1
                return read()

            return opened

        views = [replace(v, read_rgb=counting(v.view_id, v.read_rgb)) for v in scene.views]
        return replace(scene, views=tuple(views))


def config(backbone: BackboneConfig) -> ExtractConfig:
    return ExtractConfig(backbone=backbone, grid=(3, 4), scenes_per_shard=1)


def together(
    folder: Path, backbones: dict[str, BackboneConfig], source: SceneSource = ROOMS, **more: object
) -> dict[str, Summary]:
    plans = [
        StorePlan(out=str(folder / name), config=config(backbone))
        for name, backbone in backbones.items()
    ]
    found = extract_together(
        source, plans, **{"numerics": Numerics(threads=1), "run": run_inline, **more}
    )
    return dict(zip(backbones, found, strict=True))


def alone(folder: Path, backbone: BackboneConfig) -> Summary:
    numerics = Numerics(threads=1)
    return extract(ROOMS, str(folder), config(backbone), numerics=numerics, run=run_inline)


@pytest.mark.slow
def test_a_scene_s_images_are_opened_once_and_each_store_is_that_of_its_own_run(
    tmp_path: Path,
) -> None:
    source = Counted(ROOMS)
    found = together(tmp_path, BACKBONES, source)
    assert len(source.opened) == 3 * 3
    assert set(source.opened.values()) == {1}
    for name, backbone in BACKBONES.items():
        by_itself = alone(tmp_path / "alone" / name, backbone)
        assert found[name].digest == by_itself.digest
        assert found[name].taps == by_itself.taps
        assert (found[name].committed, found[name].pending) == (3, 0)
        assert found[name].reprojection_m == by_itself.reprojection_m


@pytest.mark.slow
def test_a_vae_that_encoders_share_runs_once_a_scene_and_stores_are_those_of_their_own_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vega3d.pipeline.backbones.wan_frames import FrameEncoder

    write_random_generator("desk", tmp_path / "weights", seed=0)
    backbones = {
        "prior": configured("desk", SIZE),
        "twin": configured("desk", {**SIZE, "model": str(tmp_path / "weights")}),
        "vae": configured("wan-vae", {**SIZE, "model": str(tmp_path / "weights")}),
    }
    for name, backbone in backbones.items():
        alone(tmp_path / "alone" / name, backbone)
    calls = []
    forward = FrameEncoder.forward
    monkeypatch.setattr(FrameEncoder, "forward", lambda *given: calls.append(1) or forward(*given))
    together(tmp_path, backbones)
    assert len(calls) == 3  # scenes, one batch each
    for name in backbones:
        mine, its_own = (open_store(str(p / name)) for p in (tmp_path, tmp_path / "alone"))
        assert mine.digest() == its_own.digest()
        for scene_id in mine.scene_ids:
            np.testing.assert_array_equal(mine.features(scene_id), its_own.features(scene_id))


@pytest.mark.slow
def test_what_a_store_has_is_not_computed_again_and_nothing_is_read_in_vain(tmp_path: Path) -> None:
    alone(tmp_path / "rgb", BACKBONES["rgb"])
    source = Counted(ROOMS)
    found = together(tmp_path, BACKBONES, source)
    assert (found["rgb"].units_this_run, found["random"].units_this_run) == (0, 3)
    again = together(tmp_path, BACKBONES, source)
    assert {summary.units_this_run for summary in again.values()} == {0}
    assert set(source.opened.values()) == {1}


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultyConfig(PositionConfig):
    """Fails at one room, as an encoder does that has a bug there, or that refuses it."""

    def values(self, views: Views) -> np.ndarray:
        if views.scene_id == "room0001":
            raise ERRORS[0]
        return PositionConfig.values(self, views)


ERRORS: list[Exception] = []


@pytest.mark.slow
def test_a_bug_in_one_encoder_leaves_its_unit_and_no_other_store_s(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ERRORS[:] = [ZeroDivisionError("division by zero")]
    found = together(tmp_path, {**BACKBONES, "position": FaultyConfig(**SIZE)})
    assert [found[name].committed for name in BACKBONES] == [3, 3]
    assert (found["position"].committed, found["position"].pending) == (2, 1)
    assert found["position"].postponed == {"room0001": "ZeroDivisionError: division by zero"}
    assert "unit 1 is left to a later run" in caplog.text
    mended = together(tmp_path, {**BACKBONES, "position": PositionConfig(**SIZE)})
    assert mended["position"].units_this_run == 1
    assert (
        mended["position"].digest == alone(tmp_path / "p", PositionConfig(**SIZE)).digest
    )  # the unit's absence has left no trace


@pytest.mark.slow
def test_a_scene_that_one_encoder_refuses_is_a_failure_of_its_store_alone(tmp_path: Path) -> None:
    ERRORS[:] = [SceneError("room0001: too many views")]
    backbones = {**BACKBONES, "position": FaultyConfig(**SIZE)}
    found = together(tmp_path, backbones)
    assert found["position"].failures == {"room0001": "room0001: too many views"}
    assert [found[name].failures for name in BACKBONES] == [{}, {}]
    ERRORS[:] = [ZeroDivisionError("not tried")]
    again = together(tmp_path, {**BACKBONES, "position": PositionConfig(**SIZE)}, retry_failed=True)
    assert [again[name].units_this_run for name in backbones] == [0, 0, 1]
    assert again["position"].failures == {}


class Hindered(StoreWriter):
    """A store whose first write of unit 1 ends otherwise."""

    def put_unit(self, unit: Unit, *args: object) -> tuple[Record, bool]:
        if HINDRANCES and unit.index == 1:
            raise HINDRANCES.pop()
        return super().put_unit(unit, *args)


HINDRANCES: list[BaseException] = []


def hindered(folder: Path, source: SceneSource) -> tuple[TogetherWriter, list[Unit]]:
    """Return a worker whose second store is hindered, and its units."""
    writers, todo = {}, {}
    for name, backbone in BACKBONES.items():
        out = str(folder / name)
        rows, model, store = open_for(source, out, config(backbone), Numerics(threads=1), "")
        if name == "random":
            store = Hindered(url=store.url, layout=store.layout, numerics=store.numerics)
        writers[out] = UnitWriter(source, model, store)
        todo[out] = {unit.index: unit for unit in rows.units}
    return TogetherWriter(source, writers, todo), list(rows.units)


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_tried_again_and_the_others_are_not(
    tmp_path: Path,
) -> None:
    HINDRANCES[:] = [TransientError("the bucket does not answer")]
    source = Counted(ROOMS)
    results = list(run_inline(*hindered(tmp_path, source)))
    assert [result.unit for result in results] == [0, 2, 1]
    assert all(len(result.parts) == 2 and not result.postponed for result in results)
    opened = {name.partition("/")[0]: count for name, count in source.opened.items()}
    assert opened == {"room0000": 1, "room0001": 2, "room0002": 1}
    found = together(tmp_path, BACKBONES)  # only merges what is there
    for name, backbone in BACKBONES.items():
        assert found[name].units_this_run == 0
        assert found[name].digest == alone(tmp_path / "alone" / name, backbone).digest


@pytest.mark.slow
def test_a_run_that_ends_between_two_stores_goes_on_where_each_is(tmp_path: Path) -> None:
    HINDRANCES[:] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        list(run_inline(*hindered(tmp_path, ROOMS)))
    found = together(tmp_path, BACKBONES)
    assert found["random"].units_this_run == found["rgb"].units_this_run + 1
    for name, backbone in BACKBONES.items():
        assert found[name].digest == alone(tmp_path / "alone" / name, backbone).digest


def test_stores_that_would_read_other_views_are_refused(tmp_path: Path) -> None:
    plans = [
        StorePlan(out=str(tmp_path / name), config=replace(config(RgbConfig(**SIZE)), num_views=n))
        for name, n in (("a", 2), ("b", 3))
    ]
    with pytest.raises(UsageError, match=r"must read alike, but num_views is \['2', '3'\]"):
        extract_together(ROOMS, plans, numerics=Numerics(), run=run_inline)
    assert not list(tmp_path.iterdir())


def test_encoders_of_one_pass_share_the_gpu_when_a_batch_size_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []

    def searched(numerics: Numerics, _model: object, share: float) -> Numerics:
        shares.append(share)
        return replace(numerics, batch_size=2)

    monkeypatch.setattr(extracting, "with_batch_size", searched)
    two = {name: RgbConfig(**SIZE) for name in ("a", "b")}
    numerics = Numerics(threads=1, batch_size=0)
    together(tmp_path, two, numerics=numerics, gpu_share=0.5)
    assert shares == [0.25, 0.25]


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_the_stores_are_the_same(tmp_path: Path) -> None:
    from functools import partial

    from vega3d.cluster.ray_runner import run_ray

    run = partial(run_ray, config=RunConfig(runner="ray", workers=1, cpus_per_worker=0.5))
    found = together(tmp_path / "ray", BACKBONES, run=run)
    here = together(tmp_path / "here", BACKBONES)
    assert {n: s.digest for n, s in found.items()} == {n: s.digest for n, s in here.items()}
    store = open_store(str(tmp_path / "ray" / "rgb"))
    assert len(store.scene_ids) == 3
