"""Roll a policy out: an episode after the other, its success by the benchmark's own count.

Every episode is kept as soon as it is done; the same command goes on with those that are left.

Source of the protocol: moojink/openvla-oft @ 213c5ff, experiments/robot/libero/run_libero_eval.py
(the whole chunk is done before the next look).
"""

import json
import logging
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32

from vega3d.evaluate.benchmarks import page
from vega3d.evaluate.benchmarks.catalogue import score
from vega3d.evaluate.benchmarks.libero import wilson
from vega3d.evaluate.benchmarks.measures import intervals
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import write_whole
from vega3d.train.robots.config import RolloutConfig
from vega3d.train.robots.simulator import Observation, Simulator
from vega3d.train.robots.videos import side_by_side, write_video

EPISODES = "episodes.jsonl"
_WHAT = "rollout.json"
_log = logging.getLogger(__name__)


class Acts(Protocol):
    """What is rolled out: a `Policy`, or anything that says what to do next."""

    seconds: dict[str, list[float]]
    """How long each look took, by part."""

    def act(
        self, seen: Observation, text: str, *, scene_id: str, frame: int
    ) -> Float32[np.ndarray, "K A"]:
        """Return the next actions."""
        ...


@dataclass
class _Times:
    look: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)


def roll_out(
    policy: Acts,
    simulator: Simulator,
    out: str | Path,
    config: RolloutConfig,
    policy_id: str,
) -> dict[str, Any]:
    """Roll a policy out on a suite, and leave records, videos and a page in `out`.

    Args:
        policy: What acts.
        simulator: The suite.
        out: Folder of what is left; the same one goes on.
        config: Which tasks, how many episodes.
        policy_id: What the policy is known by; another one may not go on here.

    Raises:
        UsageError: `out` holds another rollout, or the suite has no such task.
    """
    folder = Path(out)
    tasks = config.tasks or tuple(range(len(simulator.tasks)))
    if bad := [task for task in tasks if task >= len(simulator.tasks)]:
        raise UsageError(f"{simulator.suite} has {len(simulator.tasks)} tasks, not {bad[0]}")
    done = _begin(folder, config, policy_id)
    times = _Times()
    for task, episode in ((t, e) for t in tasks for e in range(config.episodes)):
        key = (simulator.tasks[task], str(episode))
        if key in done:
            continue
        record, frames = _episode(policy, simulator, task, episode, config, times)
        if episode < config.videos:
            name = f"{task:02d}_{episode:03d}_{'success' if record['success'] else 'failure'}.mp4"
            write_video(folder / "videos" / name, frames, simulator.control_hz)
        done[key] = record
        lines = "".join(json.dumps(each) + "\n" for each in done.values())
        write_whole(folder / EPISODES, lines.encode())
        _log.info("%s, episode %s: %s", *key, "success" if record["success"] else "failure")
    return _report(folder, policy, times, list(done.values()))


def _begin(
    folder: Path, config: RolloutConfig, policy_id: str
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the episodes that were done before."""
    folder.mkdir(parents=True, exist_ok=True)
    changeable = ("episodes", "tasks", "videos", "device")
    fixed = {name: value for name, value in asdict(config).items() if name not in changeable}
    what = {"policy": policy_id, **fixed}
    path = folder / _WHAT
    if path.exists() and (before := json.loads(path.read_text())) != what:
        differing = sorted(n for n in what.keys() | before.keys() if what.get(n) != before.get(n))
        raise UsageError(
            f"{folder} holds another rollout: {', '.join(differing)} differ. Choose another --out"
        )
    write_whole(path, (json.dumps(what, indent=1) + "\n").encode())
    if not (folder / EPISODES).exists():
        return {}
    lines = [json.loads(line) for line in (folder / EPISODES).read_text().splitlines()]
    return {(line["task"], line["episode"]): line for line in lines}


def _episode(
    policy: Acts,
    simulator: Simulator,
    task: int,
    episode: int,
    config: RolloutConfig,
    times: _Times,
) -> tuple[dict[str, Any], list[np.ndarray]]:
    text = simulator.reset(task, episode)
    scene_id = f"{simulator.suite}/{task}/{episode}"
    limit = config.max_steps or simulator.max_steps
    frames: list[np.ndarray] = []
    filmed = episode < config.videos
    steps = 0
    while steps < limit and not simulator.success():
        began = time.perf_counter()
        seen = simulator.observation()
        times.look.append(time.perf_counter() - began)
        chunk = policy.act(seen, text, scene_id=scene_id, frame=steps)
        decided = time.perf_counter()
        before = steps
        for action in _of_chunk(chunk, config.open_loop, limit - steps):
            if filmed:
                frames.append(side_by_side(list(simulator.observation().images.values())))
            stepped = time.perf_counter()
            simulator.step(action)
            times.step.append(time.perf_counter() - stepped)
            steps += 1
            if simulator.success():
                break
        done = steps - before
        times.control.append((decided - began + sum(times.step[-done:])) / done)
    if filmed:
        frames.append(side_by_side(list(simulator.observation().images.values())))
    record = {
        "suite": simulator.suite,
        "task": simulator.tasks[task],
        "episode": str(episode),
        "success": simulator.success(),
        "steps": steps,
    }
    return record, frames


def _of_chunk(chunk: np.ndarray, open_loop: int, left: int) -> Iterator[np.ndarray]:
    yield from chunk[: min(open_loop or len(chunk), left)]


def _report(
    folder: Path, policy: Acts, times: _Times, records: list[dict[str, Any]]
) -> dict[str, Any]:
    scored = score("libero", "", folder / EPISODES)
    between = intervals(scored)
    places = page.write(scored, between, {}, str(folder), worst=0)
    by_task = {}
    for name in dict.fromkeys(record["task"] for record in records):
        outcomes = [record["success"] for record in records if record["task"] == name]
        by_task[name] = _rate(outcomes)
    parts = {
        "look": times.look,
        **policy.seconds,
        "step": times.step,
        "control_step": times.control,
    }
    return {
        "out": str(folder),
        "success": _rate([record["success"] for record in records]),
        "tasks": by_task,
        "steps": statistics.median(record["steps"] for record in records),
        "median_s": {name: round(statistics.median(t), 4) for name, t in parts.items() if t},
        **places,
    }


def _rate(outcomes: list[bool]) -> dict[str, Any]:
    low, high = wilson(sum(outcomes), len(outcomes))
    return {
        "rate": round(sum(outcomes) / len(outcomes), 4),
        "wilson95": [round(low, 4), round(high, 4)],
        "episodes": len(outcomes),
    }
