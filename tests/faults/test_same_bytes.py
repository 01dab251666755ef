"""Bytes depend on config and content alone: not on a place, a host, a time or an order."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import HOSTILE, write_good

from vega3d.pipeline import cli
from vega3d.pipeline.commands import run_app
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.tars import pack

COMMAND = (
    "import socket, sys; host = sys.argv.pop(1); socket.gethostname = lambda: host; "
    "from vega3d.pipeline.cli import main; main()"
)
OUTSIDE = ("unit/runs/", "unit/notes/", "unit/summary.json", "unit/config.toml")
"""Logs and notes, with time, host and place."""


def command(scenes: Path, out: str) -> list[str]:
    return ["run", str(scenes), "--out", out, "--backbone", "rgb", "--device", "cpu",
            "--resolution", "32x32", "--scenes-per-shard", "4", "--threads", "1"]  # fmt: skip


def extract_here(scenes: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    """Extract in this process."""
    with pytest.raises(SystemExit) as ended:
        run_app(cli.app, command(scenes, str(out)))
    assert ended.value.code == 3
    summary: dict = json.loads(capsys.readouterr().out.splitlines()[-1])
    return summary


def extract(scenes: Path, out: Path, host: str, **environment: str) -> dict:
    """Extract in a process of its own, from its own folder, on a host of this name."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, host, *command(scenes, out.name)],
        cwd=out.parent, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    summary: dict = json.loads(done.stdout.splitlines()[-1])
    return summary


def files(store: Path) -> dict[str, bytes]:
    names = {p.relative_to(store).as_posix(): p for p in store.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in names.items() if not name.startswith(OUTSIDE)}


def write_captures(folder: Path) -> Path:
    for number in range(3):
        write_good(folder / f"good{number}")
    for kind, spoil in HOSTILE.items():
        write_good(folder / f"bad {kind}")
        spoil(folder / f"bad {kind}")
    return folder


def write_tars(folder: Path) -> Path:
    """Pack good captures and damage one of them, in the middle of an image."""
    for number in range(3):
        write_good(folder / "captures" / f"scene{number}")
    pack(read_scenes(str(folder / "captures")), str(folder / "tars"), scenes_per_tar=1)
    tar = folder / "tars" / "scenes-00001.tar"
    raw = bytearray(tar.read_bytes())
    for at in range(1500, len(raw) - 2048, 64):
        raw[at] ^= 255
    tar.write_bytes(raw)
    return folder / "tars"


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_captures, write_tars])
def test_two_runs_elsewhere_leave_the_same_bytes_failures_included(
    tmp_path: Path, on_disk: Path, write: Callable[[Path], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    here = write(tmp_path / "data" / "scans")
    there = write(on_disk / "another place" / "x")
    one = extract_here(here, tmp_path / "out" / "s", capsys)
    two = extract(there, on_disk / "stores" / "2026" / "t", "other.host", PYTHONHASHSEED="7",
                  LANG="C", TZ="UTC")  # fmt: skip
    assert one["failures"]
    assert one["failures"] == two["failures"]
    assert one["digest"] == two["digest"]
    ours, theirs = files(tmp_path / "out" / "s"), files(on_disk / "stores" / "2026" / "t")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert (one["committed"], len(one["failures"])) in ((3, 20), (2, 1))
