"""A model is kept fed: what goes on beside it, in which order, and what views cost."""

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from vega3d.pipeline import features, read_scenes
from vega3d.pipeline.backbones.backbone import Pooled
from vega3d.pipeline.backbones.controls import RandomConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.config import ExtractConfig, RunConfig
from vega3d.pipeline.errors import SceneError, TransientError
from vega3d.pipeline.extract import open_for
from vega3d.pipeline.features import DecodedScene
from vega3d.pipeline.feeding import Waiting, extract_with, fed_config, feed, write_captures
from vega3d.pipeline.reading_ahead import ReadScene, UnitReading
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.crew import in_order
from vega3d.pipeline.scenes.rooms.film import Film
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, View
from vega3d.pipeline.store.scene_arrays import SceneArrays
from vega3d.pipeline.taking import Part
from vega3d.pipeline.worker import UnitWriter

PATIENCE_S = 60.0


@dataclass
class Watched:
    """A source that says when a scene is begun, and hides that its views may be read at once."""

    captures: str
    begun: dict[str, threading.Event] = field(default_factory=dict)

    def entries(self) -> Sequence[SceneEntry]:
        found = read_scenes(self.captures).entries()
        self.begun = {entry.scene_id: threading.Event() for entry in found}
        return found

    def read(self, scene_id: str) -> Scene:
        self.begun[scene_id].set()
        scene = read_scenes(self.captures).read(scene_id)
        return replace(scene, views=tuple(replace(v, is_independent=False) for v in scene.views))


@dataclass
class Eager(Waiting):
    """Computes a scene only once the next one is being read."""

    source: Watched | None = None
    waited: list[bool] = field(default_factory=list)

    def begin_pooled(
        self, rgb: np.ndarray, grid: tuple[int, int], *, scene_id: str, view_ids: Sequence[str]
    ) -> Callable[[], Pooled]:
        names = list(self.source.begun)
        following = names[names.index(scene_id) + 1 :][:1]
        self.waited += [self.source.begun[name].wait(PATIENCE_S) for name in following]
        values = np.zeros((len(rgb), *grid, self.channels), dtype=np.float32)
        return lambda: ({self.taps[0]: values}, np.ones(grid, dtype=np.float32))


def writer_of(source: object, out: Path) -> tuple[UnitWriter, object]:
    config = ExtractConfig(backbone=RandomConfig(), num_views=2, scenes_per_shard=1)
    plan, model, store = open_for(source, str(out), config, Numerics(threads=1), "")
    return UnitWriter(source, model, store), plan


def test_the_next_units_scene_is_read_while_this_one_is_computed(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures", 2, (48, 64))
    source = Watched(str(tmp_path / "captures"))
    writer, plan = writer_of(source, tmp_path / "store")
    stage = Eager(0.0, taps=("noise",), channels=writer.model.facts.channels, source=source)
    stage.taps = tuple(writer.model.facts.taps)
    writer.encoder = stage
    source.begun = {name: threading.Event() for name in source.begun}
    results = list(run_inline(writer, plan.units))
    assert [result.failures for result in results] == [{}, {}]
    assert stage.waited == [True]


def test_views_read_at_once_give_the_same_store(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures", 5, (48, 64))
    digests = set()
    for source in (Watched(str(tmp_path / "captures")), read_scenes(str(tmp_path / "captures"))):
        writer, plan = writer_of(source, tmp_path / type(source).__name__)
        list(run_inline(writer, plan.units))
        digests.add(writer.store.committed(plan.units[0]).scenes[0].content_sha256)
    assert len(digests) == 1


def test_a_fed_run_says_what_views_cost(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures", 2, (48, 64))
    fed = feed(tmp_path / "captures", tmp_path / "store", fed_config(2), 0.01)
    assert fed.views == 4
    assert fed.cpu_s_per_view > 0
    assert 0.04 / fed.wall_s <= fed.efficiency < 1


@pytest.mark.parametrize("threads", [1, 3])
def test_work_of_several_threads_comes_in_order_and_ends_with_an_error(threads: int) -> None:
    done: list[int] = []

    def square(number: int) -> int:
        if number == 6:
            raise ValueError("six")
        done.append(number)
        return number * number

    taken = in_order(square, range(100), threads)
    assert [next(taken) for _ in range(6)] == [0, 1, 4, 9, 16, 25]
    with pytest.raises(ValueError, match="six"):
        next(taken)
    assert max(done) <= 6 + threads + 1  # and nothing after it but what was begun


class Refusing(Waiting):
    """Cannot take one of the scenes."""

    def begin_pooled(
        self, rgb: np.ndarray, grid: tuple[int, int], *, scene_id: str, view_ids: Sequence[str]
    ) -> Callable[[], Pooled]:
        if scene_id == "scene0001":
            raise SceneError(f"{scene_id}: not with me")
        return super().begin_pooled(rgb, grid, scene_id=scene_id, view_ids=view_ids)


@contextmanager
def no_collector(*kinds: type) -> Iterator[Callable[[], list[object]]]:
    """Keep circles from being collected; gives what tells the new objects of some classes."""

    def alive() -> list[object]:
        return [one for one in gc.get_objects() if type(one) in kinds]

    gc.collect()
    gc.disable()
    before = alive()  # of other tests
    known = set(map(id, before))

    def left() -> list[object]:
        end_s = time.monotonic() + 5.0  # a thread beside may be at work for what failed
        while found := [one for one in alive() if id(one) not in known]:
            if time.monotonic() > end_s:
                return found
            del found
            time.sleep(0.01)
        return []

    try:
        yield left
    finally:
        gc.enable()


def test_what_a_run_is_done_with_waits_for_no_collector(tmp_path: Path) -> None:
    """Python's collector of circles comes rarely: what it is left with adds up to gigabytes."""
    captures = write_captures(tmp_path / "captures", 2, (48, 64), 6)
    for path in (captures / "scene0003" / "color").iterdir():
        path.unlink()  # linked to other scenes'
        path.write_bytes(b"damaged")
    extract_with(Waiting(0.0), captures, tmp_path / "first", fed_config(2, 2), Numerics(threads=1))
    with no_collector(DecodedScene, Part, SceneArrays) as left:
        fed = extract_with(
            Refusing(0.0), captures, tmp_path / "store", fed_config(2, 2), Numerics(threads=1)
        )
        assert fed.views == 8
        assert left() == []


def test_a_drawn_room_goes_with_its_last_view() -> None:
    with no_collector(Film) as left:
        views = read_scenes("rooms:1?views=2&height=32&width=48").read("room0000").views
        views[1].read_rgb()
        assert len(left()) == 1
        del views
        assert left() == []


@dataclass
class Shy:
    """A scene of one view whose depth is asked for several times, and is another the next time."""

    again: Callable[[], np.ndarray]
    asked: int = 0

    def entries(self) -> list[SceneEntry]:
        return [SceneEntry(scene_id="s", num_views=1, size_bytes=9)]

    def read(self, scene_id: str) -> Scene:
        def depth_m() -> np.ndarray:
            self.asked += 1
            return np.full((8, 8), 2.0, np.float32) if self.asked == 1 else self.again()

        K = np.array([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]])
        grey = np.full((8, 8, 3), 90, np.uint8)
        view = View(
            view_id="0", read_rgb=lambda: grey, read_depth_m=depth_m, K_color=K, K_depth=K,
            world_from_camera=np.eye(4),
        )  # fmt: skip
        return Scene("s", (view,))


def _fails() -> np.ndarray:
    raise SceneError("s/view 0: depth is damaged now")


@pytest.mark.parametrize("held_bytes", [0, 8 * 8 * 3])
def test_what_is_not_held_fails_where_it_is_read_again(
    tmp_path: Path, held_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the colours are held and depth is not."""
    monkeypatch.setattr(features, "SCENE_HELD_BYTES", held_bytes)
    writer, plan = writer_of(Shy(_fails), tmp_path / "store")
    (result,) = run_inline(writer, plan.units)
    assert result.failures == {"s": "s/view 0: depth is damaged now"}


@pytest.mark.parametrize("held_bytes", [0, 8 * 8 * 3])
def test_what_is_not_held_is_waited_for_no_longer_than_the_limit(
    tmp_path: Path, held_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SCENE_HELD_BYTES", held_bytes)
    left, source = threading.Event(), Shy(lambda: np.full((8, 8), 2.0, np.float32))

    def hang() -> np.ndarray:
        if source.asked > 2:  # after it was hashed
            left.wait(PATIENCE_S)
        return np.full((8, 8), 2.0, np.float32)

    source.again = hang
    writer, plan = writer_of(source, tmp_path / "store")
    (result,) = run_inline(writer, plan.units, RunConfig(attempts=1, unit_timeout_s=0.3))
    left.set()
    assert "gave no sign of life" in result.postponed


def test_a_bug_in_what_is_worked_out_beside_names_its_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(features, "diagnose_views", broken)
    captures = write_captures(tmp_path / "captures", 2, (48, 64))
    writer, plan = writer_of(read_scenes(str(captures)), tmp_path / "store")
    with pytest.raises(ZeroDivisionError) as raised:
        list(run_inline(writer, plan.units))
    assert raised.value.__notes__ == ["while computing scene scene0000"]


def test_a_unit_that_fails_waits_for_no_collector_either(tmp_path: Path) -> None:
    captures = write_captures(tmp_path / "captures", 2, (48, 64), 3)

    class Away(Waiting):
        def begin_pooled(
            self, rgb: np.ndarray, grid: tuple[int, int], *, scene_id: str, view_ids: Sequence[str]
        ) -> Callable[[], Pooled]:
            if scene_id == "scene0002":
                raise TransientError("the mount is away")
            return super().begin_pooled(rgb, grid, scene_id=scene_id, view_ids=view_ids)

    with no_collector(DecodedScene, Part, SceneArrays) as left:
        with pytest.raises(ZeroDivisionError):  # nothing was done: a share of no views
            extract_with(
                Away(0.0), captures, tmp_path / "store", fed_config(2, 3), Numerics(threads=1)
            )
        assert left() == []


def test_a_reader_that_fails_waits_for_no_collector_either(tmp_path: Path) -> None:
    captures = read_scenes(str(write_captures(tmp_path / "captures", 2, (48, 64), 3)))

    class Gone:
        entries = captures.entries

        def read(self, scene_id: str) -> Scene:
            if scene_id == "scene0002":
                raise TransientError("the mount is away")
            return captures.read(scene_id)

    def read_all() -> None:
        reading = UnitReading(Gone(), ["scene0000", "scene0002"], ExtractConfig(num_views=2))
        for read in reading.scenes():
            read.scene.seen.wait()

    with no_collector(ReadScene, DecodedScene) as left:
        with pytest.raises(TransientError):
            read_all()
        assert left() == []


def test_waiting_for_hash_and_geometry_is_no_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diagnose = features.diagnose_views

    def slowly(*views: object, **settings: object) -> object:
        threading.Event().wait(0.3)
        return diagnose(*views, **settings)

    monkeypatch.setattr(features, "diagnose_views", slowly)
    captures = write_captures(tmp_path / "captures", 2, (48, 64))
    writer, plan = writer_of(read_scenes(str(captures)), tmp_path / "store")
    results = list(run_inline(writer, plan.units))
    assert sum(result.seconds["compute"] for result in results) < 0.3
    assert sum(result.seconds["decode"] for result in results) > 0.3
