"""What the command line asks for: demonstrations of a location, rollouts of a run."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any
from urllib.parse import parse_qsl

from vega3d.pipeline.errors import UsageError
from vega3d.train.robots.config import PickingConfig, RolloutConfig
from vega3d.train.robots.simulator import Simulator

_USUAL = "picking:50?height=128&width=160&noise=0.2&slips=0.05"


def make_demonstrations(location: str, out: str, seed: int, *, dry_run: bool) -> dict[str, Any]:
    """Write the demonstrations that `picking:N` names; return what was written.

    Raises:
        UsageError: The location is not written so, or mujoco or h5py is missing.
    """
    demos, config = parse_picking(location, seed)
    if dry_run:
        return {"demos_a_task": demos, "size": [config.height, config.width]}
    from vega3d.train.robots.expert import write_demonstrations

    return write_demonstrations(out, demos, config)


def parse_picking(location: str, seed: int) -> tuple[int, PickingConfig]:
    """Return how many demonstrations a task `picking:50?noise=0.1` means, and how they are made."""
    count, _, options = location.removeprefix("picking:").partition("?")
    types: dict[str, Callable[[str], float]] = {"noise": float, "slips": float}
    try:
        given = dict(parse_qsl(options, keep_blank_values=True, strict_parsing=bool(options)))
        known = {field.name for field in fields(PickingConfig)}
        if given.keys() - known:
            raise ValueError(f"options are {sorted(known)}")
        values: dict[str, Any] = {
            name: types.get(name, int)(value) for name, value in given.items()
        }
        if int(count) < 1:
            raise ValueError("there must be one demonstration or more")
        return int(count), PickingConfig(**{"seed": seed, **values})
    except ValueError as error:
        raise UsageError(f"{location!r}: {error}; write {_USUAL}") from error


def roll_out_run(run_dir: str, out: str, config: RolloutConfig, *, dry_run: bool) -> dict[str, Any]:
    """Roll a run out; return its success by task.

    Raises:
        UsageError: The run cannot act, or the simulator is not installed.
    """
    from vega3d.train.robots.policy import Policy
    from vega3d.train.robots.rolling import roll_out

    policy = Policy(run_dir, config.weights, config.device)
    if dry_run:
        return {"suite": config.suite, "cameras": policy.cameras, "chunk": policy.chunk}
    simulator = make_simulator(config, policy.image_size)
    try:
        return roll_out(policy, simulator, out, config, policy.record["digest"])
    finally:
        simulator.close()


def make_simulator(config: RolloutConfig, size: tuple[int, int]) -> Simulator:
    """Return the simulator of a suite, whose images have this size, px.

    Raises:
        UsageError: What it needs is not installed.
    """
    if config.suite == "picking":
        from vega3d.train.robots.picking import Picking

        return Picking(size, config.seed)
    from vega3d.train.robots.libero import Libero

    return Libero(config.suite, size)
