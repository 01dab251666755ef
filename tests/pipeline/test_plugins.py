"""An encoder and a reader that an installed package adds, from outside the tree."""

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from vega3d.pipeline import open_store, plugins
from vega3d.pipeline.backbones.registry import backbone_names, family
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.reading import read_scenes

TOY = Path(__file__).parents[1] / "support" / "toy_plugin"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the toy package as a user would, into a folder of its own."""
    place = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("toy")
    for path in TOY.iterdir():  # building writes beside the source
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", "--target", place, source], check=True)
    return {**os.environ, "PYTHONPATH": str(place)}


def command(environment: dict[str, str], program: str, *args: object) -> dict:
    script = Path(sys.executable).with_name(f"vega3d-{program}")
    done = subprocess.run(
        [script, *map(str, args)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_extract_report_and_fit_run_with_them(environment: dict[str, str], tmp_path: Path) -> None:
    settings = ("--backbone", "toy-patches", "--grid", "8x6", "--threads", "1")
    sizes = {"prior": "96x64", "semantic": "192x128"}
    planned = command(environment, "extract", "plan", "toy:3", *settings)
    assert (planned["scenes"], planned["views"]) == (3, 12)
    for name, size in sizes.items():
        out = ("--out", tmp_path / name)
        done = command(
            environment, "extract", "run", "toy:3", *settings, "--resolution", size, *out
        )
        assert (done["committed"], done["taps"]) == (3, ["patches"])
    store = open_store(str(tmp_path / "prior"))
    assert store.identity["config"]["backbone"] == "toy-patches"
    assert "timesteps" not in store.identity["config"]
    assert np.isfinite(store.features("plane1")).all()
    scored = command(
        environment, "consistency", "report", tmp_path / "prior", "--out", tmp_path / "report"
    )
    assert scored["scenes"] == 3
    trained = command(
        environment,
        "train",
        "fit",
        "--prior",
        tmp_path / "prior",
        "--semantic",
        tmp_path / "semantic",
        "--out",
        tmp_path / "run",
        *("--task", "depth", "--steps", 3, "--hidden-dim", 16, "--batch-size", 2),
    )
    assert trained["steps"] == 3


def test_a_name_that_is_offered_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("siglip", "somebody:Config", plugins.BACKBONES),
        EntryPoint("fossil", "one:read", plugins.SCENES),
        EntryPoint("fossil", "two:read", plugins.SCENES),
    ]
    monkeypatch.setattr(
        plugins, "_found", lambda group: [point for point in points if point.group == group]
    )
    with pytest.raises(UsageError, match="'siglip' is offered twice, by vega3d itself and by some"):
        backbone_names()
    with pytest.raises(UsageError, match="'fossil' is offered twice, by one:read and by two:read"):
        read_scenes("fossil:7")


def test_what_is_no_encoder_and_no_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("odd", "pathlib:Path", plugins.BACKBONES),
        EntryPoint("odd", "pathlib:Path", plugins.SCENES),
    ]
    monkeypatch.setattr(
        plugins, "_found", lambda group: [point for point in points if point.group == group]
    )
    with pytest.raises(UsageError, match="does not derive from BackboneConfig"):
        family("odd")
    with pytest.raises(ValueError, match="pathlib:Path gave .* which is no SceneSource"):
        read_scenes("odd:place")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"must be one of wan2.1-t2v, .*siglip.*got 'wan'"):
        family("wan")
