"""What keeps Ray from starting ends in one message with its remedy, soon."""

import os
import shutil
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
import synthetic_unit
from ray import cloudpickle
from ray._private import services
from small_captures import write_captures
from synthetic_unit import make_worker

from vega3d.cluster.connecting import connection
from vega3d.cluster.ray_runner import run_ray
from vega3d.cluster.seen import differing, seen_here
from vega3d.pipeline import open_store, read_scenes
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig, RunConfig
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.extract import open_for
from vega3d.pipeline.worker import UnitWriter

pytestmark = pytest.mark.usefixtures("no_ray")


def at(address: str) -> RunConfig:
    return RunConfig(runner="ray", address=address)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("auto", "--address auto finds no cluster on this node; start one with `ray start --head`"),
        (
            "127.0.0.1:1",
            "127.0.0.1:1: nothing answers there .Connection refused.; look at the head",
        ),
        ("ray://127.0.0.1:1", "ray://127.0.0.1:1: nothing answers there"),
        ("no.such.host.invalid:6379", "nothing answers there"),
        ("nonsense", "--address nonsense is no address; give local, auto, host:port"),
        ("host:port", "is no address"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_within_seconds(
    address: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Ray looks through all processes too: one of another test, or of the machine's user, is none.
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    start = time.monotonic()
    with pytest.raises(UsageError, match=told), connection(at(address)):
        pass
    assert time.monotonic() - start < 20


def test_a_head_that_was_killed_and_left_its_address_is_no_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A head that is killed leaves its address behind; Ray alone would try there for minutes."""
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        start = time.monotonic()
        told = pytest.raises(UsageError, match="auto finds no cluster.*nothing answers at")
        with told, connection(at("auto")):
            pass
    assert time.monotonic() - start < 20


def test_a_temporary_folder_whose_sockets_would_have_too_long_names_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 120)))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # meant for a cluster: not for a local start
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with (
        pytest.raises(UsageError, match="too long; set RAY_TMPDIR to a short folder, such as /tmp"),
        connection(at("local")),
    ):
        pass
    assert os.environ["RAY_AUTH_MODE"] == "disabled"  # put back
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_machine_that_is_too_busy_for_ray_is_given_more_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray grants its processes 30 s, and raises a plain Exception then."""
    starts = []

    def busy(**_options: object) -> None:
        starts.append(1)
        raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(ray, "init", busy)
    with (
        pytest.raises(UsageError, match="did not start within 30 s, 3 times"),
        connection(at("local")),
    ):
        pass
    assert len(starts) == 3
    assert caplog.text.count("this machine is busy; trying again") == 2


@pytest.mark.slow
def test_a_memory_monitor_that_kills_every_worker_ends_the_run_with_its_remedy(
    tmp_path: Path, by_value: None
) -> None:
    plan, worker = make_worker(str(tmp_path / "s"), 4)
    system = {"memory_usage_threshold": 0.01, "memory_monitor_refresh_ms": 100}
    config = RunConfig(runner="ray", cpus_per_worker=0.5)
    with connection(config, num_cpus=2, _system_config=system):
        start = time.monotonic()
        told = []
        try:
            told += [result.postponed for result in run_ray(worker, plan.units, config)]
        except UsageError as error:
            told.append(str(error))
        assert told
        assert all("Ray's memory monitor killed its worker" in one for one in told)
        assert time.monotonic() - start < 120
    assert open_store(str(tmp_path / "s")).failures == {}


@pytest.mark.slow
def test_nodes_without_vega3d_are_told_with_the_actors_own_reason(
    tmp_path: Path, by_value: None
) -> None:
    python = bare_python(tmp_path)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [python, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}",
               "--num-cpus=2", "--include-dashboard=false", "--block"]  # fmt: skip
    head = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_port(port)
        script = tmp_path / "driver.py"
        script.write_text(DRIVER)
        done = subprocess.run(
            [sys.executable, str(script), f"127.0.0.1:{port}", str(tmp_path / "s")],
            env={**environment, "PYTHONPATH": str(Path(synthetic_unit.__file__).parent)},
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert "TOLD no worker comes up: ModuleNotFoundError: No module named 'vega3d'" in (
            done.stdout
        ), done.stderr[-1500:]
        assert "--wheel" in done.stdout
        assert f"the Ray at --address 127.0.0.1:{port} asks for no token" in done.stderr
        assert "can run commands as you; start it with RAY_AUTH_MODE=token" in done.stderr
    finally:
        family = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait(30)


DRIVER = """
import sys
from ray import cloudpickle
import synthetic_unit
cloudpickle.register_pickle_by_value(synthetic_unit)
from vega3d.cluster import ray_runner
from vega3d.cluster.ray_runner import run_ray
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.errors import UsageError
plan, worker = synthetic_unit.make_worker(sys.argv[2], 4)
ray_runner.START_ATTEMPTS = 1  # each takes seconds, and ends alike
try:
    list(run_ray(worker, plan.units, RunConfig(runner="ray", address=sys.argv[1])))
except UsageError as error:
    print("TOLD", error)
"""


def bare_python(folder: Path) -> str:
    """Return a Python that has Ray and no vega3d: an editable install's hook is not inherited."""
    venv.create(folder / "bare", with_pip=False)
    python = folder / "bare" / "bin" / "python"
    packages = Path(ray.__file__).parents[1]
    site = next((folder / "bare" / "lib").glob("python*")) / "site-packages"
    (site / "base.pth").write_text(f"{packages}\n")
    found = subprocess.run([str(python), "-c", "import ray, vega3d.pipeline"], capture_output=True)
    if b"No module named 'vega3d" not in found.stderr:
        pytest.skip("vega3d is installed beside Ray, not as an editable install")
    return str(python)


def wait_for_port(port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return


@pytest.fixture
def by_value() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(synthetic_unit)
    yield
    cloudpickle.unregister_pickle_by_value(synthetic_unit)


@pytest.mark.slow
def test_a_worker_is_asked_for_the_store_the_scenes_and_the_model(
    tmp_path: Path, tiny_wan: Path
) -> None:
    """Each of the three may be mounted elsewhere on a node, or not at all."""
    model, scenes = tmp_path / "model", tmp_path / "scenes"
    shutil.copytree(tiny_wan, model)
    write_captures(scenes)
    source = read_scenes(str(scenes))
    config = ExtractConfig(backbone=WanConfig(model=str(model), resolution=(96, 128)), grid=(2, 3))
    _, prepared, store = open_for(source, str(tmp_path / "s"), config, Numerics(), "")
    worker = UnitWriter(source, prepared, store)
    seen = seen_here(worker)
    assert set(seen) == {str(model), str(scenes), str(tmp_path / "s")}
    assert differing(seen, seen_here(worker), "n1") == ""
    for place in (model, scenes, tmp_path / "s"):
        place.rename(tmp_path / "away")
        told = differing(seen, seen_here(worker), "n1")
        assert told.startswith(f"on node n1, {place} is not there: mount it there")
        (tmp_path / "away").rename(place)
