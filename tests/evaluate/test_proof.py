"""A report says whether its scenes prove their own geometry, and what would mend the others."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from small_captures import run, write_captures

from vega3d.evaluate.config import ReportConfig, RunConfig
from vega3d.evaluate.report import report
from vega3d.evaluate.summary import remarks

CONFIG = ReportConfig(bootstrap_samples=20)
HERE = RunConfig(scheduler="synchronous")


@pytest.mark.slow
def test_a_report_shows_each_scenes_reprojection_and_names_the_remedy(tmp_path: Path) -> None:
    captures = write_captures(tmp_path / "captures")
    for path in (captures / "b" / "pose").iterdir():
        np.savetxt(path, np.loadtxt(path) @ np.diag([1.0, -1, -1, 1]))
    extracted = run(captures, tmp_path / "store")
    written = report([str(tmp_path / "store")], str(tmp_path / "out"), CONFIG, HERE)
    page, plain = written.html.read_text(), json.loads(written.json.read_text())
    assert plain["geometry"]["store"]["reprojection_m"] == extracted.scene_reprojection_m
    assert list(plain["geometry"]["store"]["misread"]) == ["b"]
    assert "Geometry of the scenes" in page
    worst, best = (extracted.scene_reprojection_m[name] for name in "ba")
    assert worst > 10 * best
    assert f"{best * 1000:.1f} mm" in page
    told = [line for line in remarks(written.summary) if "--poses opengl would make it" in line]
    assert len(told) == 1
    assert told[0].startswith("note: store: b: depths of neighbouring views")
    assert "--poses opengl would make it" in page
    lines = csv.DictReader(written.csv.read_text().splitlines())
    rows = {row["scene"]: row for row in lines}
    assert float(rows["a"]["reprojection_m"]) == best
    assert written.result()["reprojection_m"] == {"store": extracted.reprojection_m}


@pytest.mark.slow
def test_a_store_without_notes_is_reported_without_them(tmp_path: Path) -> None:
    captures = write_captures(tmp_path / "captures")
    run(captures, tmp_path / "store")
    for note in (tmp_path / "store" / "unit" / "notes").iterdir():
        note.write_text("{damaged")
    written = report([str(tmp_path / "store")], str(tmp_path / "out"), CONFIG, HERE)
    assert "Geometry of the scenes" not in written.html.read_text()
    plain = json.loads(written.json.read_text())["geometry"]["store"]
    assert (plain["median_m"], plain["num_unknown"]) == (None, 3)
