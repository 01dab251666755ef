"""One actor of a run as its driver knows it: started by hand, and asked for signs of life."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from vega3d.cluster.actor import Worker
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.store.units import Unit

UNITS_IN_FLIGHT = 2
"""Of one actor: one is computed while the other is stored, or waits."""


@dataclass
class Member:
    """An actor and what it has been given."""

    worker: Any
    """What computes units, as Ray holds it: one copy for all actors of a node."""

    config: RunConfig
    seen: Mapping[str, str]
    """By the driver, at each place of the run."""

    actor: Any = field(init=False)
    running: dict[Any, Unit] = field(default_factory=dict)
    poll: Any = field(init=False)
    asked: float = 0.0
    heard: float = field(default_factory=time.monotonic)
    up: bool = False
    """True once the actor has answered, until a call is lost: what is given to an actor that has
    no place yet would wait with it."""

    dead: bool = False
    unfit: str = ""
    """Why nothing may be given to actors of this place."""

    failed_starts: int = 0
    again_s: float = 0.0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Ask Ray for an actor; it is asked at once what it sees."""
        self.actor = new_actor(self.worker, self.config)
        self.poll = self.actor.check.remote(self.seen)
        self.dead = self.up = False
        self.heard = time.monotonic()

    def died(self) -> None:
        """Note that the actor is gone, and when to ask for another."""
        if self.dead:
            return
        self.failed_starts = 0 if self.up else self.failed_starts + 1
        self.dead, self.up, self.poll = True, False, None
        self.again_s = time.monotonic() + min(30.0, float(self.failed_starts))

    def submit(self, unit: Unit) -> None:
        """Give the actor a unit."""
        if not self.running:
            self.heard = time.monotonic()
        self.running[self.actor.run.remote(unit)] = unit


def new_actor(worker: Any, config: RunConfig) -> Any:  # noqa: ANN401 - Ray's
    """Ask Ray for an actor that computes with a worker; it comes up when there is a place."""
    options = {
        "num_cpus": config.cpus_per_worker,
        "num_gpus": config.gpus_per_worker,
        # Restarted by hand: Ray, restarting it, does not say why it died.
        "max_restarts": 0,
        "max_task_retries": 0,
        "max_concurrency": UNITS_IN_FLIGHT + 1,  # and one to answer `silent_s`
    }
    return ray.remote(Worker).options(**options).remote(worker, config.unit_timeout_s)


def end_actor(actor: Any) -> None:  # noqa: ANN401
    """Kill an actor, whatever it does."""
    ray.kill(actor)
