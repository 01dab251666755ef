"""A scripted expert for the small table, and its demonstrations in LIBERO's HDF5 layout.

What is recorded is what the expert would do where it stands; what is done has some noise on it, so
that the frames show how to come back to the way (Laskey et al., DART, CoRL 2017): steps go astray,
and now and then the cup slips, closing too early or letting go on the way. When the cube lies on
the pad the expert rises for as long as a chunk of actions: were letting go the last thing it ever
did, most chunks that reach so far would not say it, and a policy would hold on for good. A row's
frame was taken before its action.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import write_whole
from vega3d.train.robots.config import PickingConfig
from vega3d.train.robots.picking import CAMERAS, HALF_M, STEP_M, SUITE, Picking
from vega3d.train.robots.simulator import Observation

_TOP_M = 2 * HALF_M
_CARRY_M = 0.1
_NEAR_M = 0.008
_OVER_PAD_M = 0.02
_SLOPE = 2.0
_AFTER = 8  # steps


def expert_action(table: Picking, wanted: int) -> Float32[np.ndarray, "7"]:
    """Return the next step towards a cube, with it to the pad, or away; from true positions."""
    cup, cube, pad = table.cup(), table.cube(wanted), table.pad()
    if table.success():
        return _step(np.array([0, 0, _CARRY_M - cup[2]]), -1.0)
    if not table.holds():
        return _towards(cup, cube[:2], cube[2] + HALF_M, near=_NEAR_M, then=1.0)
    far = float(np.linalg.norm(pad[:2] - cup[:2]))
    if far > 2 * _OVER_PAD_M and cup[2] < _CARRY_M:
        return _step(np.array([0, 0, _CARRY_M + 0.02 - cup[2]]), 1.0)
    return _towards(cup, pad[:2], _TOP_M, near=_OVER_PAD_M, then=-1.0)


def _towards(
    cup: np.ndarray, place: np.ndarray, height: float, *, near: float, then: float
) -> Float32[np.ndarray, "7"]:
    """Come down a cone onto a place, and grip or let go where it is reached."""
    away = place - cup[:2]
    distance = float(np.linalg.norm(away))
    if distance < near and cup[2] - height < _NEAR_M:
        return _step(np.zeros(3), then)
    goal = height + min(_CARRY_M - 0.02, _SLOPE * max(0.0, distance - near / 2))
    return _step(np.array([*away, goal - cup[2]]), -then)


def _step(metres: np.ndarray, command: float) -> Float32[np.ndarray, "7"]:
    moved = np.clip(metres / STEP_M, -1, 1)
    return np.array([*moved, 0, 0, 0, command], np.float32)


def demonstrate(
    table: Picking, task: int, episode: int, noise: float, slips: float = 0.0
) -> tuple[list[Observation], Float32[np.ndarray, "T 7"]]:
    """Return what was seen and what the expert did until it was done, and a little longer.

    Args:
        table: The scene.
        task: Number of the task.
        episode: Number of the episode.
        noise: Deviation of what is done from what is recorded, in steps.
        slips: Share of the actions whose command is done the wrong way round.

    Raises:
        UsageError: The expert failed; it should not.
    """
    rng = np.random.default_rng((table.seed, task, episode, 1))
    table.reset(task, episode)
    seen, done, left = [], [], _AFTER
    for _ in range(table.max_steps + _AFTER):
        action = expert_action(table, task)
        seen.append(table.observation())
        done.append(action)
        shaken = action.copy()
        shaken[:3] += noise * rng.normal(size=3)
        if slips and rng.random() < slips:
            shaken[6] = -shaken[6]
        if table.success():
            shaken[6] = -1.0  # what lies there is let be
            left -= 1
        table.step(shaken)
        if not left:
            return seen, np.stack(done)
    raise UsageError(f"the expert did not finish task {task}, episode {episode}")


def write_demonstrations(out: str | Path, demos: int, config: PickingConfig) -> dict[str, Any]:
    """Write so many demonstrations of every task, a file a task; return what was written.

    Args:
        out: Folder of the files.
        demos: Of each task.
        config: How they are made; episodes of rollouts have another seed.
    """
    table = Picking((config.height, config.width), config.seed)
    folder = Path(out) / SUITE
    folder.mkdir(parents=True, exist_ok=True)
    files, frames = [], 0
    for task, name in enumerate(table.tasks):
        path = folder / f"{name.replace(' ', '_')}_demo.hdf5"
        frames += _write_file(path, table, task, demos, config)
        files.append(str(path))
    table.close()
    return {"files": files, "demos": demos * len(files), "frames": frames}


def _write_file(path: Path, table: Picking, task: int, demos: int, config: PickingConfig) -> int:
    h5py = _h5py()
    total, whole = 0, io.BytesIO()
    with h5py.File(whole, "w") as file:
        data = file.create_group("data")
        told = {
            "problem_name": SUITE,
            "domain_name": "vega3d",
            "language_instruction": table.tasks[task],
        }
        data.attrs["problem_info"] = json.dumps(told)
        data.attrs["env_name"] = SUITE
        data.attrs["macros_image_convention"] = "opengl"
        for number in range(demos):
            seen, actions = demonstrate(table, task, number, config.noise, config.slips)
            _write_demo(data.create_group(f"demo_{number}"), seen, actions)
            total += len(actions)
        data.attrs["num_demos"], data.attrs["total"] = demos, total
    write_whole(path, whole.getvalue())
    return total


def _write_demo(demo: Any, seen: list[Observation], actions: np.ndarray) -> None:  # noqa: ANN401 - h5py's
    states = np.stack([one.proprio for one in seen]).astype(np.float64)
    obs = demo.create_group("obs")
    for camera in CAMERAS:
        frames = np.stack([one.images[camera] for one in seen])
        # Bottom row first, as LIBERO's are.
        obs.create_dataset(
            f"{camera}_rgb", data=frames[:, ::-1], chunks=(1, *frames.shape[1:]), compression="gzip"
        )
    obs.create_dataset("ee_states", data=states[:, :6])
    obs.create_dataset("ee_pos", data=states[:, :3])
    obs.create_dataset("ee_ori", data=states[:, 3:6])
    obs.create_dataset("gripper_states", data=states[:, 6:])
    demo.create_dataset("actions", data=actions.astype(np.float64))
    last = np.zeros(len(actions), np.uint8)
    last[-1] = 1
    demo.create_dataset("dones", data=last)
    demo.create_dataset("rewards", data=last)
    demo.attrs["num_samples"] = len(actions)


def _h5py() -> Any:  # noqa: ANN401 - h5py's module, without types
    try:
        import h5py
    except ImportError as error:
        raise UsageError("demonstrations need h5py; pip install 'vega3d[picking]'") from error
    return h5py
