"""A local Ray is closed to everyone else on this machine and around it."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import ray

from vega3d.pipeline.config import RunConfig

LOCAL = RunConfig(runner="ray", cpus_per_worker=0.5)


@pytest.fixture(scope="module")
def ports(request: pytest.FixtureRequest) -> set[int]:
    """Start Ray as `--runner ray` does, and return every port that it listens on."""
    before = listening({os.getpid()})  # of other tests' servers
    request.getfixturevalue("unused_ray")
    ray.get(ray.remote(lambda: 1).remote())  # a worker listens as well
    me = psutil.Process()
    family = {me.pid, *(child.pid for child in me.children(recursive=True))}
    return listening(family) - before


def listening(processes: set[int]) -> set[int]:
    return {
        found.laddr.port
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.pid in processes
    }


def other_addresses() -> list[str]:
    """Return this machine's addresses beside the loopback."""
    found = [
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6)
    ]
    return [one for one in found if not one.startswith("127.") and one != "::1"]


def is_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_nobody_reaches_a_port_of_a_local_run_from_another_address(ports: set[int]) -> None:
    assert len(ports) >= 8
    assert all(is_open("127.0.0.1", port) for port in ports)
    if not (others := other_addresses()):
        pytest.skip("this machine has no address but the loopback")
    assert [(a, p) for a in others for p in ports if is_open(a, p)] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/api/job_agent/jobs/", "/api/jobs/"])
def test_a_job_posted_by_another_user_of_this_machine_is_refused(
    ports: set[int], tmp_path: Path, path: str
) -> None:
    body = json.dumps({"entrypoint": f"touch {tmp_path}/ran"}).encode()
    answers = {}
    for port in ports:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                answers[port] = answer.status
        except urllib.error.HTTPError as error:
            answers[port] = error.code
        except (OSError, http.client.HTTPException):  # speaks no HTTP
            continue
    assert 401 in answers.values()  # the job agent asks for a token
    assert all(status in (401, 403, 404, 405) for status in answers.values()), answers
    time.sleep(1)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_token_is_not_left_behind(ports: set[int]) -> None:
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.slow
def test_no_process_shows_the_token_in_its_command(ports: set[int]) -> None:
    """Other users see the list of processes, and not their environment."""
    me = psutil.Process()
    shown = {child.pid: child.cmdline() for child in me.children(recursive=True)}
    assert any("raylet" in word for words in shown.values() for word in words)
    token = os.environ["RAY_AUTH_TOKEN"]
    assert [words for words in shown.values() if any(token in word for word in words)] == []
    for pid in shown:
        assert Path(f"/proc/{pid}/environ").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_who_has_no_token_is_refused_on_the_loopback_as_well(ports: set[int]) -> None:
    code = (
        "import sys; from ray._raylet import GcsClient; from ray.exceptions import "
        "AuthenticationError\n"
        "try:\n    GcsClient(address=sys.argv[1])\n"
        "except AuthenticationError:\n    print('REFUSED')\n"
    )
    address = ray.get_runtime_context().gcs_address
    for token in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")} | token
        done = subprocess.run(
            [sys.executable, "-c", code, address],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "REFUSED" in done.stdout, done.stderr[-500:]
