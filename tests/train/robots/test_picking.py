"""The small table in MuJoCo: its rules, its expert, demonstrations that are read as LIBERO's."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

if find_spec("mujoco") is None or find_spec("h5py") is None:
    pytest.skip("needs mujoco and h5py", allow_module_level=True)

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.train.demonstrations.reading import read_demonstrations
from vega3d.train.robots.config import PickingConfig
from vega3d.train.robots.expert import demonstrate, expert_action, write_demonstrations
from vega3d.train.robots.picking import Picking

AFTER = 8


@pytest.fixture(scope="module")
def table() -> Picking:
    try:
        return Picking((32, 40), seed=5)
    except UsageError as error:
        pytest.skip(str(error))


def test_an_episode_is_the_same_for_the_same_numbers(table: Picking) -> None:
    assert table.reset(1, 3) == "put the green cube on the pad"
    places = [table.cube(n) for n in range(3)]
    first = table.observation()
    assert {name: image.shape for name, image in first.images.items()} == {
        "agentview": (32, 40, 3), "eye_in_hand": (32, 40, 3),
    }  # fmt: skip
    table.step(np.array([1, 1, 1, 0, 0, 0, 1.0]))
    table.reset(1, 4)
    assert not np.allclose(table.cube(0), places[0])
    table.reset(1, 3)
    np.testing.assert_allclose([table.cube(n) for n in range(3)], places, atol=1e-9)
    again = table.observation()
    for name, image in first.images.items():
        np.testing.assert_array_equal(image, again.images[name])


def test_an_action_is_a_step_of_three_centimetres(table: Picking) -> None:
    table.reset(0, 0)
    before = table.cup()
    table.step(np.array([1, -0.5, 0, 0, 0, 0, -1.0]))
    np.testing.assert_allclose(table.cup() - before, [0.03, -0.015, 0], atol=2e-3)
    assert table.observation().proprio[:3] == pytest.approx(table.cup(), abs=1e-6)


def test_a_cube_is_held_from_near_alone_and_counts_when_it_was_let_go(table: Picking) -> None:
    table.reset(2, 1)
    hold = np.array([0, 0, 0, 0, 0, 0, 1.0])
    table.step(hold)
    assert not table.holds()
    while not table.holds():
        table.step(expert_action(table, 2))
    while np.abs((table.cube(2) - table.pad())[:2]).max() > 0.02 or table.cube(2)[2] > 0.04:
        before = table.cube(2)
        action = expert_action(table, 2)
        action[6] = 1  # never lets go
        table.step(action)
        assert table.holds()
        if np.linalg.norm(table.cube(2) - before) < 1e-4:
            break
    assert not table.success()
    table.step(-hold)
    assert table.success()
    assert not any(np.abs((table.cube(n) - table.pad())[:2]).max() < 0.045 for n in (0, 1))


def test_the_expert_brings_every_cube_to_the_pad(table: Picking) -> None:
    done = [demonstrate(table, task, 10 + task, noise=0.2)[1] for task in range(3)]
    assert max(len(actions) for actions in done) < table.max_steps / 2 + AFTER
    for actions in done:  # it lets go long before the last frame, and does not take it up again
        assert (actions[-AFTER - 1 :, 6] == -1).all()
        assert actions[-AFTER, 2] > 0.5


def test_the_expert_comes_back_from_a_cup_that_closed_on_nothing(table: Picking) -> None:
    finger, command, height = -2, 6, 2
    found = []
    for episode in range(6):
        seen, done = demonstrate(table, 1, 40 + episode, noise=0.2, slips=0.1)
        assert table.success()
        for one, action in zip(seen, done, strict=True):
            closed = one.proprio[finger] == 0
            found.append(closed and action[command] < 0 and one.proprio[height] > 0.08)
    assert any(found)  # high up with a closed cup: it opens, for there is nothing in it


def test_demonstrations_are_read_as_liberos(table: Picking, tmp_path: Path) -> None:
    config = PickingConfig(height=32, width=40, seed=5, noise=0.0, slips=0.0)
    made = write_demonstrations(tmp_path, 1, config)
    assert (made["demos"], len(made["files"])) == (3, 3)
    source = read_scenes(str(tmp_path / "picking"))
    ids = [entry.scene_id for entry in source.entries()]
    wanted = "put_the_blue_cube_on_the_pad_demo/demo_0"
    assert wanted in ids
    assert sum(entry.num_views for entry in source.entries()) == 2 * made["frames"]
    table.reset(2, 0)
    seen = table.observation()
    scene = source.read(wanted)
    by_name = {view.view_id: view for view in scene.views}
    for camera, image in seen.images.items():
        np.testing.assert_array_equal(by_name[f"{camera}/000000"].read_rgb(), image)
    episode = read_demonstrations([str(tmp_path / "picking")], "words", ids).by_scene[wanted]
    assert episode.text == "put the blue cube on the pad"
    np.testing.assert_allclose(episode.proprio[0], seen.proprio, atol=1e-6)
    for action in episode.actions[:-AFTER]:  # without noise, what is recorded was done
        assert not table.success()
        table.step(action)
    for action in episode.actions[-AFTER:]:
        assert table.success()
        table.step(action)
