"""Make the benchmarks' files from rooms: the whole story of `vega3d-benchmark make`."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.evaluate.benchmarks.config import MakingConfig
from vega3d.evaluate.benchmarks.made.answering import scanqa, sqa3d
from vega3d.evaluate.benchmarks.made.balance import choose, with_chances
from vega3d.evaluate.benchmarks.made.blind import blind_predictions
from vega3d.evaluate.benchmarks.made.facts import Facts, room_facts
from vega3d.evaluate.benchmarks.made.formats import MADE, boxes_file, files_of
from vega3d.evaluate.benchmarks.made.question import Question
from vega3d.evaluate.benchmarks.made.referring import multi3drefer, scan2cap, scanrefer
from vega3d.evaluate.benchmarks.made.spatial import vsi
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import write_whole
from vega3d.pipeline.scenes.rooms.rooms import parse_rooms

SPLITS = ("train", "val")
CARD = "made.json"


def make(
    scenes: str, out: str | Path, config: MakingConfig, *, dry_run: bool = False
) -> dict[str, Any]:
    """Write every benchmark's files for procedural rooms; returns how many questions of which need.

    Args:
        scenes: `rooms:N`, with the options that the features are extracted with.
        out: Folder; `blind/` holds the predictions of a model that sees no room.
        config: How many questions, and which rooms are for validation.
        dry_run: Write nothing.

    Raises:
        UsageError: `scenes` are no rooms.
    """
    if not scenes.startswith("rooms:"):
        raise UsageError(f"questions are made for procedural rooms, rooms:N, got {scenes!r}")
    try:
        rooms = parse_rooms(scenes)
    except ValueError as error:
        raise UsageError(str(error)) from error
    facts = {entry.scene_id: room_facts(rooms, entry.scene_id) for entry in rooms.entries()}
    split = split_rooms(list(facts), config)
    questions = {
        (benchmark, name): _asked(benchmark, [facts[room] for room in split[name]], config)
        for benchmark in MADE
        for name in SPLITS
    }
    files = _files(questions, facts, split, config)
    card = _card(scenes, config, split, questions)
    if not dry_run:
        Path(out, "blind").mkdir(parents=True, exist_ok=True)
        for name, content in {**files, CARD: card}.items():
            write_whole(Path(out, name), _text(name, content).encode())
    return {"out": str(out), "files": sorted(files), **card["questions"]}


def split_rooms(scene_ids: Sequence[str], config: MakingConfig) -> dict[str, list[str]]:
    """Return which rooms are for training and which for validation; at least one for the latter."""
    order = np.random.default_rng([config.seed, 1]).permutation(len(scene_ids))
    count = max(1, round(config.val_share * len(scene_ids)))
    chosen = {scene_ids[i] for i in order[:count]}
    return {name: [s for s in scene_ids if (s in chosen) == (name == "val")] for name in SPLITS}


def ask(benchmark: str, facts: Facts, seed: int) -> Iterator[Question]:
    """Yield every question of a benchmark that a room's facts answer."""
    if benchmark == "vsi":
        number = int.from_bytes(facts.scene_id.encode()[-4:], "big")
        yield from vsi(facts, np.random.default_rng([seed, 2, number]))
        return
    asking = {
        "scanrefer": scanrefer,
        "multi3drefer": multi3drefer,
        "scan2cap": scan2cap,
        "scanqa": scanqa,
        "sqa3d": sqa3d,
    }
    yield from asking[benchmark](facts)


def _asked(benchmark: str, rooms: Sequence[Facts], config: MakingConfig) -> list[Question]:
    pool = [question for facts in rooms for question in ask(benchmark, facts, config.seed)]
    rng = np.random.default_rng([config.seed, 3, MADE.index(benchmark)])
    return with_chances(choose(pool, config.per_room, rng))


def _files(
    questions: Mapping[tuple[str, str], list[Question]],
    facts: Mapping[str, Facts],
    split: Mapping[str, Sequence[str]],
    config: MakingConfig,
) -> dict[str, Any]:
    files: dict[str, Any] = {}
    for name in SPLITS:
        files |= boxes_file(name, {room: facts[room] for room in split[name]})
        for benchmark in MADE:
            files |= files_of(benchmark, name, questions[benchmark, name], facts)
    for benchmark in MADE:
        files[f"blind/{benchmark}.jsonl"] = blind_predictions(
            benchmark,
            questions[benchmark, "train"],
            questions[benchmark, "val"],
            facts,
            np.random.default_rng([config.seed, 4]),
        )
    return files


def _card(
    scenes: str,
    config: MakingConfig,
    split: Mapping[str, Sequence[str]],
    questions: Mapping[tuple[str, str], list[Question]],
) -> dict[str, Any]:
    """Return what was made: counts by need, and what a blind guess is worth."""
    told = {
        benchmark: {
            name: {
                "questions": len(questions[benchmark, name]),
                "needs": dict(Counter(q.needs for q in questions[benchmark, name])),
                "chance": round(float(np.mean([q.chance for q in questions[benchmark, name]])), 4)
                if questions[benchmark, name]
                else None,
            }
            for name in SPLITS
        }
        for benchmark in MADE
    }
    return {
        "scenes": scenes,
        "seed": config.seed,
        "per_room": config.per_room,
        "rooms": {name: list(split[name]) for name in SPLITS},
        "questions": told,
    }


def _text(name: str, content: Any) -> str:  # noqa: ANN401 - any JSON value
    if name.endswith(".jsonl"):
        return "".join(f"{json.dumps(record)}\n" for record in content)
    return json.dumps(content, indent=1) + "\n"
