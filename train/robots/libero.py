"""LIBERO's own simulator: its tasks, initial states and success, at the protocol's limits.

Needs the extra `libero`, and LIBERO's assets (meshes and textures, CC BY 4.0), which hf-libero does
not ship: it fetches them from the hub the first time, or takes the folder that the configuration
file `$LIBERO_CONFIG_PATH/config.yaml` names as `assets`.

Source: moojink/openvla-oft @ 213c5ff, experiments/robot/libero/ (limits, ten steps of waiting, the
state's eight numbers, 256 px).
"""

import io
import os
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vega3d.pipeline.errors import UsageError
from vega3d.train.robots.picking import load_mujoco
from vega3d.train.robots.simulator import Observation, Simulator

LIMITS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Actions of an episode, at most; a little more than the longest demonstration has."""

CAMERAS = {"agentview": "agentview", "robot0_eye_in_hand": "eye_in_hand"}
"""The simulator's names, and those of the demonstrations."""

_WAIT = 10
_NOTHING = np.array([0, 0, 0, 0, 0, 0, -1.0])
_HZ = 20.0


class Libero(Simulator):
    """One of LIBERO's suites."""

    control_hz = _HZ

    def __init__(self, suite: str, size: tuple[int, int] = (256, 256)) -> None:
        """Read the suite's tasks; a simulator is built when an episode of a task begins.

        Raises:
            UsageError: A package is missing.
        """
        if suite not in LIMITS:
            raise UsageError(f"suite must be one of {list(LIMITS)}, got {suite!r}")
        load_mujoco()
        self.suite, self.size, self.max_steps = suite, size, LIMITS[suite]
        self._benchmark = _benchmark(suite)
        self.tasks = tuple(self._benchmark.get_task_names())
        self._built = -1
        self._env: Any = None
        self._seen: Any = None
        self._states: Any = None

    def reset(self, task: int, episode: int) -> str:
        """Begin from the suite's own initial state of that number, and let things come to rest."""
        if self._built != task:
            self._build(task)
        self._env.reset()
        self._seen = self._env.set_init_state(self._states[episode % len(self._states)])
        for _ in range(_WAIT):
            self.step(_NOTHING)
        return str(self._benchmark.get_task(task).language)

    def observation(self) -> Observation:
        """Return both cameras' images, turned upright, and the state of OpenVLA-OFT."""
        seen = self._seen
        quaternion = np.array(seen["robot0_eef_quat"], np.float64)
        state = [*seen["robot0_eef_pos"], *axis_angle(quaternion), *seen["robot0_gripper_qpos"]]
        images = {
            ours: np.ascontiguousarray(seen[f"{theirs}_image"][::-1])
            for theirs, ours in CAMERAS.items()
        }
        return Observation(images=images, proprio=np.array(state, np.float32))

    def step(self, action: Float[np.ndarray, " A"]) -> None:
        """Do an action at 20 Hz."""
        self._seen, *_ = self._env.step(np.asarray(action, np.float64).tolist())

    def success(self) -> bool:
        """Say whether the task's goal holds."""
        return bool(self._env.check_success())

    def close(self) -> None:
        """Free the simulator."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _build(self, task: int) -> None:
        self.close()
        from libero.libero.envs import OffScreenRenderEnv

        path = self._benchmark.get_task_bddl_file_path(task)
        rows, cols = self.size
        try:
            self._env = OffScreenRenderEnv(
                bddl_file_name=path, camera_heights=rows, camera_widths=cols
            )
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.suite}, {self.tasks[task]}: LIBERO cannot build its scene ({error}); its "
                f"assets must lie in {assets_folder()}"
            ) from error
        self._env.seed(0)  # as the protocol does: objects outside of the initial state
        self._states = self._benchmark.get_task_init_states(task)
        self._built = task


def axis_angle(quaternion: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3"]:
    """Return the axis times the angle of x, y, z, w, as robosuite does: angles up to 2 pi."""
    w = float(np.clip(quaternion[3], -1, 1))
    length = np.sqrt(1 - w * w)
    return np.zeros(3) if length < 1e-9 else quaternion[:3] * 2 * np.arccos(w) / length


def assets_folder() -> str:
    """Return where LIBERO looks for its assets before it asks the hub."""
    spec = find_spec("libero")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return str(Path(places[0], "libero", "assets")) if places else "libero/libero/assets"


def _benchmark(suite: str) -> Any:  # noqa: ANN401 - LIBERO's, without types
    _configure()
    try:
        with redirect_stdout(io.StringIO()):  # it talks, and stdout is for the result
            from libero.libero.benchmark import get_benchmark

            return get_benchmark(suite)()
    except ImportError as error:
        raise UsageError(
            f"LIBERO's simulator is not installed ({error}); pip install 'vega3d[libero]'"
        ) from error


def _configure() -> None:
    """Write LIBERO's configuration file where there is none: else it asks on stdin."""
    folder = Path(os.environ.get("LIBERO_CONFIG_PATH") or Path.home() / ".libero")
    path = folder / "config.yaml"
    spec = find_spec("libero")
    if path.exists() or spec is None or not spec.submodule_search_locations:
        return
    root = Path(next(iter(spec.submodule_search_locations))) / "libero"
    places = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": root.parent / "datasets",
        "assets": root / "assets",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}: {place}\n" for name, place in places.items()))
