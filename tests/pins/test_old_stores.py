"""Stores that an earlier version wrote: opened, verified, scored and trained on."""

import tarfile
from pathlib import Path

import pytest

from vega3d.evaluate.config import ReportConfig, RunConfig
from vega3d.evaluate.report import report
from vega3d.pipeline import open_store
from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.store.creating import create_or_resume
from vega3d.pipeline.store.identity import FORMAT_VERSION
from vega3d.pipeline.store.units import Plan, PlannedScene
from vega3d.pipeline.store.verify import verify
from vega3d.train import RunConfig as TrainRun
from vega3d.train import TrainConfig, fit

ARCHIVES = sorted(Path(__file__).parent.glob("format_*.tar.gz"))


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name)
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(request.param) as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_they_open_and_verify(stores: Path) -> None:
    prior = open_store(str(stores / "tars"))
    assert prior.scene_ids == ("scene_a", "scene_b")
    assert prior.features("scene_b").shape == (3, 3, 4, 48)
    assert prior.failures == {}
    for name in ("tars", "siglip"):
        found = verify(str(stores / name))
        assert found.faults == {}
        assert bool(found.unprotected) == (found.format == 1)


@pytest.mark.slow
def test_they_are_scored_and_trained_on(stores: Path, tmp_path: Path) -> None:
    names = [f"prior={stores / 'tars'}", f"semantic={stores / 'siglip'}"]
    quick = ReportConfig(bootstrap_samples=10)
    done = report(names, str(tmp_path / "report"), quick, RunConfig(scheduler="synchronous"))
    assert Path(done.html).is_file()
    fit(
        str(stores / "tars"),
        str(stores / "siglip"),
        str(tmp_path / "run"),
        TrainConfig(steps=3, hidden_dim=16, batch_size=2, views_per_sample=2),
        TrainRun(workers=0),
        semantic_tap="b4",
    )
    assert (tmp_path / "run" / "last.safetensors").is_file()


def test_an_older_format_is_read_and_not_written(stores: Path) -> None:
    """`run` and `--repair` name the two formats and what to do."""
    url = str(stores / "tars")
    attributes = open_store(url).attributes
    if attributes["format"] == FORMAT_VERSION:
        pytest.skip("the format that is written")
    told = r"of format 1: it is read and verified, and written no more.*another --out"
    with pytest.raises(StoreError, match=told):
        verify(url, repair=True)
    rows = [PlannedScene("scene_a", 3, 3), PlannedScene("scene_b", 4, 4)]
    with pytest.raises(StoreError, match=told):
        create_or_resume(url, Plan(tuple(rows), 1), attributes["identity"], {})
