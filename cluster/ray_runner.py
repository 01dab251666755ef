"""The Ray runner: one actor per GPU, at most two units in flight each, every failure counted.

Bulk data never passes through here: an actor reads its scenes, writes its shards, and returns a
few numbers. Ray places and restarts actors; this loop counts the attempts of each unit itself
(`max_task_retries=0`), so that nothing is tried for ever.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
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

from vega3d.cluster.connecting import connection
from vega3d.cluster.member import UNITS_IN_FLIGHT, Member, end_actor
from vega3d.cluster.metrics import RunMetrics
from vega3d.cluster.room import MEMORY, Waiting, check_room, start_reason
from vega3d.cluster.seen import seen_here
from vega3d.cluster.stragglers import Stragglers
from vega3d.pipeline.attempts import Attempts
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.errors import StoreError, TransientError, UsageError
from vega3d.pipeline.results import UnitResult, postponed
from vega3d.pipeline.runners import UnitWorker, step_aside
from vega3d.pipeline.store.units import Unit
from vega3d.pipeline.texts import without_secrets

POLL_S = 2.0
"""How often the driver asks each actor for a sign of life; more seldom where there are many."""

ASKED_AT_ONCE = 64
"""Actors that are asked every `POLL_S`: of 512, each is asked every 16 s."""

START_ATTEMPTS = 3

_LOST = (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)

_ENDED = (RayTaskError, *_LOST)

_log = logging.getLogger(__name__)


def run_ray(worker: UnitWorker, units: Sequence[Unit], config: RunConfig) -> Iterator[UnitResult]:
    """Hand the units to Ray actors and yield each result as it comes.

    A unit whose worker dies or falls silent is tried again, alone on its actor, and recorded as
    failed after `config.attempts` tries. An error of the code or the settings stops the run.

    Raises:
        UsageError: The machine can never hold one actor.
    """
    if not units:
        return
    with connection(config):
        check_room(config)
        seen = seen_here(worker)
        shared = ray.put(worker)  # once: with the plan of a large store it weighs megabytes
        team = [Member(shared, config, seen) for _ in range(min(config.workers, len(units)))]
        try:
            loop = _Loop(worker, units, team, config)
            for result in loop.results():
                loop.metrics.result(result)
                yield result
        finally:
            for member in team:
                end_actor(member.actor)


@dataclass
class _Loop:
    """Hands out units and takes back what comes: fresh units first, suspects alone."""

    worker: UnitWorker
    units: Sequence[Unit]
    team: list[Member]
    config: RunConfig
    tries: Counter[int] = field(default_factory=Counter)
    attempts: Attempts = field(init=False)
    waiting: Waiting = field(init=False)
    rest_until_s: float = 0.0
    stragglers: Stragglers = field(default_factory=Stragglers)
    metrics: RunMetrics = field(default_factory=RunMetrics)

    def __post_init__(self) -> None:
        self.attempts = Attempts(self.config.attempts, self.config.unit_timeout_s)
        self.waiting = Waiting(self.config)

    def results(self) -> Iterator[UnitResult]:
        fresh, suspects = deque(self.units), deque[Unit]()
        while True:
            self._watch()
            for member in self.team:
                self._fill(member, fresh, suspects)
            self.metrics.look(len(fresh) + len(suspects), sum(one.up for one in self.team))
            while self.attempts.exhausted and fresh:
                unit = fresh.popleft()
                yield postponed(unit, self.attempts.told(unit))
            if not (fresh or suspects):
                self._repeat()
            running = [ref for member in self.team for ref in member.running]
            if not (self._missing() or fresh or suspects):
                self._tell_waste()
                return
            asked = [member for member in self.team if member.poll is not None]
            if not (running or asked) or (not running and time.monotonic() < self.rest_until_s):
                time.sleep(POLL_S / 4)  # nobody is up, and all were asked a moment ago
                continue
            # Signs of life can wait for the next look: those of many would be all that is done.
            urgent = running + [member.poll for member in asked if not member.up]
            ray.wait(urgent or [member.poll for member in asked], num_returns=1, timeout=POLL_S)
            for ref in _ready(running):
                member = next(m for m in self.team if ref in m.running)
                unit = member.running.pop(ref)
                try:
                    result = ray.get(ref)
                except _ENDED as error:
                    if self.stragglers.ended(ref, unit, well=False) or self._runs(unit):
                        self._note_loss(member, error)
                        continue  # done, or being done, by somebody else
                    yield from self._failed(member, unit, error, fresh, suspects)
                else:
                    member.heard = time.monotonic()
                    self.attempts.succeeded()
                    if not self.stragglers.ended(ref, unit, well=True):
                        step_aside(result, fresh)
                        yield result

    def _failed(
        self,
        member: Member,
        unit: Unit,
        error: Exception,
        fresh: deque[Unit],
        suspects: deque[Unit],
    ) -> Iterator[UnitResult]:
        """Sort out why a call ended badly: a bug, a cause that may pass, or a lost worker."""
        self._note_loss(member, error)
        if not isinstance(error, RayTaskError):
            yield from self._lost(unit, error, suspects)
            return
        cause = _original(error, unit)
        if not isinstance(cause, TransientError | StoreError):
            raise cause from None
        yield from self._passing(unit, cause, fresh)

    def _note_loss(self, member: Member, error: Exception) -> None:
        if isinstance(error, RayTaskError):
            return
        member.up = False
        if not isinstance(error, ActorUnavailableError):
            member.died()

    def _runs(self, unit: Unit) -> bool:
        return any(unit in member.running.values() for member in self.team)

    def _missing(self) -> bool:
        """Say whether a unit is under way that nobody has done."""
        done = self.stragglers.done
        return any(u.index not in done for member in self.team for u in member.running.values())

    def _repeat(self) -> None:
        """Start a straggler's unit a second time on each worker that has nothing to do."""
        for member in self.team:
            if not member.up or member.running:
                continue
            unit = self.stragglers.to_repeat(self.team)
            if unit is None:
                return
            _log.info(
                "unit %d: takes long; started a second time on an idle worker",
                unit.index, extra={"unit": unit.index},
            )  # fmt: skip
            member.submit(unit)
            self.stragglers.begun(member)

    def _tell_waste(self) -> None:
        if copies := len(self.stragglers.copies):
            _log.info(
                "%d unit%s started twice near the end; %.1f s of work were not needed",
                copies, " was" if copies == 1 else "s were", self.stragglers.abandoned_s(),
            )  # fmt: skip

    def _fill(self, member: Member, fresh: deque[Unit], suspects: deque[Unit]) -> None:
        if not member.up or time.monotonic() < self.rest_until_s:
            return
        alone = any(self.tries[unit.index] for unit in member.running.values())
        if suspects and not member.running:
            member.submit(suspects.popleft())
            self.stragglers.begun(member)
            return
        # Leave this actor's second place free while suspects wait for an idle one.
        room = 1 if suspects else UNITS_IN_FLIGHT
        while fresh and not alone and len(member.running) < room:
            member.submit(fresh.popleft())
        self.stragglers.begun(member)

    def _passing(
        self, unit: Unit, error: TransientError | StoreError, fresh: deque[Unit]
    ) -> Iterator[UnitResult]:
        """Try a unit again later; a store's error may be that of one worker's node alone."""
        told = without_secrets(str(error))
        _log.warning("unit %d: %s", unit.index, told, extra={"unit": unit.index})
        if self.attempts.failed(unit, told):
            self.metrics.retried()
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
            extra={"unit": unit.index},
        )  # fmt: skip
        if self.tries[unit.index] < self.config.attempts:
            self.metrics.retried()
            suspects.append(unit)
            return
        if isinstance(error, OutOfMemoryError):
            yield postponed(unit, MEMORY)
            return
        told = (
            "quarantined: its worker died or hung at every attempt; look at the Ray logs, then run "
            "with --retry-failed"
        )
        result = self.worker.give_up(unit, told)
        detail = f"{told}: {without_secrets(reason)}"
        yield replace(result, details=dict.fromkeys(result.failures, detail))

    def _watch(self) -> None:
        """Ask for signs of life; restart an actor that shows none, so that its calls fail."""
        self.waiting.look(any_up=not self._nobody_is_up())
        answered = _ready([member.poll for member in self.team if member.poll is not None])
        every_s = POLL_S * max(1.0, len(self.team) / ASKED_AT_ONCE)
        for member in self.team:
            if member.dead or member.unfit:
                if not (member.unfit or member.running) and time.monotonic() >= member.again_s:
                    member.start()
                continue
            if member.poll in answered:
                self._hear(member)
            if member.dead or member.unfit:
                continue
            silent_s = time.monotonic() - member.heard
            if member.running and silent_s > self.config.unit_timeout_s:
                self._restart(member)
            elif member.poll is None and (
                time.monotonic() - member.asked > every_s or not member.asked
            ):
                member.poll = member.actor.silent_s.remote()

    def _hear(self, member: Member) -> None:
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

    def _refuse(self, member: Member, problem: str) -> None:
        _log.warning("%s; no unit is given to it", problem)
        member.unfit, member.up = problem, False
        if all(one.unfit for one in self.team):
            raise UsageError(f"no worker can do this run: {problem}")

    def _check_hope(self, member: Member, error: Exception) -> None:
        """End the run where no worker comes up, with what Ray says of it."""
        reason = start_reason(error)
        if member.failed_starts:
            _log.warning("a worker did not come up: %s", reason)
        if member.failed_starts >= START_ATTEMPTS and self._nobody_is_up():
            raise UsageError(f"no worker comes up: {reason}")

    def _nobody_is_up(self) -> bool:
        return not any(member.up for member in self.team)

    def _restart(self, member: Member) -> None:
        _log.warning("no sign of life for %.0f s: restarting", self.config.unit_timeout_s)
        end_actor(member.actor)
        member.died()


def _ready(refs: Sequence[Any]) -> set[Any]:
    """Return those of many answers that are there."""
    return set(ray.wait(refs, num_returns=len(refs), timeout=0)[0]) if refs else set()


def _original(error: RayTaskError, unit: Unit) -> BaseException:
    cause: BaseException = error.cause if isinstance(error.cause, BaseException) else error
    cause.add_note(f"in unit {unit.index} ({', '.join(unit.scene_ids[:3])}) on Ray")
    return cause
