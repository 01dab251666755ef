"""File systems without hard links: a name is given once, whoever asks, and kills lose nothing."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vega3d.pipeline import open_store
from vega3d.pipeline.store.verify import verify

SUPPORT = Path(__file__).parents[2] / "support"
WAYS = {
    "links": [],
    "renameat2": ["--no-links"],
    "claims": ["--no-links", "--no-renameat2"],
}
NAMES, WRITERS = 30, 4
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("way", WAYS)
def test_of_many_writers_one_gets_the_name_and_its_bytes_stay(on_disk: Path, way: str) -> None:
    script = str(Path(__file__).with_name("racing_writer.py"))
    writers = [
        subprocess.Popen(
            [sys.executable, script, str(on_disk), str(me), str(NAMES), *WAYS[way]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for me in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    won = {me: writer.communicate(timeout=60)[0].split() for me, writer in enumerate(writers)}
    assert sorted(name for names in won.values() for name in names) == sorted(
        f"a/{i}" for i in range(NAMES)
    )
    assert sum(bool(names) for names in won.values()) > 1  # it was a race
    for me, names in won.items():
        for name in names:
            assert (on_disk / name).read_bytes() == str(me).encode() * 1000
    assert not list(on_disk.rglob("*.partial"))


def start(url: Path, delay_s: float, *options: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(SUPPORT / "interrupted_run.py"), str(url), "6", str(delay_s)]
    return subprocess.Popen([*command, *options])


@pytest.mark.parametrize("way", ["renameat2", "claims"])
def test_killed_at_random_moments_the_store_ends_with_the_same_digest(
    tmp_path: Path, way: str
) -> None:
    assert start(tmp_path / "whole", 0.0).wait(60) == 0
    chance = random.Random(way)
    for _ in range(3):
        before = len(list((tmp_path / "s").rglob("*")))
        process = start(tmp_path / "s", 0.2, *WAYS[way])
        while process.poll() is None and len(list((tmp_path / "s").rglob("*"))) == before:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.wait(10)
    assert start(tmp_path / "s", 0.0, *WAYS[way]).wait(60) == 0
    whole = open_store(str(tmp_path / "whole"))
    assert open_store(str(tmp_path / "s")).digest() == whole.digest()
    assert not verify(str(tmp_path / "s")).damaged


@pytest.mark.parametrize("key", ["k300_b1/c.1.0.0.0.0", "unit/commits/000001.0.json"])
def test_a_writer_that_dies_while_it_claims_a_name_is_found_and_mended(
    tmp_path: Path, key: str
) -> None:
    url = str(tmp_path / "s")
    ways = WAYS["claims"]
    assert start(tmp_path / "s", 0.0, *ways, f"--die-claiming={key}").wait(60) == 9
    assert (tmp_path / "s" / key).read_bytes() == b""
    assert key in verify(url).faults
    verify(url, repair=True)
    assert start(tmp_path / "s", 0.0, *ways).wait(60) == 0
    assert not verify(url).damaged
    assert start(tmp_path / "whole", 0.0).wait(60) == 0
    assert open_store(url).digest() == open_store(str(tmp_path / "whole")).digest()
