"""A compute stage without a model: features that follow from the scene's id alone.

It stores through the real writer, so that kills, resumes and runners can be tested in seconds.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.errors import StoreError, TransientError
from vega3d.pipeline.plan import plan_units
from vega3d.pipeline.results import ComputedUnit, UnitResult, unit_result
from vega3d.pipeline.scenes.scene import SceneEntry
from vega3d.pipeline.store.creating import create_or_resume
from vega3d.pipeline.store.identity import FORMAT_VERSION
from vega3d.pipeline.store.record import Record
from vega3d.pipeline.store.scene_arrays import SceneArrays, SceneFailure
from vega3d.pipeline.store.units import Plan, Unit
from vega3d.pipeline.store.writer import StoreWriter

GRID = (3, 4)
CHANNELS = 6
TAPS = ("k300_b1", "k300_b2")


def identity(**config: object) -> dict[str, object]:
    return {
        "format": FORMAT_VERSION,
        "config": {"model": "m", "grid": list(GRID), "store_dtype": "float16", **config},
        "taps": list(TAPS),
        "channels": CHANNELS,
    }


def entries(count: int, views: int = 3) -> list[SceneEntry]:
    return [
        SceneEntry(scene_id=f"hall/{i:03d} \u00fc", num_views=1 + i % views, size_bytes=10)
        for i in range(count)
    ]


def make_plan(count: int, scenes_per_shard: int = 2) -> Plan:
    return plan_units(entries(count), num_views=0, scenes_per_shard=scenes_per_shard)


def make_store(url: str, plan: Plan, **config: object) -> StoreWriter:
    return create_or_resume(url, plan, identity(**config), asdict(Numerics()))


def scene_arrays(scene_id: str, num_views: int) -> SceneArrays:
    seed = int.from_bytes(hashlib.sha256(scene_id.encode()).digest()[:8], "little")
    rng = np.random.default_rng(seed)
    shape = (num_views, *GRID)
    poses = np.tile(np.eye(4), (num_views, 1, 1))
    poses[:, :3, 3] = rng.normal(size=(num_views, 3))
    return SceneArrays(
        scene_id=scene_id,
        view_ids=tuple(map(str, range(num_views))),
        features={tap: rng.normal(size=(*shape, CHANNELS)).astype(np.float32) for tap in TAPS},
        world_xyz=rng.normal(size=(*shape, 3)).astype(np.float32),
        preview=rng.integers(0, 256, (num_views, 8 * GRID[0], 8 * GRID[1], 3), dtype=np.uint8),
        world_from_camera=poses,
        image_size=np.tile([30, 40], (num_views, 1)),
        content_sha256=hashlib.sha256(scene_id.encode()).hexdigest(),
    )


@dataclass
class SyntheticWorker:
    """Looks like `UnitWriter` to a runner; misbehaves for chosen scenes when told to."""

    store: StoreWriter
    num_views: dict[str, int]
    delay_s: float = 0.0
    kill_on: Sequence[str] = ()
    """Scenes at which the process dies; once each where `marks` is a folder, else every time."""

    hang_on: Sequence[str] = ()
    fail_on: Sequence[str] = ()
    marks: str = ""
    bug_on: Sequence[str] = ()
    away_on: Sequence[str] = ()
    """Scenes whose source does not answer: once each where `marks` is a folder, else every time."""

    refused_on: Sequence[str] = ()
    """Scenes at which the store says no, as where one node lacks the disk."""

    where: str = ""
    """On Ray: folder in which each unit leaves the name of the node that did it."""

    slow_on: Mapping[str, float] = field(default_factory=dict)
    """On Ray: nodes, by id, on which a scene takes so many seconds more."""

    nodes: int = 0
    """Units from the eighth on are held back until so many nodes have done one."""

    source: object = None
    models: Sequence[object] = ()

    def __call__(self, unit: Unit, limit_s: float = math.inf) -> UnitResult:
        return self.commit(unit, self.compute(unit, limit_s=limit_s))

    def prepare(self) -> None:
        """Load nothing, for there is no model."""

    def compute(
        self,
        unit: Unit,
        beat: Callable[[], None] = lambda: None,
        computing: AbstractContextManager[object] = nullcontext(),  # noqa: B008 - does nothing
        limit_s: float = math.inf,
        next_unit: object = None,
    ) -> ComputedUnit:
        if found := self.store.committed(unit):
            return ComputedUnit(committed=found)
        with computing:
            beat()
            start = time.monotonic()
            computed = self._compute(unit, beat)
            computed.seconds["compute"] = time.monotonic() - start
            return computed

    def _compute(self, unit: Unit, beat: Callable[[], None]) -> ComputedUnit:
        scenes: list[SceneArrays | SceneFailure] = []
        if self.where:
            import ray

            node = ray.get_runtime_context().get_node_id()
            (Path(self.where) / f"{unit.index}-{node}").touch()
            end = time.monotonic() + 90
            while unit.index > 7 and self._nodes() < self.nodes and time.monotonic() < end:
                time.sleep(0.1)
                beat()
        delay_s = self.delay_s
        if self.slow_on:
            import ray

            delay_s += self.slow_on.get(ray.get_runtime_context().get_node_id(), 0.0)
        for scene_id in unit.todo:
            time.sleep(delay_s)
            if scene_id in self.kill_on and self._first_time("kill", scene_id):
                os.kill(os.getpid(), 9)
            if scene_id in self.hang_on and self._first_time("hang", scene_id):
                time.sleep(600)
            if scene_id in self.away_on and self._first_time("away", scene_id):
                raise TransientError(f"{scene_id}: the server is not reached")
            if scene_id in self.refused_on and self._first_time("refused", scene_id):
                raise StoreError(f"{scene_id}: cannot write: Permission denied")
            if scene_id in self.bug_on:
                raise ZeroDivisionError(f"a bug at {scene_id}")
            if scene_id in self.fail_on:
                scenes.append(SceneFailure(scene_id, "the JPEG is truncated"))
            else:
                scenes.append(scene_arrays(scene_id, self.num_views[scene_id]))
            beat()
        return ComputedUnit(scenes)

    def commit(self, unit: Unit, computed: ComputedUnit) -> UnitResult:
        if computed.committed:
            return unit_result(computed.committed, {}, ours=False)
        record, ours = self.store.put_unit(unit, computed.scenes, {"torch": "none"})
        return unit_result(record, computed.seconds, ours=ours)

    @property
    def stores(self) -> tuple[StoreWriter]:
        return (self.store,)

    def give_up(self, unit: Unit, reason: str) -> UnitResult:
        return unit_result(self.store.write_failed_unit(unit, reason), {})

    def _nodes(self) -> int:
        return len({path.name.partition("-")[2] for path in Path(self.where).iterdir()})

    def _first_time(self, what: str, scene_id: str) -> bool:
        if not self.marks:
            return True
        mark = Path(self.marks) / hashlib.sha256(f"{what}{scene_id}".encode()).hexdigest()
        if mark.exists():
            return False
        mark.touch()
        return True


class StoringNothing(SyntheticWorker):
    """To time a runner alone: units take their delay and leave no trace."""

    def commit(self, unit: Unit, _computed: ComputedUnit) -> UnitResult:
        return unit_result(Record(kind="commit", unit=unit.index, sequence=0), {})


def make_worker(
    url: str, count: int, scenes_per_shard: int = 2, **faults: object
) -> tuple[Plan, SyntheticWorker]:
    plan = make_plan(count, scenes_per_shard)
    store = make_store(url, plan)
    views = {scene.scene_id: scene.num_views for scene in plan.scenes}
    return plan, SyntheticWorker(store, views, **faults)
