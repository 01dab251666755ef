"""A run that is watched: the live table, its figures, and logs that programs read."""

import json
import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import run_program
from synthetic_unit import make_worker

from vega3d.pipeline import figures, runlog
from vega3d.pipeline.extract import Summary
from vega3d.pipeline.figures import RunFigures
from vega3d.pipeline.results import UnitResult
from vega3d.pipeline.runlog import RunLog
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.verify import status, verify
from vega3d.pipeline.store.writer import uncommitted
from vega3d.pipeline.watching import Watch, live

TEXT = "from vega3d.pipeline.cli import main; main()"
BAD = "hall/001 \u00fc"


def result(unit: int, compute_s: float, **more: object) -> UnitResult:
    return UnitResult(
        unit=unit, scenes=2, views=6, dropped_views=0, stored_bytes=1, scene_ids=[f"s{unit}"],
        seconds={"decode": 1.0, "compute": compute_s, "store": 1.0},
        **{"failures": {}, **more},
    )  # fmt: skip


def test_figures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers and ten seconds: 12 s of computing in 20 is an efficiency of 0.6."""
    now = 100.0
    monkeypatch.setattr(figures.time, "monotonic", lambda: now)
    run = RunFigures(workers=2)
    now = 103.2
    run.add(result(0, 4.0, failures={"a": "torn", "b": "torn"}))
    now = 109.9
    run.add(result(1, 8.0, failures={"c": "gone"}))
    now = 110.0
    told = run.told()
    assert [one["views"] for one in told["throughput"]] == [0, 0, 0, 6, 0, 0, 0, 0, 0, 6]
    assert [one["until_s"] for one in told["throughput"]][-1] == 10
    assert told["stage_shares"] == {"decode": 2 / 16, "compute": 12 / 16, "store": 2 / 16}
    assert told["failures_by_reason"] == {"torn": 2, "gone": 1}
    assert told["slowest_units"][0] == {"unit": 1, "scenes": ["s1"], "seconds": 10.0}
    assert told["efficiency"] == pytest.approx(0.6)
    assert told["waste"] == {"units": 0, "seconds": 0.0, "left_to_others": 0}


def test_nothing_was_done() -> None:
    told = RunFigures(workers=1).told()
    assert (told["efficiency"], told["stage_shares"], told["slowest_units"]) == (None, {}, [])
    assert "figures" in Summary.__dataclass_fields__


def half_done(url: str) -> None:
    plan, worker = make_worker(url, 6, fail_on=(BAD,))
    list(run_inline(worker, plan.units[:2]))


def finish(url: str) -> None:
    plan, worker = make_worker(url, 6)
    list(run_inline(worker, uncommitted(worker.store, plan)))
    merge_commits(worker.store)


def test_rate_and_time_left_come_from_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, watch = str(tmp_path / "s"), Watch()
    half_done(url)
    found = status(url)
    watch.looks.extend([(0.0, 2, 5), (4.0, 4, 7)])
    rows = dict(watch.rows(found))
    assert rows["scenes"] == "4 of 6 (66.7 %)"
    assert rows["rate"] == "1800 scenes an hour, 0.50 views/s"
    assert rows["time left"] == "0:00:04"
    assert rows["failed"] == "1: the JPEG is truncated"
    assert live(url) == {"runs": [], "slowest_units": []}
    assert "run" not in rows


def told_live(url: str, units: int) -> dict:
    """Return what a store tells as soon as a run says that it has done so many units."""
    end = time.monotonic() + 20
    while [one["units_done"] for one in live(url)["runs"]] != [units]:
        assert time.monotonic() < end
        time.sleep(0.005)
    return {**status(url), **live(url)}


def test_a_run_says_how_it_goes_while_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers, units, what was done twice and the slowest scenes; gone when the run has ended."""
    monkeypatch.setattr(runlog, "_LIVE_EVERY_S", 0.01)
    url, watch = str(tmp_path / "s"), Watch()
    log = RunLog(url, {"run": {"workers": 3}}, "")
    with log.shown():
        time.sleep(0.03)  # there is no store to say anything in
        half_done(url)
        found = told_live(url, units=0)
        watch.look(found)  # the first unit may take an hour
        assert ("run", "3 workers asked for, 0 units done in 0:00:00 (0 s ago)") in watch.rows(
            found
        )
        for unit, worker in enumerate(("10.0.0.1:7", "10.0.0.2:8", "10.0.0.2:8")):
            log.unit(result(unit, float(unit), worker=worker, wasted_s=float(unit)))
        found = told_live(url, units=3)
        assert not verify(url).damaged
    rows = watch.rows(found)
    assert (
        "run",
        "2 of 3 workers at work, 3 units done in 0:00:00, 3 s done twice (0 s ago)",
    ) in rows
    found["runs"][0]["last_unit_s"] = 3600.0
    assert any("the last 1:00:00 ago" in told for _, told in watch.rows(found))
    assert [told for name, told in rows if name == "slow"] == [
        "4.0 s: s2",
        "3.0 s: s1",
        "2.0 s: s0",
    ]
    assert live(url)["runs"] == []
    log.close(None)
    (kept,) = (tmp_path / "s" / "unit" / "runs").iterdir()
    events = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [one["event"] for one in events] == ["start", "unit", "unit", "unit", "end"]
    assert events[2]["worker"] == "10.0.0.2:8"


@pytest.mark.slow
def test_the_live_table_ends_when_the_store_is_complete(tmp_path: Path) -> None:
    """In a terminal of its own, as a person sees it; a name that is markup stays text."""
    url = str(tmp_path / "[red]s")
    half_done(url)
    end, terminal = pty.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-c", TEXT, "status", url, "--watch", "--every-s", "0.2"],
        stderr=terminal, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    os.close(terminal)
    shown: list[bytes] = []

    def read() -> None:
        try:
            while piece := os.read(end, 4096):
                shown.append(piece)
        except OSError:
            return  # the terminal's other end is closed

    reading = threading.Thread(target=read)
    reading.start()
    limit = time.monotonic() + 30
    while b"time left" not in b"".join(shown) and time.monotonic() < limit:
        time.sleep(0.05)
    finish(url)
    told, _ = watching.communicate(timeout=30)
    reading.join(10)
    text = b"".join(shown).decode()
    assert watching.returncode == 0
    assert json.loads(told.splitlines()[-1])["complete"]
    assert "4 of 6 (66.7 %)" in text
    assert "6 of 6 (100.0 %)" in text
    assert "1: the JPEG is truncated" in text
    assert "[red]s" in text.replace("\n", "")


@pytest.mark.slow
def test_a_store_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    url = str(tmp_path / "s")
    watching = subprocess.Popen(
        [sys.executable, "-c", TEXT, "status", url, "--watch", "--every-s", "0.1"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watching.stderr is not None
    assert "there is no vega3d store here" in (said := watching.stderr.readline())
    assert "waiting for it" in said
    half_done(url)
    finish(url)
    told, more = watching.communicate(timeout=60)
    assert watching.returncode == 0, more
    assert "waiting" not in more, "said once"
    assert json.loads(told.splitlines()[-1])["complete"]


@pytest.mark.slow
def test_logs_as_json_name_unit_and_scene(tmp_path: Path) -> None:
    done = run_program(
        "vega3d-extract", "--log-format", "json", "run", "rooms:1?views=2&height=48&width=64",
        "--out", tmp_path / "s", "--backbone", "rgb", "--device", "cpu", "--threads", "1",
        "--resolution", "64x48", "--views", "1", "--sampling", "uniform",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert any("1 of 1 scenes" in line["message"] for line in lines)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert sum(one["views"] for one in summary["figures"]["throughput"]) == 1
    assert 0 < summary["figures"]["efficiency"] <= 1
