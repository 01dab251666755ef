"""Numbers of demonstrations: bounds by hand, LIBERO's and LeRobot's files, joining with stores."""

import json
from pathlib import Path

import numpy as np
import pytest
from demos import INSTRUCTION, h5py, write_demos
from layout_writers import lerobot
from pyarrow import Table, array, parquet

from vega3d.pipeline.errors import UsageError
from vega3d.train.demonstrations.bounds import Bounds
from vega3d.train.demonstrations.reading import read_demonstrations


def test_bounds_are_quantiles_commands_are_turned_and_still_numbers_are_zero() -> None:
    moving = np.arange(101, dtype=np.float32)  # 1 % is 1, 99 % is 99
    command = np.where(moving < 50, -1, 1).astype(np.float32)
    table = np.stack([moving, np.full(101, 7.0, np.float32), command], axis=1)
    bounds = Bounds.of([table[:30], table[30:]], commands=True)
    assert (bounds.q01[0], bounds.q99[0]) == pytest.approx((1, 99))
    assert bounds.command == (False, False, True)
    found = bounds.normalised(table[[0, 1, 50, 99, 100]])
    np.testing.assert_allclose(found[:, 0], [-1, -1, 0, 1, 1], atol=1e-6)
    np.testing.assert_array_equal(found[:, 1], 0)
    np.testing.assert_array_equal(found[:, 2], [1, 1, 0, 0, 0])  # -1 opens: 1 is open
    back = bounds.restored(np.array([[0.0, 0.3, 0.6], [1.0, 0.0, 0.4]], np.float32))
    np.testing.assert_allclose(back[:, 0], [50, 99], rtol=1e-6)
    np.testing.assert_allclose(back[:, 1], 7, rtol=1e-6)
    np.testing.assert_array_equal(back[:, 2], [-1, 1])
    again = Bounds.from_json(json.loads(json.dumps(bounds.to_json())))
    assert again == bounds
    assert Bounds.of([table], commands=False).command == (False, False, False)


def test_liberos_actions_states_and_words(tmp_path: Path) -> None:
    path = write_demos(tmp_path / "suite/put_red_demo.hdf5", [5, 4])
    ids = ["put_red_demo/demo_0", "put_red_demo/demo_1"]
    found = read_demonstrations([str(path.parent)], "words", ids)
    episode = found.by_scene["put_red_demo/demo_1"]
    with h5py.File(path) as file:
        demo = file["data/demo_1"]
        np.testing.assert_array_equal(episode.actions, demo["actions"][()].astype(np.float32))
        state = np.hstack([demo["obs/ee_states"][()], demo["obs/gripper_states"][()]])
        np.testing.assert_array_equal(episode.proprio, state.astype(np.float32))
    assert episode.text == INSTRUCTION
    assert episode.action_names[-1] == "gripper"
    # Stores that were extracted one folder further up name the same scenes.
    above = read_demonstrations([str(path.parent)], "words", [f"suite/{name}" for name in ids])
    assert list(above.by_scene) == [f"suite/{name}" for name in ids]
    part = read_demonstrations([str(path)], "words", [ids[0], "other"])
    assert part.notes == (
        "1 scenes have no actions, such as ['other']",
        "1 of 2 demonstrations are of no scene of the stores",
    )
    assert part.digest != found.digest


def test_what_is_no_demonstration_is_said(tmp_path: Path) -> None:
    path = write_demos(tmp_path / "a.hdf5", [3])
    with pytest.raises(UsageError, match="is of a scene of the stores, such as"):
        read_demonstrations([str(path)], "words", ["elsewhere"])
    with pytest.raises(UsageError, match="actions are read from LIBERO's HDF5 files and LeRobot"):
        read_demonstrations(["rooms:2"], "words", ["room0000"])
    with h5py.File(path, "r+") as file:
        file["data/demo_0/actions"][1, 2] = np.nan
    with pytest.raises(UsageError, match="data/demo_0/actions is not finite at frame 1"):
        read_demonstrations([str(path)], "words", ["a/demo_0"])
    with h5py.File(path, "r+") as file:
        del file["data/demo_0/actions"]
    with pytest.raises(UsageError, match="data/demo_0 has no actions"):
        read_demonstrations([str(path)], "words", ["a/demo_0"])


def write_lerobot_actions(root: Path, lengths: list[int]) -> np.ndarray:
    """Add the tables of numbers as LeRobot v3 writes them: the tasks' texts are pandas' index."""
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["action"] = {
        "dtype": "float32", "shape": [2], "names": ["shoulder.pos", "gripper.pos"],
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(info))
    count = sum(lengths)
    numbers = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    rows = {
        "action": array(list(numbers)),
        "observation.state": array(list(np.repeat(numbers, 3, axis=1))),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "frame_index": np.concatenate([np.arange(length) for length in lengths]),
        "task_index": np.repeat(np.arange(len(lengths)), lengths),
    }
    (root / "data/chunk-000").mkdir(parents=True)
    table = Table.from_pydict(rows)
    parquet.write_table(table.slice(0, 3), root / "data/chunk-000/file-000.parquet")
    parquet.write_table(table.slice(3), root / "data/chunk-000/file-001.parquet")
    tasks = Table.from_pydict(
        {"task_index": list(range(len(lengths))), "__index_level_0__": ["lift it", "drop it"]}
    )
    parquet.write_table(tasks, root / "meta/tasks.parquet")
    return numbers


def test_lerobots_actions_states_and_words(tmp_path: Path) -> None:
    lerobot(tmp_path / "arm", {"top": (48, 64)}, [5, 3])
    numbers = write_lerobot_actions(tmp_path / "arm", [5, 3])
    ids = ["episode_000000", "episode_000001"]
    found = read_demonstrations([str(tmp_path / "arm")], "words", ids)
    first, second = found.by_scene.values()
    np.testing.assert_array_equal(first.actions, numbers[:5])  # over two files
    np.testing.assert_array_equal(second.actions, numbers[5:])
    assert second.proprio.shape == (3, 6)
    assert (first.text, second.text) == ("lift it", "drop it")
    assert first.action_names == ("shoulder", "gripper")
    (tmp_path / "arm/data/chunk-000/file-001.parquet").unlink()
    with pytest.raises(UsageError, match="must have a row for each frame of the episode, got 0"):
        read_demonstrations([str(tmp_path / "arm")], "words", ids)
