"""What all tests share: where real captures are, a cache of their own, and quiet services."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
LONGEST = REPO / "tests" / "test_readme.py"
SHARED = ("ray", "server")
"""Marks of what shares one service: such tests run one after another, on one worker."""

_MEMORY = Path("/dev/shm")
_NEEDED_BYTES = 4 << 30
if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _NEEDED_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))  # waits for no fsync
sys.dont_write_bytecode = False  # or every command that a test starts compiles the package anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers are the parallelism


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file, or what shares a service, on one worker; skip what needs a device."""
    _mark_all_but_the_first_slow(items)
    items.sort(key=lambda item: item.path != LONGEST)  # or one worker ends alone
    for item in items:
        shared = [name for name in SHARED if item.get_closest_marker(name)]
        item.add_marker(pytest.mark.xdist_group(shared[0] if shared else str(item.path)))
    _skip_without_gpu(items)


def _mark_all_but_the_first_slow(items: list[pytest.Item]) -> None:
    """Let one case stand for all of a test that is marked `one_quick`."""
    seen = set()
    for item in items:
        if item.get_closest_marker("one_quick"):
            name = item.nodeid.partition("[")[0]
            if name in seen:
                item.add_marker("slow")
            seen.add(name)


def _skip_without_gpu(items: list[pytest.Item]) -> None:
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's caches."""
    patch = pytest.MonkeyPatch()
    patch.setenv("VEGA3D_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield
    patch.undo()


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """Return an empty folder for what memory cannot stand for; `tmp_path` may be in memory."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of real captures; tests that use it skip where it is missing."""
    folder = Path(os.environ.get("VEGA3D_DATA") or REPO.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real captures in {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny video generator: real classes, random weights."""
    from vega3d.pipeline.backbones.tiny import write_tiny_wan

    folder = tmp_path_factory.mktemp("models") / "wan-tiny"
    write_tiny_wan(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny recognition encoder: real classes, random weights."""
    from vega3d.pipeline.backbones.tiny import write_tiny_siglip

    folder = tmp_path_factory.mktemp("models") / "siglip-tiny"
    write_tiny_siglip(folder)
    return folder


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """Start an S3 server and return the URL of an empty bucket; the environment points there."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ENDPOINT": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in settings.items():
        patch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="stores")
    yield "s3://stores"
    patch.undo()
    server.stop()
