"""Reaching Ray: a local start that nobody else can use, or a cluster; faults end in one message.

A local Ray runs whatever anybody sends to its ports. So it asks for a token that only this run
knows, AND listens on the loopback address alone: the token does not cover every port, and the
address alone leaves ports open that other users of the machine can reach.
"""

import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import services

from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.errors import UsageError

_LISTEN_S = 10.0
"""How long a cluster's address may take to answer."""

_STARTS = 3
_BUSY = "timed out during startup"
"""What Ray's error says then; it has no type of its own."""

_NO_CLUSTER = (
    "--address auto finds no cluster on this node; start one with `ray start --head`, name "
    "another with --address host:port, or leave --address out to run on this machine alone"
)

_log = logging.getLogger(__name__)


@contextmanager
def connection(config: RunConfig, **options: Any) -> Iterator[None]:  # noqa: ANN401 - ray.init's
    """Connect to Ray, or start it, and take it down again; does nothing where there is one.

    Args:
        config: Says which Ray.
        options: More arguments of `ray.init`.

    Raises:
        UsageError: There is no cluster at the address, or Ray cannot start here.
    """
    if ray.is_initialized():
        yield
        return
    if config.address != "local":
        _check_listens(config.address)
        with _started(config, options):
            yield
        return
    with _closed(), _started(config, {"include_dashboard": False, **options}):
        yield


@contextmanager
def _started(config: RunConfig, options: Mapping[str, Any]) -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    context = _patiently(config, options)
    _log.info("Ray dashboard: %s", context.dashboard_url or "none")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # ray.init puts its own there
    if config.address != "local":
        _warn_where_open(config.address)
    try:
        yield
    finally:
        ray.shutdown()


def _patiently(config: RunConfig, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - Ray's
    """Connect or start; a machine that is busy may take longer than the 30 s that Ray grants."""
    for left in reversed(range(_STARTS)):
        try:
            return ray.init(
                address=config.address,
                runtime_env={"py_modules": [os.path.abspath(config.wheel)]} if config.wheel else {},
                log_to_driver=False,
                logging_level=logging.WARNING,
                **options,
            )
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise _told(error, config) from error
        except Exception as error:
            if _BUSY not in str(error):
                raise
            ray.shutdown()
            if not left:
                raise UsageError(
                    f"Ray did not start within 30 s, {_STARTS} times: this machine is too busy, or "
                    "short of memory; the same command goes on when it is not"
                ) from error
            _log.warning("Ray did not start within 30 s: this machine is busy; trying again")
    raise AssertionError


def _warn_where_open(address: str) -> None:
    """Say so where the cluster takes work from anybody who reaches it."""
    if ray._raylet.get_authentication_mode() != ray._raylet.AuthenticationMode.DISABLED:
        return
    hosts = {str(node["NodeManagerAddress"]) for node in ray.nodes()}
    beyond = sorted(host for host in hosts if not host.startswith("127."))
    who = f"whoever reaches {beyond[0]}" if beyond else "every user of this machine"
    _log.warning(
        "the Ray at --address %s asks for no token: %s can run commands as you; start it with "
        "RAY_AUTH_MODE=token (every file of `vega3d-extract submit` does)",
        address, who,
    )  # fmt: skip


@contextmanager
def _closed() -> Iterator[None]:
    """Let Ray ask for a fresh token, and listen on the loopback address alone.

    Whatever the environment says of authentication is meant for clusters; it is put back.
    """
    from ray._private import ray_constants

    ours = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # For this node and its children: use 127.0.0.1 as the node's address, as on a Mac.
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    }
    before = {name: os.environ.get(name) for name in ours}
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update(ours)
    ray_constants.ENABLE_RAY_CLUSTER = False  # was read when ray was imported
    _read_environment_again()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        _read_environment_again()


def _read_environment_again() -> None:
    """Make this process forget the mode and token that it read when ray was imported.

    ray.init does so itself where it makes a token of its own; for one from the environment it
    offers no public way. Source: ray 2.60, ray/_private/authentication.
    """
    raylet: Any = ray._raylet  # compiled, without types
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def _check_listens(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try for minutes.

    For `auto` that is what Ray would take: a head that was killed leaves its address behind, and
    a local run of somebody's is no cluster.
    """
    place = _auto_address() if address == "auto" else address
    host, _, port = place.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_LISTEN_S):
            return
    except ValueError as error:
        raise UsageError(
            f"--address {address} is no address; give local, auto, host:port or ray://host:port"
        ) from error
    except OSError as error:
        if address == "auto":
            raise UsageError(f"{_NO_CLUSTER} (nothing answers at {place})") from error
        raise UsageError(
            f"--address {address}: nothing answers there ({error.strerror or error}); look at the "
            "head node's address and firewall, or start a cluster with `ray start --head`"
        ) from error


def _auto_address() -> str:
    """Return the address that Ray takes for `auto`; raises UsageError where it finds none."""
    try:
        place: str | None = services.canonicalize_bootstrap_address("auto")
    except (ConnectionError, ValueError) as error:  # an address in RAY_ADDRESS may be none
        raise UsageError(f"{_NO_CLUSTER} ({error})") from error
    if place is None:
        raise UsageError(_NO_CLUSTER)
    return place


def _told(error: Exception, config: RunConfig) -> UsageError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "AF_UNIX path length" in str(error):
        remedy = (
            f"Ray's sockets lie below {os.environ.get('RAY_TMPDIR') or tempfile.gettempdir()}, and "
            "their paths are too long; set RAY_TMPDIR to a short folder, such as /tmp"
        )
    elif config.address == "auto":
        remedy = f"{_NO_CLUSTER} ({lines[0]})"
    elif isinstance(error, ray.exceptions.AuthenticationError) or "token" in str(error).lower():
        remedy = (
            "the cluster asks for a token; put it into RAY_AUTH_TOKEN, and set RAY_AUTH_MODE=token"
        )
    else:
        remedy = f"Ray at --address {config.address} cannot be used: {lines[0]}"
    return UsageError(remedy)
