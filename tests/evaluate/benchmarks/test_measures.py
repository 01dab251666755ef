"""Intervals and paired tests over scenes, and the command with its page."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from record_files import Write

from vega3d.evaluate.benchmarks.measures import Query, Score, compare, intervals, mean_measures


def made(values: np.ndarray, scenes: list[str]) -> Score:
    queries = tuple(
        Query(query_id=str(i), scene_id=scene, kind="all") for i, scene in enumerate(scenes)
    )
    measures = mean_measures("em", values, ["k"] * len(values))
    return Score(benchmark="b", protocol="p", queries=queries, measures=measures)


def test_an_interval_resamples_whole_scenes() -> None:
    """All of a scene right or wrong: 200 queries in 20 scenes are worth 20, not 200."""
    rng = np.random.default_rng(0)
    right = np.repeat(rng.integers(0, 2, 20), 10).astype(float)
    clustered = made(right, [f"s{i // 10}" for i in range(200)])
    single = made(right, [f"s{i}" for i in range(200)])
    low, high = intervals(clustered)["em overall"]
    low_single, high_single = intervals(single)["em overall"]
    ratio = (high - low) / (high_single - low_single)
    assert ratio == pytest.approx(np.sqrt(10), rel=0.15)
    assert low < 100 * right.mean() < high


def test_one_scene_has_no_interval() -> None:
    assert np.isnan(intervals(made(np.ones(5), ["s"] * 5))["em overall"]).all()


def test_a_paired_test_sees_what_intervals_apart_do_not() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(size=400)
    scenes = [f"s{i // 4}" for i in range(400)]
    weak, strong = made((hard > 0.1) * 1.0, scenes), made((hard > 0.0) * 1.0, scenes)
    found = compare(strong, weak)["em overall"]
    assert found.difference > 0
    assert found.low > 0
    assert found.p_value < 0.001
    same = compare(strong, strong)["em overall"]
    assert (same.difference, same.p_value) == (0, 1)


def test_only_the_same_queries_are_compared() -> None:
    with pytest.raises(ValueError, match="only predictions for the same queries"):
        compare(made(np.ones(2), ["a", "b"]), made(np.ones(3), ["a", "b", "c"]))


def command(*arguments: object, code: int = 0) -> tuple[dict, str]:
    script = Path(sys.executable).with_name("vega3d-benchmark")
    done = subprocess.run(
        [script, "score", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout) if code == 0 else {}, done.stderr


@pytest.mark.slow
def test_the_command_writes_json_and_a_page(write: Write, tmp_path: Path) -> None:
    truths = [
        {"id": i, "scene_name": f"s{i % 3}", "question_type": "object_counting",
         "question": "How many <b>chairs</b>?", "ground_truth": "4"}
        for i in range(9)
    ]  # fmt: skip
    ours = write("ours.jsonl", [{"id": i, "prediction": "4"} for i in range(9)])
    theirs = write("theirs.jsonl", [{"id": i, "prediction": "<script>"} for i in range(8)])
    path = write("truth.json", truths)
    out = tmp_path / "out"
    result, told = command("vsi", theirs, "--annotations", path, "--against", ours, "--out", out)
    assert result["metrics"]["score overall"] == 0
    assert result["differences"]["score overall"]["difference"] == -100
    assert json.loads((out / "score.json").read_text())["metrics"] == result["metrics"]
    html = (out / "score.html").read_text()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert "1 queries have no prediction and count as wrong, such as 8" in told
    assert command("vsi", ours, "--annotations", path, "--config", out / "config.toml")[0][
        "metrics"
    ]


@pytest.mark.slow
def test_wrong_usage_ends_with_its_message(write: Write, tmp_path: Path) -> None:
    answers = write("p.json", [{"id": 1, "prediction": "A"}])
    _, told = command("vsi", answers, code=2)
    assert "needs --annotations" in told
    _, told = command("vsi", answers, "--annotations", tmp_path / "none.json", code=2)
    assert "cannot be read" in told
