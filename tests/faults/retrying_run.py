"""A retry in a process of its own: `retrying_run.py STORE SHIFT DELAY_S`.

It computes the failed scenes, their numbers moved by SHIFT, and waits DELAY_S before each object
that it writes, as on a slow disk.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from synthetic_unit import TAPS, SyntheticWorker, make_worker

from vega3d.pipeline.results import ComputedUnit
from vega3d.pipeline.store.folder import FolderObjects
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.store.writer import to_supersede, uncommitted


class Shifted(SyntheticWorker):
    """Computes other bits than other machines do."""

    shift = 0.0

    def compute(self, unit: Unit, *rest: object, **named: object) -> ComputedUnit:
        computed = super().compute(unit, *rest, **named)
        for scene in computed.scenes:
            for tap in TAPS:
                scene.features[tap] += self.shift
        return computed


def slowly(delay_s: float) -> None:
    create = FolderObjects.create

    def wait(objects: FolderObjects, key: str, parts: list[bytes]) -> bool:
        time.sleep(delay_s)
        return create(objects, key, parts)

    FolderObjects.create = wait


if __name__ == "__main__":
    url, shift, delay_s = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    plan, worker = make_worker(url, 4)
    shifted = Shifted(worker.store, worker.num_views)
    shifted.shift = shift
    units = [*uncommitted(worker.store, plan), *to_supersede(worker.store, plan)]
    slowly(delay_s)
    for unit in units:
        shifted(unit)
    merge_commits(worker.store)
