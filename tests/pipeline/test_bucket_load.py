"""What `plan` says of a bucket, against what an S3 server is asked, and by hand."""

import os
from collections import Counter

import pytest
from fault_proxy import FaultProxy
from synthetic_unit import CHANNELS, GRID, TAPS, make_plan, make_worker

from vega3d.pipeline.bucket_load import bucket_load, told
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.store.layout import Layout
from vega3d.pipeline.store.notes import SceneNote


def layout(scenes: int, scenes_per_shard: int) -> Layout:
    return Layout(
        plan=make_plan(scenes, scenes_per_shard), taps=TAPS, channels=CHANNELS, tokens=GRID,
        store_dtype="float16",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.server
def test_a_unit_asks_of_s3_what_a_plan_says(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five units through a proxy that counts."""
    units = 5
    with FaultProxy(os.environ["AWS_ENDPOINT"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT", proxy.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        plan, worker = make_worker(f"{bucket}/counted", units, scenes_per_shard=1)
        before = len(proxy.seen)
        for unit in plan.units:
            worker.store.write_notes(unit, {unit.scene_ids[0]: SceneNote()})
        list(run_inline(worker, plan.units))
        counts = Counter(request.method for request, _ in proxy.seen[before:])
        found = bucket_load(layout(units, 1), wall_s=1.0)
        assert counts["PUT"] == found["puts_per_s"]
        assert counts["GET"] + counts["HEAD"] == found["gets_per_s"]  # S3 counts them alike
        assert set(counts) == {"PUT", "GET", "HEAD"}


@pytest.mark.slow
def test_a_hundred_thousand_clips_by_hand() -> None:
    """12,500 units in 50 s are 250 a second; each has shards, a record and notes to PUT."""
    clips = layout(100_000, 8)
    found = bucket_load(clips, wall_s=50.0)
    arrays = 2 + 3  # taps; geometry, preview and moments
    assert found["puts_per_s"] == 250 * (arrays + 2)
    assert found["gets_per_s"] == 250 * 3
    assert found["objects_of_a_prefix"] == 12_500
    assert found["share_of_one_prefix"] == 0.5
    assert found["resume_lists"] == 13
    assert found["driver_share"] == pytest.approx(250 * 0.0035)
    assert "250 units a second, which keeps 0.9 cores busy: use more --scenes-per-shard" in (
        told(found)
    )
    assert "within what S3 takes" in bucket_load(clips, wall_s=500.0)["verdict"]
    many = bucket_load(layout(1_000, 1), wall_s=7.5)
    assert "within" in many["verdict"]
    assert many["puts_per_s"] == pytest.approx(1_000 * 7 / 7.5)
