"""Two jobs retry one store with other bits, on a slow disk; one of them sleeps, or is killed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray
from synthetic_unit import TAPS, make_worker

from vega3d.pipeline import open_store
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.verify import verify

SCRIPT = Path(__file__).with_name("retrying_run.py")
BAD = ("hall/000 \u00fc", "hall/002 \u00fc")


def start(url: str, shift: float) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, str(SCRIPT), url, str(shift), "0.02"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_committed_shard_is_damaged_and_no_good_scene_lost(tmp_path: Path, seed: int) -> None:
    url = str(tmp_path / "store")
    plan, worker = make_worker(url, 4, fail_on=BAD)
    list(run_inline(worker, plan.units))
    merge_commits(worker.store)
    kept = open_store(url).features("hall/001 \u00fc", TAPS[0]).tobytes()
    chance = random.Random(seed)
    jobs = [start(url, shift) for shift in (1.0, 2.0)]
    sleeper = jobs[seed % 2]
    commits = Path(url, "unit/commits")
    while sleeper.poll() is None:
        time.sleep(chance.uniform(0.01, 0.05))
        if len(list(Path(url).rglob("0*.*"))) > 4 + chance.randrange(6):
            break
    if sleeper.poll() is None:
        sleeper.send_signal(signal.SIGSTOP)  # wakes when the other has long been done
    other = jobs[1 - seed % 2]
    assert other.wait(60) == 0
    if seed == 2:
        sleeper.kill()
    sleeper.send_signal(signal.SIGCONT)
    sleeper.wait(60)
    merge_commits(worker.store)
    found = verify(url)
    assert found.faults == {}, list(commits.iterdir())
    store = open_store(url)
    assert not store.failures
    assert store.features("hall/001 \u00fc", TAPS[0]).tobytes() == kept
    plain = xarray.open_zarr(url)[TAPS[0]].values
    for scene_id in store.scene_ids:
        ours = store.features(scene_id, TAPS[0])
        np.testing.assert_array_equal(plain[store.row(scene_id), : len(ours)], ours)
