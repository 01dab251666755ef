"""A small table in MuJoCo: bring the cube of one colour to the pad, among cubes of other colours.

A gantry moves a suction cup; action and state are LIBERO's: steps along x, y, z in -1..1 of 3 cm,
three turns that do nothing here, and a command (-1 lets go, 1 holds). Colours, places, the pad and
the light differ from episode to episode, so appearance says which cube, geometry where to.

Needs mujoco (extra `picking`) and a way to draw: MUJOCO_GL=egl, or osmesa with Debian's
libosmesa6; osmesa is taken where nothing is said and there is no display.
"""

import os
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from vega3d.pipeline.errors import UsageError
from vega3d.train.robots.simulator import Observation, Simulator

SUITE = "picking"
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.1),
    "green": (0.1, 0.6, 0.2),
    "blue": (0.1, 0.25, 0.85),
}
CAMERAS = ("agentview", "eye_in_hand")
STEP_M = 0.03
HALF_M = 0.022
HOME = (0.0, -0.02, 0.2)
"""Where the cup begins, metres."""

_NO_DRAWING = (
    "MuJoCo has nothing to draw with ({}: {}): install Debian's libosmesa6 and set "
    "MUJOCO_GL=osmesa, or MUJOCO_GL=egl on a GPU"
)
_REACH = ((-0.2, 0.2), (-0.2, 0.2), (0.035, 0.24))
_PLACES = 0.15
_PAD_M = 0.045
_APART_M = 0.085
_HOLD_M = 0.018
_SUBSTEPS = 20
_SETTLE = 10


class Picking(Simulator):
    """The table; one task a colour."""

    suite = SUITE
    tasks = tuple(f"put the {colour} cube on the pad" for colour in COLOURS)
    max_steps = 70
    control_hz = 10.0

    def __init__(self, size: tuple[int, int] = (128, 160), seed: int = 0) -> None:
        """Build the scene.

        Args:
            size: Rows and columns of each camera's image, px.
            seed: Of the episodes.

        Raises:
            UsageError: MuJoCo is missing, or there is nothing to draw with.
        """
        self._mujoco = load_mujoco()
        self.size, self.seed = size, seed
        self._model = self._mujoco.MjModel.from_xml_string(_xml(size))
        self._data = self._mujoco.MjData(self._model)
        self._cubes = [self._model.body(colour).id for colour in COLOURS]
        self._cup, self._pad = self._model.body("cup").id, self._model.body("pad").mocapid[0]
        self._wanted, self._command = 0, -1.0
        try:
            self._renderer = self._mujoco.Renderer(self._model, *size)
        except Exception as error:  # MuJoCo raises whatever the library behind it does
            raise UsageError(_NO_DRAWING.format(type(error).__name__, error)) from error

    def reset(self, task: int, episode: int) -> str:
        """Place cubes and pad anew."""
        rng = np.random.default_rng((self.seed, task, episode))
        self._mujoco.mj_resetData(self._model, self._data)
        self._wanted, self._command = task, -1.0
        places = _places(rng, len(COLOURS) + 1)
        for joint, (x, y) in zip(COLOURS, places, strict=False):
            turn = rng.uniform(-np.pi, np.pi) / 2
            pose = [x, y, HALF_M, np.cos(turn), 0, 0, np.sin(turn)]
            self._data.joint(f"{joint}_free").qpos = pose
        self._data.mocap_pos[self._pad] = [*places[-1], 0.001]
        for axis, value in zip("xyz", HOME, strict=True):
            self._data.joint(f"cup_{axis}").qpos = value
        self._data.ctrl[:] = HOME
        self._data.eq_active[:] = 0
        self._model.light_diffuse[:] = rng.uniform(0.5, 0.8)
        for _ in range(_SETTLE):
            self._mujoco.mj_step(self._model, self._data)
        return self.tasks[task]

    def observation(self) -> Observation:
        """Return both cameras' images and the cup's state."""
        images = {}
        for camera in CAMERAS:
            self._renderer.update_scene(self._data, camera)
            images[camera] = self._renderer.render().copy()
        finger = 0.0 if self._command > 0 else 0.04
        state = [*self.cup(), 0, 0, 0, finger, -finger]
        return Observation(images=images, proprio=np.array(state, np.float32))

    def step(self, action: Float[np.ndarray, " A"]) -> None:
        """Move the cup, and hold or let go."""
        moved = self._data.ctrl + STEP_M * np.clip(action[:3], -1, 1)
        self._data.ctrl[:] = np.clip(moved, *np.array(_REACH).T)
        self._command = 1.0 if action[6] > 0 else -1.0
        if self._command < 0:
            self._data.eq_active[:] = 0
        elif not self._data.eq_active.any():
            self._hold()
        for _ in range(_SUBSTEPS):
            self._mujoco.mj_step(self._model, self._data)

    def success(self) -> bool:
        """Say whether the cube lies on the pad and was let go."""
        cube, pad = self.cube(self._wanted), self.pad()
        near = np.abs(cube[:2] - pad[:2]).max() < _PAD_M
        return bool(near and cube[2] < 2 * HALF_M and not self._data.eq_active.any())

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()

    def cup(self) -> Float64[np.ndarray, "3"]:
        """Return where the cup's tip is, metres."""
        return np.array([self._data.joint(f"cup_{axis}").qpos[0] for axis in "xyz"])

    def cube(self, number: int) -> Float64[np.ndarray, "3"]:
        """Return where a cube's centre is, metres."""
        return np.array(self._data.xpos[self._cubes[number]])

    def pad(self) -> Float64[np.ndarray, "3"]:
        """Return where the pad's centre is, metres."""
        return np.array(self._data.mocap_pos[self._pad])

    def holds(self) -> bool:
        """Say whether a cube hangs at the cup."""
        return bool(self._data.eq_active.any())

    def _hold(self) -> None:
        """Let the nearest cube hang at the cup, as it lies, where its top is within reach."""
        tops = np.stack([self.cube(n) for n in range(len(COLOURS))]) + np.array([0, 0, HALF_M])
        away = np.linalg.norm((tops - self.cup()) / [1, 1, 0.8], axis=1)
        nearest = int(away.argmin())
        if away[nearest] > _HOLD_M:
            return
        cup, cube = self._data.body("cup"), self._data.body(list(COLOURS)[nearest])
        inverse, turned, placed = np.zeros(4), np.zeros(4), np.zeros(3)
        self._mujoco.mju_negQuat(inverse, cup.xquat)
        self._mujoco.mju_mulQuat(turned, inverse, cube.xquat)
        self._mujoco.mju_rotVecQuat(placed, cube.xpos - cup.xpos, inverse)
        self._model.eq_data[nearest, 3:6] = placed
        self._model.eq_data[nearest, 6:10] = turned
        self._data.eq_active[nearest] = 1


def load_mujoco() -> Any:  # noqa: ANN401 - MuJoCo's module, without types
    """Return MuJoCo, which reads MUJOCO_GL when it is loaded.

    Raises:
        UsageError: It is missing.
    """
    if not os.environ.get("MUJOCO_GL") and not os.environ.get("DISPLAY"):
        os.environ["MUJOCO_GL"] = "osmesa"
    try:
        import mujoco
    except ImportError as error:
        raise UsageError(
            f"the simulator needs mujoco ({error}); pip install 'vega3d[picking]'"
        ) from error
    except (AttributeError, OSError) as error:  # what PyOpenGL says where its library is missing
        raise UsageError(_NO_DRAWING.format(type(error).__name__, error)) from error
    return mujoco


def _places(rng: np.random.Generator, count: int) -> Float64[np.ndarray, "N 2"]:
    """Draw places on the table that are apart from one another."""
    found: list[np.ndarray] = []
    while len(found) < count:
        place = rng.uniform(-_PLACES, _PLACES, size=2)
        if all(np.abs(place - other).max() > _APART_M for other in found):
            found.append(place)
        elif rng.random() < 0.02:
            found.clear()  # no room is left: begin again
    return np.stack(found)


def _xml(size: tuple[int, int]) -> str:
    cubes = "".join(
        f'<body name="{name}" pos="0 0 1"><freejoint name="{name}_free"/>'
        f'<geom type="box" size="{HALF_M} {HALF_M} {HALF_M}" rgba="{r} {g} {b} 1" mass="0.05" '
        f'friction="1.2 0.01 0.001"/></body>'
        for name, (r, g, b) in COLOURS.items()
    )
    welds = "".join(
        f'<weld body1="cup" body2="{name}" active="false" solref="0.01 1"/>' for name in COLOURS
    )
    slides = "".join(
        f'<joint name="cup_{name}" type="slide" axis="{axis}" damping="20"/>'
        for name, axis in (("x", "1 0 0"), ("y", "0 1 0"), ("z", "0 0 1"))
    )
    motors = "".join(
        f'<position joint="cup_{name}" kp="600" forcerange="-60 60"/>' for name in "xyz"
    )
    return f"""
<mujoco>
  <option timestep="0.005" integrator="implicitfast"/>
  <visual>
    <global offwidth="{size[1]}" offheight="{size[0]}"/>
    <quality shadowsize="0" offsamples="1"/>
    <headlight ambient="0.4 0.4 0.4" diffuse="0.2 0.2 0.2" specular="0 0 0"/>
  </visual>
  <worldbody>
    <light pos="0.3 -0.4 1.2" dir="-0.2 0.3 -1" diffuse="0.7 0.7 0.7" castshadow="false"/>
    <camera name="agentview" pos="0 -0.5 0.52" xyaxes="1 0 0 0 0.72 0.69" fovy="42"/>
    <geom name="table" type="box" size="0.3 0.3 0.02" pos="0 0 -0.02" rgba="0.75 0.68 0.58 1"/>
    <geom type="plane" size="3 3 0.1" pos="0 0 -0.3" rgba="0.35 0.37 0.4 1"/>
    <geom type="box" size="3 0.02 1" pos="0 0.7 0" rgba="0.6 0.63 0.66 1"/>
    <body name="pad" mocap="true" pos="0 0 0.001">
      <geom type="box" size="{_PAD_M} {_PAD_M} 0.001" rgba="0.95 0.9 0.2 1" contype="0"
        conaffinity="0"/>
    </body>
    <body name="cup" gravcomp="1">
      {slides}
      <geom type="cylinder" size="0.012 0.02" pos="0 0 0.02" rgba="0.1 0.1 0.1 1" mass="0.2"
        contype="0" conaffinity="0"/>
      <geom type="box" size="0.03 0.012 0.012" pos="0 0 0.052" rgba="0.8 0.8 0.85 1" mass="0.1"
        contype="0" conaffinity="0"/>
      <camera name="eye_in_hand" pos="0 -0.07 0.05" xyaxes="1 0 0 0 0.92 0.39" fovy="75"/>
    </body>
    {cubes}
  </worldbody>
  <equality>{welds}</equality>
  <actuator>{motors}</actuator>
</mujoco>"""
