"""A writer killed at any point loses nothing that was committed, and no bytes differ."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vega3d.pipeline import open_store
from vega3d.pipeline.store.verify import verify

SCRIPT = Path(__file__).parents[1] / "support" / "interrupted_run.py"
pytestmark = pytest.mark.slow


def start(url: Path, delay_s: float = 0.0, *die_at: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(SCRIPT), str(url), "6", str(delay_s), *die_at]
    return subprocess.Popen(command)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of an undisturbed run."""
    url = tmp_path_factory.mktemp("undisturbed") / "s"
    assert start(url).wait(60) == 0
    return open_store(str(url)).digest()


def test_killed_at_random_moments_the_store_ends_with_the_same_digest(
    tmp_path: Path, whole: str
) -> None:
    chance = random.Random(0)
    kills = 0
    for _ in range(6):
        before = len(list(tmp_path.rglob("*")))
        process = start(tmp_path / "s", 0.2)
        while process.poll() is None and len(list(tmp_path.rglob("*"))) == before:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.5))  # 0.4 s a unit
        process.kill()
        kills += process.wait(10) == -9
    assert start(tmp_path / "s").wait(60) == 0
    assert kills >= 2
    assert open_store(str(tmp_path / "s")).digest() == whole
    assert not verify(str(tmp_path / "s")).damaged


@pytest.mark.parametrize(
    "key",
    [
        "zarr.json",
        "geometry/zarr.json",
        "unit/rows.json",
        "k300_b1/c.1.0.0.0.0",
        "preview/c.1.0.0.0.0",
        "unit/commits/000001.0.json",
        "world_from_camera/c.0.0.0.0",
    ],
)
def test_killed_in_the_middle_of_each_kind_of_write(tmp_path: Path, whole: str, key: str) -> None:
    url = str(tmp_path / "s")
    assert start(tmp_path / "s", 0.0, key).wait(60) == 9
    assert not (tmp_path / "s" / key).exists()
    assert start(tmp_path / "s").wait(60) == 0
    assert open_store(url).digest() == whole
    found = verify(url)
    assert not found.damaged
    assert not found.uncommitted_shards
    assert found.leftovers >= 1  # other shards were being written at the same time
    verify(url, repair=True)  # a fresh one may be a living writer's
    assert verify(url).leftovers == found.leftovers
    for leftover in (tmp_path / "s").rglob("*.partial"):
        os.utime(leftover, (0, 0))
    verify(url, repair=True)
    assert verify(url).leftovers == 0
