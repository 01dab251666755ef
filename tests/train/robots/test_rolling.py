"""Rollouts of a plain policy in a world of one line: what is done, counted, kept, gone on with."""

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from vega3d.evaluate.benchmarks.catalogue import score
from vega3d.evaluate.benchmarks.libero import wilson
from vega3d.pipeline.errors import UsageError
from vega3d.train.robots.config import RolloutConfig
from vega3d.train.robots.making import parse_picking
from vega3d.train.robots.rolling import roll_out
from vega3d.train.robots.simulator import Observation, Simulator

CONFIG = RolloutConfig(episodes=3, videos=1)


class Line(Simulator):
    """A point that must pass 5; episode e begins at e."""

    suite = "picking"
    tasks = ("go right", "go left")
    max_steps = 12
    control_hz = 10.0

    def __init__(self) -> None:
        self.at, self.sign, self.begun = 0.0, 1.0, list[tuple[int, int]]()

    def reset(self, task: int, episode: int) -> str:
        self.at, self.sign = float(episode), 1.0 - 2.0 * task
        self.begun.append((task, episode))
        return self.tasks[task]

    def observation(self) -> Observation:
        picture = np.full((17, 20, 3), 10 * int(abs(self.at)), np.uint8)
        return Observation(images={"front": picture}, proprio=np.array([self.at], np.float32))

    def step(self, action: np.ndarray) -> None:
        self.at += float(action[0])

    def success(self) -> bool:
        return self.at * self.sign >= 5

    def close(self) -> None:
        pass


class Right:
    """Goes right, two steps at a time, whatever it is told."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"encode": []}
        self.looks: list[tuple[str, int, float]] = []

    def act(self, seen: Observation, text: str, *, scene_id: str, frame: int) -> np.ndarray:
        self.looks.append((scene_id, frame, float(seen.proprio[0])))
        self.seconds["encode"].append(0.5)
        return np.ones((2, 1), np.float32)


def test_chunks_are_done_whole_success_ends_an_episode_and_the_limit_too(tmp_path: Path) -> None:
    line, policy = Line(), Right()
    found = roll_out(policy, line, tmp_path, CONFIG, "p")
    # Going right from 0 passes 5 at the fifth step: after looks at 0, 2 and 4.
    first = "picking/0/0"
    assert policy.looks[:3] == [(first, 0, 0.0), (first, 2, 2.0), (first, 4, 4.0)]
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [(each["success"], each["steps"]) for each in lines] == [
        (True, 5), (True, 4), (True, 3), (False, 12), (False, 12), (False, 12),
    ]  # fmt: skip
    low, high = wilson(3, 6)
    assert found["success"] == {
        "rate": 0.5, "wilson95": [round(low, 4), round(high, 4)], "episodes": 6,
    }  # fmt: skip
    assert found["tasks"]["go right"]["rate"] == 1
    assert found["median_s"]["encode"] == 0.5
    assert score("libero", "", tmp_path / "episodes.jsonl").values["success overall"] == 50
    videos = sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert videos == ["00_000_success.mp4", "01_000_failure.mp4"]
    with av.open(str(tmp_path / "videos/00_000_success.mp4")) as video:
        shown = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert [frame.shape for frame in shown] == [(16, 20, 3)] * 6  # before each step, and the end
    assert abs(float(shown[-1].mean()) - 50) < 3
    assert "go right" in (tmp_path / "score.html").read_text()


def test_fewer_steps_of_a_chunk_are_more_looks(tmp_path: Path) -> None:
    policy = Right()
    roll_out(policy, Line(), tmp_path, replace(CONFIG, open_loop=1, tasks=(0,), episodes=1), "p")
    assert [look[1] for look in policy.looks] == [0, 1, 2, 3, 4]


def test_the_same_command_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    one = replace(CONFIG, episodes=1, videos=0)
    roll_out(Right(), Line(), tmp_path, one, "p")
    line = Line()
    found = roll_out(Right(), line, tmp_path, replace(one, episodes=2), "p")
    assert line.begun == [(0, 1), (1, 1)]
    assert found["success"]["episodes"] == 4
    with pytest.raises(UsageError, match="another rollout: policy, weights differ"):
        roll_out(Right(), Line(), tmp_path, replace(one, weights="untrained"), "other")
    with pytest.raises(UsageError, match="has 2 tasks, not 2"):
        roll_out(Right(), Line(), tmp_path / "b", replace(one, tasks=(2,)), "p")


def test_a_location_of_demonstrations() -> None:
    demos, config = parse_picking("picking:7?height=64&noise=0.1", seed=3)
    assert (demos, config.height, config.width, config.noise, config.seed) == (7, 64, 160, 0.1, 3)
    for bad in (
        "picking:",
        "picking:0",
        "picking:3?speed=1",
        "picking:3?noise=2",
        "picking:3?slips=1",
    ):
        with pytest.raises(UsageError, match="write picking:50"):
            parse_picking(bad, 0)
