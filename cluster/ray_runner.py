"""The Ray runner: one actor per GPU, at most two units in flight each, every failure counted.

Bulk data never passes through here: an actor reads its scenes, writes its shards, and returns a
few numbers. Ray places and restarts actors; this loop counts the attempts of each unit itself
(`max_task_retries=0`), so that nothing is tried for ever.
"""

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from vega3d.cluster.actor import Worker
from vega3d.cluster.connecting import connection
from vega3d.cluster.seen import seen_here
from vega3d.pipeline.attempts import Attempts
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.errors import StoreError, TransientError, UsageError
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.texts import without_secrets
from vega3d.pipeline.worker import UnitResult, UnitWriter, postponed, unit_result

UNITS_IN_FLIGHT = 2
"""Of one actor: one is computed while the other is stored, or waits."""

POLL_S = 2.0
"""How often the driver asks each actor for a sign of life."""

START_S = 120.0
"""A worker's process and its imports may take so long, on a machine with other work."""

START_ATTEMPTS = 3

_MEMORY = (
    "Ray's memory monitor killed its worker at every attempt; use fewer --workers, a smaller "
    "--batch-size or nodes with more memory (RAY_memory_usage_threshold is where it begins)"
)

_LOST = (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)

_log = logging.getLogger(__name__)


def run_ray(worker: UnitWriter, units: Sequence[Unit], config: RunConfig) -> Iterator[UnitResult]:
    """Hand the units to Ray actors and yield each result as it comes.

    A unit whose worker dies or falls silent is tried again, alone on its actor, and recorded as
    failed after `config.attempts` tries. An error of the code or the settings stops the run.

    Raises:
        UsageError: The machine can never hold one actor.
    """
    if not units:
        return
    with connection(config):
        _check_room(config)
        seen = seen_here(worker)
        team = [_Member(worker, config, seen) for _ in range(min(config.workers, len(units)))]
        try:
            yield from _Loop(worker, units, team, config).results()
        finally:
            for member in team:
                ray.kill(member.actor)


@dataclass
class _Member:
    """An actor and what it has been given."""

    worker: UnitWriter
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
        options = {
            "num_cpus": self.config.cpus_per_worker,
            "num_gpus": self.config.gpus_per_worker,
            # Restarted by hand: Ray, restarting it, does not say why it died.
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": UNITS_IN_FLIGHT + 1,  # and one to answer `silent_s`
        }
        made = ray.remote(Worker).options(**options)
        self.actor = made.remote(self.worker, self.config.unit_timeout_s)
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
        if not self.running:
            self.heard = time.monotonic()
        self.running[self.actor.run.remote(unit)] = unit


@dataclass
class _Loop:
    """Hands out units and takes back what comes: fresh units first, suspects alone."""

    worker: UnitWriter
    units: Sequence[Unit]
    team: list[_Member]
    config: RunConfig
    tries: Counter[int] = field(default_factory=Counter)
    attempts: Attempts = field(init=False)
    rest_until_s: float = 0.0

    def __post_init__(self) -> None:
        self.attempts = Attempts(self.config.attempts, self.config.unit_timeout_s)

    def results(self) -> Iterator[UnitResult]:
        fresh, suspects = deque(self.units), deque[Unit]()
        while True:
            self._watch()
            for member in self.team:
                self._fill(member, fresh, suspects)
            while self.attempts.exhausted and fresh:
                unit = fresh.popleft()
                yield postponed(unit, self.attempts.told(unit))
            running = [ref for member in self.team for ref in member.running]
            if not (running or fresh or suspects):
                return
            polls = [member.poll for member in self.team if member.poll is not None]
            if not (running or polls) or (not running and time.monotonic() < self.rest_until_s):
                time.sleep(POLL_S / 4)  # nobody is up, and all were asked a moment ago
                continue
            done, _ = ray.wait(running + polls, num_returns=1, timeout=POLL_S)
            for ref in done:
                if ref in polls:
                    continue  # an answer to `silent_s`
                member = next(m for m in self.team if ref in m.running)
                unit = member.running.pop(ref)
                try:
                    result = ray.get(ref)
                except RayTaskError as error:
                    cause = _original(error, unit)
                    if not isinstance(cause, TransientError | StoreError):
                        raise cause from None
                    yield from self._passing(unit, cause, fresh)
                except _LOST as error:
                    member.up = False
                    if not isinstance(error, ActorUnavailableError):
                        member.died()
                    yield from self._lost(unit, error, suspects)
                else:
                    member.heard = time.monotonic()
                    self.attempts.succeeded()
                    yield result

    def _fill(self, member: _Member, fresh: deque[Unit], suspects: deque[Unit]) -> None:
        if not member.up or time.monotonic() < self.rest_until_s:
            return
        alone = any(self.tries[unit.index] for unit in member.running.values())
        if suspects and not member.running:
            member.submit(suspects.popleft())
            return
        # Leave this actor's second place free while suspects wait for an idle one.
        room = 1 if suspects else UNITS_IN_FLIGHT
        while fresh and not alone and len(member.running) < room:
            member.submit(fresh.popleft())

    def _passing(
        self, unit: Unit, error: TransientError | StoreError, fresh: deque[Unit]
    ) -> Iterator[UnitResult]:
        """Try a unit again later; a store's error may be that of one worker's node alone."""
        told = without_secrets(str(error))
        _log.warning("unit %d: %s", unit.index, told)
        if self.attempts.failed(unit, told):
            fresh.append(unit)
            self.rest_until_s = time.monotonic() + self.attempts.pause_s()
        elif isinstance(error, StoreError):
            raise error
        else:
            yield postponed(unit, self.attempts.told(unit))

    def _lost(self, unit: Unit, error: Exception, suspects: deque[Unit]) -> Iterator[UnitResult]:
        self.tries[unit.index] += 1
        reason = str(error).strip().splitlines()[0]
        _log.warning(
            "unit %d: lost its worker (%s), attempt %d of %d",
            unit.index, reason, self.tries[unit.index], self.config.attempts,
        )  # fmt: skip
        if self.tries[unit.index] < self.config.attempts:
            suspects.append(unit)
            return
        if isinstance(error, OutOfMemoryError):
            yield postponed(unit, _MEMORY)
            return
        told = (
            "quarantined: its worker died or hung at every attempt; look at the Ray logs, then run "
            "with --retry-failed"
        )
        record = self.worker.store.write_failed_unit(unit, told)
        detail = f"{told}: {without_secrets(reason)}"
        yield replace(unit_result(record, {}), details=dict.fromkeys(unit.todo, detail))

    def _watch(self) -> None:
        """Ask for signs of life; restart an actor that shows none, so that its calls fail."""
        for member in self.team:
            if member.dead or member.unfit:
                if not (member.unfit or member.running) and time.monotonic() >= member.again_s:
                    member.start()
                continue
            if member.poll is not None and ray.wait([member.poll], timeout=0)[0]:
                self._hear(member)
            if member.dead or member.unfit:
                continue
            silent_s = time.monotonic() - member.heard
            limit_s = self.config.unit_timeout_s
            waited_s = max(limit_s, START_S) if self._nobody_is_up() else math.inf
            if silent_s > (limit_s if member.running else waited_s):
                self._restart(member)
            elif member.poll is None and (
                time.monotonic() - member.asked > POLL_S or not member.asked
            ):
                member.poll = member.actor.silent_s.remote()

    def _hear(self, member: _Member) -> None:
        """Take an actor's answer: what it does not see, or how long it has been silent."""
        poll, member.poll, member.asked = member.poll, None, time.monotonic()
        try:
            answer = ray.get(poll)
        except ActorUnavailableError:
            member.up = False  # the units' own calls fail too, and are counted there
        except _LOST as error:
            member.died()
            self._check_hope(member, error)
        else:
            if not isinstance(answer, str):
                member.heard = time.monotonic() - answer
            member.up, member.failed_starts = True, 0
            if answer and isinstance(answer, str):
                self._refuse(member, answer)

    def _refuse(self, member: _Member, problem: str) -> None:
        _log.warning("%s; no unit is given to it", problem)
        member.unfit, member.up = problem, False
        if all(one.unfit for one in self.team):
            raise UsageError(f"no worker can do this run: {problem}")

    def _check_hope(self, member: _Member, error: Exception) -> None:
        """End the run where no worker comes up, with what Ray says of it."""
        reason = _start_reason(error)
        if member.failed_starts:
            _log.warning("a worker did not come up: %s", reason)
        if member.failed_starts >= START_ATTEMPTS and self._nobody_is_up():
            raise UsageError(f"no worker comes up: {reason}")

    def _nobody_is_up(self) -> bool:
        return not any(member.up for member in self.team)

    def _restart(self, member: _Member) -> None:
        if not member.running:
            waited_s = max(self.config.unit_timeout_s, START_S)
            raise TimeoutError(
                f"no worker came up within {waited_s:.0f} s; look at the Ray logs and run the same "
                "command again: it goes on where this run stops"
            )
        _log.warning("no sign of life for %.0f s: restarting", self.config.unit_timeout_s)
        ray.kill(member.actor)
        member.died()


def _start_reason(error: Exception) -> str:
    """Return why an actor did not come up, in its own words and with the remedy."""
    if isinstance(error, OutOfMemoryError):
        return _MEMORY
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = lines[-1] if "creation task" in str(error) else lines[0]
    if "No module named 'vega3d" in own:
        return f"{own}; install vega3d on the nodes, or ship it with --wheel vega3d-....whl"
    return f"{own}; look at the Ray logs of that node"


def _check_room(config: RunConfig) -> None:
    """Refuse what this machine alone can never hold; a cluster may still grow."""
    there = ray.cluster_resources()
    wanted = {
        "CPU": config.cpus_per_worker * config.workers,
        "GPU": config.gpus_per_worker * config.workers,
    }
    for kind, amount in wanted.items():
        if amount <= there.get(kind, 0):
            continue
        told = (
            f"{config.workers} workers want {amount:g} {kind}s and Ray has "
            f"{there.get(kind, 0):g}; use fewer --workers or a smaller "
            f"--{kind.lower()}s-per-worker (a fraction is allowed)"
        )
        if config.address == "local":
            raise UsageError(told)
        _log.warning("%s; waiting for the cluster to grow", told)


def _original(error: RayTaskError, unit: Unit) -> BaseException:
    cause: BaseException = error.cause if isinstance(error.cause, BaseException) else error
    cause.add_note(f"in unit {unit.index} ({', '.join(unit.scene_ids[:3])}) on Ray")
    return cause
