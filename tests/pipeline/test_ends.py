"""A run ends by itself: hangs are bounded, bad data is a failure, what passes is tried again."""

import errno
import itertools
import os
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import av
import numpy as np
import pytest
from synthetic_unit import TAPS, SyntheticWorker, make_worker, scene_arrays

from vega3d.pipeline import attempts, open_store, read_scenes
from vega3d.pipeline.attempts import Attempts
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.config import ExtractConfig, RunConfig
from vega3d.pipeline.errors import SceneError, TransientError
from vega3d.pipeline.reading_ahead import ReadScene, read_ahead
from vega3d.pipeline.results import ComputedUnit
from vega3d.pipeline.runlog import RunLog
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes import videos
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, View
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.metadata import ROOT
from vega3d.pipeline.store.scene_arrays import SceneFailure
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.store.writer import uncommitted
from vega3d.pipeline.worker import UnitWriter

CONFIG = ExtractConfig(num_views=0)
GREY = np.full((12, 16, 3), 90, np.uint8)


@dataclass
class Source:
    """Scenes of two views that do what they are told."""

    faults: dict[str, Callable[[], np.ndarray]]
    root: str = "/data/captures"
    names: Sequence[str] = field(default=("0", "1"))

    def entries(self) -> Sequence[SceneEntry]:
        return [SceneEntry(scene_id=s, num_views=2, size_bytes=1) for s in self.faults]

    def read(self, scene_id: str) -> Scene:
        read = self.faults[scene_id]
        return Scene(scene_id, tuple(View(view_id=name, read_rgb=read) for name in self.names))


def raising(error: Exception) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        raise error

    return read


def read_all(source: Source, **limits: object) -> dict[str, ReadScene]:
    found = read_ahead(source, list(source.faults), CONFIG, **limits)
    return dict(zip(source.faults, found, strict=True))


@pytest.mark.parametrize(
    "error",
    [
        OverflowError("int too large to convert to float"),
        ZeroDivisionError("division by zero"),
        KeyError("views"),
        IndexError("list index out of range"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        RecursionError("maximum recursion depth exceeded"),
        EOFError("no more"),
        OSError(errno.EFBIG, "File too large", "/data/captures/x/0.jpg"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_data_causes_is_that_scenes_failure_and_no_other_scenes(error: Exception) -> None:
    found = read_all(Source({"bad": raising(error), "good": lambda: GREY}))
    assert isinstance(found["bad"].scene, SceneFailure)
    assert type(error).__name__ in found["bad"].scene.reason
    assert not isinstance(found["good"].scene, SceneFailure)


@pytest.mark.parametrize("bug", [TypeError("x"), AttributeError("x"), AssertionError("x")])
def test_a_bug_stops_the_run_and_names_the_scene(bug: Exception) -> None:
    with pytest.raises(type(bug)) as caught:
        read_all(Source({"bad": raising(bug)}))
    assert caught.value.__notes__ == ["while reading scene bad"]


def test_reasons_are_the_same_wherever_and_whenever() -> None:
    reasons = set()
    for root in ("/data/captures", "/mnt/b"):
        told = f"bad/view 0: {root}/bad/0.jpg: no image in {object()!r} after {time.time():.3f} s"
        found = read_all(Source({"bad": raising(SceneError(told))}, root=root))["bad"].scene
        assert isinstance(found, SceneFailure)
        reasons.add(found.reason)
    (reason,) = reasons
    assert "bad/0.jpg" in reason
    assert "0x" not in reason


def test_reasons_hold_no_numbers_of_a_system(tmp_path: Path) -> None:
    told = OSError(errno.EINVAL, "is a FIFO, and must be a plain file", "/data/captures/bad/0.jpg")
    found = read_all(Source({"bad": raising(told)}))["bad"]
    assert isinstance(found.scene, SceneFailure)
    assert "is a FIFO, and must be a plain file" in found.scene.reason
    assert "Errno" not in found.scene.reason
    assert "/data/captures/bad/0.jpg" in found.detail  # for the run's log
    assert str(SceneError("x: [Errno -5] gone (1)")) == "x: gone (1)"


def test_every_failure_has_details_for_the_runs_log(tmp_path: Path) -> None:
    """One that was read, one whose numbers do not fit, and one that no worker could finish."""
    plan, worker = make_worker(str(tmp_path / "s"), 2)
    store = replace(worker.store, numerics=asdict(Numerics()))
    (unit,) = plan.units
    read, infinite = unit.scene_ids
    arrays = scene_arrays(infinite, worker.num_views[infinite])
    arrays.features[TAPS[0]][0, 0, 0, 0] = np.inf
    computed = ComputedUnit([SceneFailure(read, "r"), arrays], {}, {read: "r < EOFError: e"})
    result = UnitWriter(Source({}), None, store).commit(unit, computed)
    assert result.details[read] == "r < EOFError: e"
    assert "is not finite" in result.failures[infinite]
    assert result.details[infinite] == result.failures[infinite]


def test_a_view_whose_name_is_no_unicode_is_left_out() -> None:
    names = ("caf\udce9", "1")
    found = read_all(Source({"s": lambda: GREY}, names=names))["s"].scene
    told = found.reason if isinstance(found, SceneFailure) else "\n".join(found.seen.report.lines())
    assert "caf\\udce9" in told


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_disk_that_does_not_answer_is_nobodys_failure(code: int) -> None:
    sick = OSError(code, os.strerror(code), "/data/captures/s/0.jpg")
    wrapped = SceneError("s/view 0: cannot be read")
    wrapped.__cause__ = sick
    for error in (sick, wrapped):
        with pytest.raises(TransientError, match=os.strerror(code)):
            read_all(Source({"s": raising(error)}))


@dataclass
class OneBad(Source):
    """Three views, of which one has a reader that fails, as a reader of somebody else's may."""

    reader: str = ""

    def read(self, scene_id: str) -> Scene:
        views = [View(view_id=name, read_rgb=lambda k=k: GREY + k) for k, name in enumerate("abc")]
        views[2] = replace(views[2], **{self.reader: self.faults[scene_id]})
        return Scene(scene_id, tuple(views))


@pytest.mark.parametrize("reader", ["read_rgb", "read_depth_m", "read_turns"])
def test_each_reader_of_a_view_may_fail_and_costs_that_view(reader: str) -> None:
    source = OneBad({"room": raising(ValueError("not a number"))}, reader=reader)
    found = read_all(source)["room"].scene
    assert not isinstance(found, SceneFailure)
    assert [view.view.view_id for view in found.decoded] == ["a", "b"]
    source = OneBad({"room": raising(OSError(errno.EIO, "gone"))}, reader=reader)
    with pytest.raises(TransientError, match="room/view c"):
        read_all(source)


def test_a_scene_that_hangs_while_it_is_read_is_given_up_in_time() -> None:
    held = threading.Event()

    def hang() -> np.ndarray:
        held.wait(30)
        return GREY

    start = time.monotonic()
    with pytest.raises(TransientError, match="hangs: reading it gave no sign of life for 0 s"):
        read_all(Source({"hangs": hang}), limit_s=0.3)
    assert time.monotonic() - start < 5
    held.set()


@pytest.mark.slow
def test_beats_come_from_the_first_byte_on_and_a_slow_scene_is_no_hang() -> None:
    beats: list[float] = []

    def slow() -> np.ndarray:
        time.sleep(0.25)
        return GREY

    source = Source({"a": slow, "b": slow, "c": slow})
    start = time.monotonic()
    found = read_all(source, limit_s=0.6, beat=lambda: beats.append(time.monotonic()))
    assert len(found) == 3
    assert beats[0] - start < 0.2
    assert all(later - one < 0.5 for one, later in itertools.pairwise(beats))


class Sick(SyntheticWorker):
    """Some units do not answer, so many times."""

    def __init__(self, worker: SyntheticWorker, times: dict[int, int]) -> None:
        super().__init__(worker.store, worker.num_views)
        self.times, self.order = dict(times), []

    def compute(self, unit: Unit, **settings: object) -> ComputedUnit:
        self.order.append(unit.index)
        if self.times.get(unit.index, 0) > 0:
            self.times[unit.index] -= 1
            raise TransientError(f"http://u:p@h/{unit.index}.tar: does not answer")
        return super().compute(unit, **settings)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE_S", 0.001)


class Slow(SyntheticWorker):
    """Stores as slowly as it computes."""

    def commit(self, unit: Unit, computed: ComputedUnit) -> object:
        time.sleep(self.delay_s)
        return super().commit(unit, computed)


@pytest.mark.slow
def test_a_unit_is_stored_while_the_next_one_is_computed(tmp_path: Path) -> None:
    plan, worker = make_worker(str(tmp_path / "s"), 12)
    slow = Slow(worker.store, worker.num_views, delay_s=0.1)
    start = time.monotonic()
    results = list(run_inline(slow, plan.units))
    wall_s, num_scenes = time.monotonic() - start, sum(result.scenes for result in results)
    assert [result.unit for result in results] == list(range(len(plan.units)))
    in_turn_s = 0.1 * (num_scenes + len(plan.units))
    assert wall_s < in_turn_s - 0.05 * len(plan.units)


def test_a_unit_that_recovers_is_tried_again_after_the_others(tmp_path: Path) -> None:
    plan, worker = make_worker(str(tmp_path / "s"), 6)
    sick = Sick(worker, {0: 2})
    results = list(run_inline(sick, plan.units, RunConfig(attempts=3)))
    assert sick.order == [0, 1, 2, 0, 0]
    assert not any(result.postponed for result in results)
    merge_commits(worker.store)
    _, whole = make_worker(str(tmp_path / "whole"), 6)
    list(run_inline(whole, plan.units))
    merge_commits(whole.store)
    urls = [worker.store.url, whole.store.url]
    assert len({open_store(url).digest() for url in urls}) == 1


def test_a_unit_that_does_not_recover_is_left_to_the_next_run(tmp_path: Path) -> None:
    plan, worker = make_worker(str(tmp_path / "s"), 6)
    results = list(run_inline(Sick(worker, {1: 99}), plan.units, RunConfig(attempts=3)))
    (left,) = [result for result in results if result.postponed]
    assert left.postponed == "http://h/1.tar: does not answer; tried 3 times"
    assert left.left == plan.units[1].scene_ids
    store = open_store(str(tmp_path / "s"))
    assert store.failures == {}
    assert store.pending == plan.units[1].scene_ids
    again = list(run_inline(worker, uncommitted(worker.store, plan)))
    assert [result.unit for result in again] == [1]


def test_where_nothing_succeeds_for_long_the_rest_is_not_tried(tmp_path: Path) -> None:
    plan, worker = make_worker(str(tmp_path / "s"), 12)
    sick = Sick(worker, dict.fromkeys(range(6), 99))
    config = RunConfig(attempts=1000, unit_timeout_s=0.2)
    results = list(run_inline(sick, plan.units, config))
    assert sorted(result.unit for result in results) == list(range(6))
    assert all("does not answer" in result.postponed for result in results)


def test_attempts_count_and_pauses_end_with_a_success() -> None:
    unit = Unit(0, 0, ("a",))
    counted = Attempts(2, 100.0)
    assert counted.pause_s() == 0
    assert counted.failed(unit, "away")
    assert counted.pause_s() > 0
    assert not counted.failed(unit, "away")
    counted.succeeded()
    assert counted.pause_s() == 0


def write_avi(path: Path, size: int = 32) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width = stream.height = size
        stream.pix_fmt = "yuvj420p"
        for shade in range(5):
            image = np.full((size, size, 3), 40 * shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def test_an_avi_that_claims_two_billion_frames_has_those_that_it_has(tmp_path: Path) -> None:
    data = bytearray(write_avi(tmp_path / "v.avi"))
    main, stream = data.index(b"avih"), data.index(b"strh")
    data[main + 24 : main + 28] = data[stream + 40 : stream + 44] = struct.pack("<I", 2 * 10**9)
    (tmp_path / "v.avi").write_bytes(data)
    source = read_scenes(str(tmp_path))
    (entry,) = source.entries()
    assert entry.num_views == 5
    assert len(source.read("v").views) == 5


def test_a_video_whose_frames_are_larger_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its header says: the limit holds for what is decoded."""
    data = bytearray(write_avi(tmp_path / "v.avi", 64))
    at = data.index(b"strf") + 8
    data[at + 4 : at + 12] = struct.pack("<II", 8, 8)
    (tmp_path / "v.avi").write_bytes(data)
    monkeypatch.setattr(videos, "MAX_PIXELS", 32 * 32)
    with pytest.raises(SceneError, match="over the limit|damaged|ends after"):
        read_scenes(str(tmp_path)).read("v").views[0].read_rgb()


def test_the_runs_log_holds_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://me:p4ss@host/x.tar?sig=abc"
    monkeypatch.setattr("sys.argv", ["vega3d-extract", "run", url])
    (tmp_path / ROOT).write_text("{}")
    RunLog(str(tmp_path), {"scenes": url, "run": {"list": [url]}}, url).close(None)
    text = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "p4ss" not in text
    assert "sig=" not in text
    assert text.count("http://host/x.tar") == 4
