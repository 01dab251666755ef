"""The desk paper as a whole, on a few rooms: one page, the same numbers when it is asked again."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vega3d.train.paper.compared import BOTH, PRIOR, RANDOM, SEMANTIC, SEMANTIC_RANDOM
from vega3d.train.paper.config import PaperConfig
from vega3d.train.paper.findings import CONFIRMED, NOT, PARTLY, find
from vega3d.train.paper.fusions import ON_RANDOM
from vega3d.train.paper.paper import write_paper


@pytest.mark.slow
def test_a_paper_is_written_and_gone_on_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="vega3d.train.paper.paper")
    config = PaperConfig(quick=True)
    told = write_paper(str(tmp_path), config)
    page, plain = Path(told["paper"]), Path(told["json"])
    first = json.loads(plain.read_text())
    made_here = {record.getMessage().partition(":")[0] for record in caplog.records}
    assert "streams" in made_here
    if len(os.sched_getaffinity(0)) > 1:
        assert "fusions" not in made_here  # another process left them
    for one in first["findings"]:
        assert one["claim"].replace("'", "&#39;") in page.read_text()
    assert first["streams"]["scores"].keys() > {"prior", "semantic", "semantic + prior", "blind"}
    assert len(first["maps"]["maps"]["depth"]["cells"]) == 4
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    (tmp_path / "parts" / "maps.json").unlink()  # as if it had been stopped there
    page.unlink()
    write_paper(str(tmp_path), config)
    assert json.loads(plain.read_text()) == first
    for path, before in made.items():
        assert (path.stat().st_mtime_ns == before) == (path.name != "maps.json")
    assert page.exists()


def _difference(a: str, b: str, mean: float, verdict: str) -> dict[str, Any]:
    one = {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "verdict": verdict}
    return {"better": a, "than": b, "found": {"depth_r2": one, "object_accuracy": one}}


def _parts() -> dict[str, Any]:
    fusion = {"mean": 0.1, "low": 0.05, "high": 0.15, "verdict": "gain"}
    correlation = {"value": 0.5, "low": -0.1, "high": 0.9, "p_value": 0.2, "num_points": 7}
    best = {"depth": (3, 300), "above_chance": (0, 300)}
    return {
        "streams": {
            "differences": [
                _difference(PRIOR, RANDOM, 0.1, "gain"),
                _difference(BOTH, SEMANTIC, 0.1, "gain"),
                _difference(BOTH, PRIOR, 0.0, "open"),
                _difference(BOTH, SEMANTIC_RANDOM, -0.1, "loss"),
            ]
        },
        "fusions": {
            "rows": [
                {"variant": ON_RANDOM, "score": {"mean": 0.5}},
                {"variant": "concat", "score": {"mean": 0.4}},
                {"variant": "adaptive", "score": {"mean": 0.3}},
            ],
            "differences": [
                {"better": "adaptive", "than": name, "found": {"score": fusion}}
                for name in ("semantic", "generative", ON_RANDOM, "blind")
            ],
        },
        "maps": {
            "blocks": [0, 3, 7],
            "timesteps": [100, 300, 500],
            "maps": {n: {"best": {"block": b, "timestep": k}} for n, (b, k) in best.items()},
        },
        "relations": {"relations": [{"score": "raw consistency", "pearson": correlation}]},
    }


def test_findings_say_what_the_numbers_say() -> None:
    found = {one["claim"]: (one["verdict"], one["told"]) for one in find(_parts())}
    by_start = {
        "What the generator learned": CONFIRMED,
        "The prior adds": CONFIRMED,
        "Semantic features add": NOT,
        "It is the training": NOT,
        "The adaptive gate gains": CONFIRMED,
        "The adaptive gate is the best fusion": NOT,
        "A middle block": PARTLY,
        "A middle timestep": CONFIRMED,
        "The more consistent": NOT,
    }
    for start, verdict in by_start.items():
        (claim,) = (claim for claim in found if claim.startswith(start))
        assert found[claim][0] == verdict, claim
    (told,) = (
        text for claim, (_, text) in found.items() if claim.startswith("The adaptive gate is the")
    )
    assert "concat is first (0.400)" in told
    assert "number 2 of 2" in told


def test_a_gain_beside_a_loss_confirms_in_part() -> None:
    parts = _parts()
    mixed = parts["streams"]["differences"][0]["found"]
    mixed["depth_r2"] = {**mixed["depth_r2"], "verdict": "loss"}
    assert find(parts)[0]["verdict"] == PARTLY


@pytest.mark.parametrize(
    "wrong",
    [
        {"rooms": 1},
        {"seeds": ()},
        {"choose_seed": 103},
        {"variants": ("adaptive",)},
        {"contexts": ("frame",)},
    ],
)
def test_a_config_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        PaperConfig(**wrong)
