"""Actions and states of LIBERO's HDF5 demonstrations.

An action is a step of the gripper along and about the world's axes, each in -1..1 of the
controller's range, and the gripper's command. The state is OpenVLA-OFT's: position, axis-angle
orientation, and both fingers.

LIBERO's own files hold in row i what was seen AFTER action i; what OpenVLA regenerated, and most
others, what was seen before it. `action_offset` of the task says which.

Source: Lifelong-Robot-Learning/LIBERO @ 8f1084e, scripts/create_dataset.py; moojink/openvla-oft @
213c5ff, experiments/robot/libero/regenerate_libero_dataset.py.
"""

import numpy as np

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.captures import Place
from vega3d.pipeline.scenes.libero import instruction, numbers, opened
from vega3d.train.demonstrations.episode import Episode, as_table

NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
_STATES = ("ee_states", "gripper_states")


def read_episode(place: Place, scene_id: str) -> Episode:
    """Return what was done in a demo; raises SceneError or UsageError where it does not say."""
    inside = f"data/{place.part}"
    with opened(place.path) as file:
        actions = numbers(file, f"{inside}/actions", place.path)
        states = [numbers(file, f"{inside}/obs/{name}", place.path) for name in _STATES]
        text = instruction(file)
    if actions is None:
        raise UsageError(f"{place.path}: {inside} has no actions")
    actions = as_table(actions, f"{place.path}: {inside}/actions")
    tables = [
        as_table(found, f"{place.path}: {inside}/obs/{name}")
        for name, found in zip(_STATES, states, strict=True)
        if found is not None
    ]
    if any(len(table) != len(actions) for table in tables):
        raise UsageError(f"{place.path}: {inside} must have as many states as actions")
    count = actions.shape[1]
    names = NAMES if count == len(NAMES) else tuple(str(number) for number in range(count))
    none = np.zeros((len(actions), 0), np.float32)
    return Episode(
        scene_id=scene_id,
        text=text,
        actions=actions,
        proprio=np.concatenate(tables, axis=1) if tables else none,
        action_names=names,
    )
