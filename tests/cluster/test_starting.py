"""What keeps Ray from starting ends in one message with its remedy, soon."""

import os
import time
from pathlib import Path

import pytest

from vega3d.cluster.connecting import connection
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.errors import UsageError


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
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where no other test's Ray is found
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    start = time.monotonic()
    with pytest.raises(UsageError, match=told), connection(at(address)):
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
