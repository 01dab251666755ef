"""Two jobs on one store at once, one of them killed: both end well, and say what was done twice."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from processes import started_program

from vega3d.pipeline import cli, open_store, runners
from vega3d.pipeline.commands import run_app
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.results import ComputedUnit, UnitResult
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.store.verify import verify
from vega3d.pipeline.worker import UnitWriter

COMMITTED = 3
"""Units that the other job commits before it is killed."""


def command(out: Path) -> list[str]:
    return ["run", "rooms:8?views=1&height=48&width=64", "--out", str(out), "--backbone", "rgb",
            "--device", "cpu", "--threads", "1", "--resolution", "64x48"]  # fmt: skip


def killed_job(out: Path) -> None:
    """Start the same command, and kill -9 it when it has committed some units."""
    with started_program("vega3d-extract", *command(out)) as job:
        commits, end = out / "unit" / "commits", time.monotonic() + 90
        while job.process.is_alive() and time.monotonic() < end:
            if commits.is_dir() and len(list(commits.glob("*.json"))) >= COMMITTED:
                break
            time.sleep(0.002)


def run(out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict, str]:
    with pytest.raises(SystemExit) as ended:
        run_app(cli.app, command(out))
    assert ended.value.code == 0
    told = capsys.readouterr()
    return json.loads(told.out.splitlines()[-1]), told.err


@pytest.mark.slow
def test_the_survivor_says_what_was_done_twice_and_goes_on_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has computed its first unit when the other commits it: a waste, and the only one."""
    whole, _ = run(tmp_path / "whole", capsys)
    assert whole["figures"]["waste"] == {"units": 0, "seconds": 0.0, "left_to_others": 0}
    out, inline = tmp_path / "s", runners.run_inline
    computed: list[int] = []

    def beside_another(
        ours: UnitWriter, units: Sequence[Unit], config: RunConfig
    ) -> Iterator[UnitResult]:
        compute = ours.compute

        def slowly(unit: Unit, **how: float) -> ComputedUnit:
            done = compute(unit, **how)
            if not computed:
                killed_job(out)
            computed.append(unit.index)
            return done

        monkeypatch.setattr(ours, "compute", slowly, raising=False)
        return inline(ours, units, config)

    monkeypatch.setattr(runners, "run_inline", beside_another)
    survivor, told = run(out, capsys)
    waste = survivor["figures"]["waste"]
    assert waste["units"] == 1
    assert waste["seconds"] > 0
    assert waste["left_to_others"] >= COMMITTED
    assert survivor["units_this_run"] == 8 - waste["left_to_others"]
    assert "1 unit was computed twice, by another job or another try as well: " in told
    assert json.loads((out / "unit" / "summary.json").read_text()) == survivor
    assert sorted(computed) == list(range(8))  # each is looked at once, whatever the order
    monkeypatch.setattr(runners, "run_inline", inline)
    again, _ = run(out, capsys)  # the job that was killed
    assert again["units_this_run"] == 0
    assert {whole["digest"]} == {survivor["digest"], again["digest"], open_store(str(out)).digest()}
    assert not verify(str(out)).faults
