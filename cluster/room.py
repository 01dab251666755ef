"""Room for actors: what can never be had is refused; what is waited for is told, and has an end."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import ray
from ray.exceptions import OutOfMemoryError

from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.errors import UsageError

FIRST_TOLD_S = 10.0
TOLD_EVERY_S = 30.0
"""How soon, and how often, a run that has no worker says what it waits for."""

MEMORY = (
    "Ray's memory monitor killed its worker at every attempt; use fewer --workers, a smaller "
    "--batch-size or nodes with more memory (RAY_memory_usage_threshold is where it begins)"
)

_log = logging.getLogger(__name__)


def check_room(config: RunConfig) -> None:
    """Refuse what this machine alone can never hold; a cluster may still grow."""
    there = ray.cluster_resources()
    for kind, amount in _wanted(config, config.workers).items():
        if amount <= there.get(kind, 0):
            continue
        wanted = (
            f"{config.workers} workers want {amount:g} {kind}s and Ray has {there.get(kind, 0):g}"
        )
        if config.address == "local":
            raise UsageError(
                f"{wanted}; use fewer --workers or a smaller --{kind.lower()}s-per-worker (a "
                "fraction is allowed)"
            )
        _log.warning("%s: the run begins with what there is, and takes what comes", wanted)


def start_reason(error: Exception) -> str:
    """Return why an actor did not come up, in its own words and with the remedy."""
    if isinstance(error, OutOfMemoryError):
        return MEMORY
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = lines[-1] if "creation task" in str(error) else lines[0]
    if "No module named 'vega3d" in own:
        return f"{own}; install vega3d on the nodes, or ship it with --wheel vega3d-....whl"
    return f"{own}; look at the Ray logs of that node"


@dataclass
class Waiting:
    """A run whose workers have no place, or do not come up: told, and ended in time."""

    config: RunConfig
    _since_s: float = field(default_factory=time.monotonic)
    _told_s: float = 0.0
    """After how long it was told last; 0 for never."""

    def look(self, *, any_up: bool) -> None:
        """Say what is waited for while no worker is up.

        Raises:
            UsageError: None was up for `wait_s`.
        """
        if any_up:
            self._since_s, self._told_s = time.monotonic(), 0.0
            return
        waited_s = time.monotonic() - self._since_s
        if waited_s > self.config.wait_s:
            raise UsageError(
                f"no worker came up within {self.config.wait_s:g} s (--wait-s): {self._why()}; "
                "what is committed stays, and the same command goes on there"
            )
        if waited_s >= (self._told_s + TOLD_EVERY_S if self._told_s else FIRST_TOLD_S):
            self._told_s = waited_s
            left_s = self.config.wait_s - waited_s
            _log.warning("no worker is up yet: %s; waiting %.0f s more", self._why(), left_s)

    def _why(self) -> str:
        """Say what one worker lacks, and what helps."""
        there, free = ray.cluster_resources(), ray.available_resources()
        told = "there is room, and its process is starting; the Ray logs of its node say more"
        for kind, amount in _wanted(self.config, 1).items():
            held, left = there.get(kind, 0.0), free.get(kind, 0.0)
            each = f"a smaller --{kind.lower()}s-per-worker"
            if held < amount:
                return (
                    f"a worker wants {amount:g} {kind}s, and the cluster has {held:g} in all; add "
                    f"nodes, or use {each}"
                )
            if left < amount and held - left > amount * self.config.workers:
                return (
                    f"a worker wants {amount:g} {kind}s, and {left:g} of the cluster's {held:g} "
                    f"are free, because other jobs hold them (`ray status` shows it); end these, "
                    f"add nodes, or use {each}"
                )
            if left < amount:
                told = (
                    f"a worker wants {amount:g} {kind}s, and {left:g} of the cluster's {held:g} "
                    "are free: this run's workers have them and are starting, or another job has"
                )
        return told


def _wanted(config: RunConfig, workers: int) -> Mapping[str, float]:
    each = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
    return {kind: amount * workers for kind, amount in each.items()}
