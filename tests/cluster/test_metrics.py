"""Prometheus sees what a run did, and the dashboard asks for nothing else."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray
from shared_ray import SharedRay
from synthetic_unit import make_worker

from vega3d.cluster.metrics import NAMES, RunMetrics
from vega3d.cluster.ray_runner import run_ray
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.results import UnitResult

DASHBOARD = Path(__file__).parents[2] / "cluster" / "templates" / "grafana.json"
RAYS_OWN = {"ray_node_gram_used"}
"""Of Ray's node agent, where there are GPUs (ray 2.60, dashboard/modules/reporter)."""

CONFIG = RunConfig(runner="ray", cpus_per_worker=0.5)
BAD = "hall/001 \u00fc"


@pytest.fixture(scope="module")
def exported(
    unused_ray: None, shared_ray: SharedRay, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Run two units and return what Ray's endpoint says."""
    shared_ray.worked = True
    url = str(tmp_path_factory.mktemp("metrics") / "s")
    plan, worker = make_worker(url, 4, fail_on=(BAD,))
    assert len(list(run_ray(worker, plan.units, CONFIG))) == 2
    more = RunMetrics()
    more.result(UnitResult(unit=9, scenes=1, failures={}, views=0, dropped_views=0,
                           stored_bytes=0, seconds={"compute": 2.0}))  # fmt: skip
    more.retried()
    place = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    text, end = "", time.monotonic() + 60
    while not all(f"ray_{name}" in text for name in NAMES) and time.monotonic() < end:
        time.sleep(0.5)
        with urllib.request.urlopen(place, timeout=10) as answer:
            text = answer.read().decode()
    return text


@pytest.mark.slow
@pytest.mark.ray
def test_the_endpoint_has_what_came_back(exported: str) -> None:
    values = {
        found[1]: float(found[2])
        for found in re.finditer(r"^(ray_vega3d_\w+)\{[^}]*\} (\S+)$", exported, re.MULTILINE)
    }
    assert values["ray_vega3d_views_total"] == 5  # 1 + 3 + 1, without those of the failed one
    assert values["ray_vega3d_units_total"] == 3
    assert values["ray_vega3d_failed_scenes_total"] == 1
    assert 'reason="the JPEG is truncated"' in exported
    (spent,) = re.findall(r"^ray_vega3d_stage_seconds_sum\{.*compute.*\} (\S+)$", exported, re.M)
    assert 2.0 < float(spent) < 4.0


@pytest.mark.slow
@pytest.mark.ray
def test_every_metric_that_the_dashboard_asks_for_is_there(exported: str) -> None:
    there = set(re.findall(r"^(ray_\w+)\{", exported, re.MULTILINE))
    asked = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            asked |= set(re.findall(r"\bray_\w+", target["expr"]))
    assert len(asked) >= 8
    assert asked - there <= RAYS_OWN


def test_reasons_are_few_whatever_they_say() -> None:
    metrics = RunMetrics.__new__(RunMetrics)
    metrics._reasons = set()
    same = {metrics._bounded(f"room{i}: view {i}: {i} pixels are missing") for i in range(100)}
    assert same == {"N pixels are missing"}
    many = {metrics._bounded("reason " + "x" * i) for i in range(50)}
    assert len(many) <= 32
    assert "other" in many
