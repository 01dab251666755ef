"""Annotated questions of the stores' scenes, as arrays that a batch takes its part of.

Letters: E numbers of a text's vector, O candidate boxes of a scene, A answers to choose from.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32

from vega3d.pipeline.backbones.text import embed_texts
from vega3d.pipeline.errors import UsageError
from vega3d.train.annotations.item import Annotations, Box, Item
from vega3d.train.annotations.joining import join
from vega3d.train.asked import NEEDS, Asked
from vega3d.train.config import TrainConfig
from vega3d.train.order import Sample, Split, given_split, split_scenes
from vega3d.train.phrases import MOST, phrases
from vega3d.train.randomness import seed_of
from vega3d.train.tasks.asking import AskingTask
from vega3d.train.tasks.registry import task_class

_MIN_IOU = 0.5


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is asked about a pairing's scenes, before a config says which tasks ask."""

    annotations: Annotations
    by_scene: dict[str, list[Item]]
    text_model: str
    files: tuple[str, ...]
    notes: tuple[str, ...]
    embed: Callable[[str, Sequence[str]], Float32[np.ndarray, "T E"]] = field(default=embed_texts)

    @cached_property
    def digest(self) -> str:
        """Return what the questions are known by: items, boxes and the texts' encoder."""
        items = [asdict(item) for items in self.by_scene.values() for item in items]
        told = json.dumps([items, sorted(self.annotations.candidates.items()), self.text_model])
        return hashlib.sha256(told.encode()).hexdigest()

    def split(self) -> tuple[set[str], set[str]] | None:
        """Return the scenes that the files give for training and for scoring, if they say."""
        sides: tuple[set[str], set[str]] = (set(), set())
        for scene_id, items in self.by_scene.items():
            for item in items:
                if item.split:
                    sides[item.split != "train"].add(scene_id)
        train, val = sides
        return (train, val - train) if train and val - train else None


def read_questions(files: Sequence[str], text_model: str, scene_ids: Sequence[str]) -> Questions:
    """Read annotation files and join them with scenes.

    Raises:
        UsageError: A file is malformed, or none of its scenes is there.
    """
    from vega3d.train.annotations.published import read_annotations  # the benchmarks' formats

    annotations = read_annotations(files)
    by_scene, notes = join(annotations.items, scene_ids)
    return Questions(
        annotations=annotations,
        by_scene=by_scene,
        text_model=text_model,
        files=tuple(files),
        notes=notes,
    )


def asks_scenes(config: TrainConfig) -> bool:
    """Tell whether a task asks annotated questions, which belong to scenes and not to views."""
    return any(task_class(name).asks_scenes for name in config.tasks)


def run_split(questions: Questions | None, num_views: dict[str, int], config: TrainConfig) -> Split:
    """Return the split that the annotation files give; where they give none, the config's."""
    sides = questions.split() if questions and asks_scenes(config) else None
    return given_split(num_views, sides, config) if sides else split_scenes(num_views, config)


class QuestionTable:
    """The questions of a run's tasks."""

    def __init__(self, questions: Questions, config: TrainConfig) -> None:
        """Embed all texts, or take them from the cache.

        Raises:
            UsageError: The texts' vectors have another width than the config's.
        """
        self.per_sample = config.questions_per_sample
        self.tasks = {
            name: _TaskQuestions(name, questions, config.text_dim)
            for name in config.tasks
            if task_class(name).asks_scenes
        }

    def asked(self, request: Sequence[Sample], seed: int) -> dict[str, Asked]:
        """Return each task's questions of the samples: drawn for training, all when scored."""
        return {
            name: task.asked([self._drawn(name, sample, seed) for sample in request], request)
            for name, task in self.tasks.items()
        }

    def _drawn(self, name: str, sample: Sample, seed: int) -> list[int]:
        rows = self.tasks[name].rows.get(sample.scene_id, [])
        if sample.epoch < 0 or not rows:
            return rows
        drawing = seed_of("questions", name, seed, sample.epoch, sample.scene_id, *sample.views)
        rng = np.random.Generator(np.random.Philox(drawing))
        return [rows[i] for i in rng.integers(len(rows), size=self.per_sample)]


class _TaskQuestions:
    """One task's items with their vectors."""

    def __init__(self, name: str, questions: Questions, text_dim: int) -> None:
        made = task_class(name)
        assert issubclass(made, AskingTask)
        self.benchmarks, self.questions = made.benchmarks, questions
        self.items: list[Item] = []
        self.rows: dict[str, list[int]] = {}
        for scene_id, items in questions.by_scene.items():
            mine = [item for item in items if item.benchmark in self.benchmarks]
            if name == "caption":
                mine = [item for item in mine if item.boxes]
            self.rows[scene_id] = list(range(len(self.items), len(self.items) + len(mine)))
            self.items += mine
        if not self.items:
            raise UsageError(
                f"the task {name} asks {', '.join(self.benchmarks)}, of which --questions has none"
            )
        self.scenes = {row: scene for scene, rows in self.rows.items() for row in rows}
        self.text = self._embedded([item.text for item in self.items], text_dim)
        self.bank = self._bank() if made.bank_of else ()
        self.bank_text = self._embedded(self.bank, text_dim) if self.bank else None
        options = sorted({option for item in self.items for option in _words(item)})
        vectors = self._embedded(options, text_dim) if options else np.zeros((0, text_dim))
        self.options = dict(zip(options, vectors, strict=True))
        self.phrases = self._phrases(text_dim) if made.reads_phrases else None
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def asked(self, rows: Sequence[list[int]], request: Sequence[Sample]) -> Asked:
        """Return the questions of some samples, padded."""
        count = max(1, *(len(each) for each in rows))
        boxes = [self._candidates(sample.scene_id) for sample in request]
        index = np.full((len(rows), count), -1)
        for b, each in enumerate(rows):
            index[b, : len(each)] = each
        num_targets = max([1, *(len(self.items[r].boxes or ()) for e in rows for r in e)])
        width = self._width(boxes, rows)
        arrays: dict[str, np.ndarray] = {
            "index": index,
            "benchmark": np.zeros(index.shape, np.int64),
            "needs": np.full(index.shape, -1),
            "text": np.zeros((*index.shape, self.text.shape[1]), np.float32),
            "right": np.zeros((*index.shape, width), bool),
            "open": np.zeros((*index.shape, width), bool),
            "worth": np.zeros((*index.shape, width), np.float32),
            "number": np.full(index.shape, np.nan, np.float32),
            "boxes": _padded_boxes(boxes),
            "targets": np.full((*index.shape, num_targets, 6), np.nan, np.float32),
        }
        if self.options or "vsi" in self.benchmarks:
            arrays["choices"] = np.zeros((*index.shape, width, self.text.shape[1]), np.float32)
        if self.phrases is not None:
            arrays["phrases"] = np.zeros((*index.shape, MOST, self.text.shape[1]), np.float32)
        for b, each in enumerate(rows):
            for q, row in enumerate(each):
                self._fill(arrays, (b, q), row, boxes[b])
        tensors: dict[str, Any] = {name: torch.from_numpy(each) for name, each in arrays.items()}
        if self.bank_text is not None:
            tensors["bank"] = torch.from_numpy(self.bank_text)
        return Asked(**tensors)

    def _fill(
        self, arrays: dict[str, np.ndarray], at: tuple[int, int], row: int, boxes: Sequence[Box]
    ) -> None:
        item = self.items[row]
        arrays["benchmark"][at] = self.benchmarks.index(item.benchmark)
        arrays["needs"][at] = NEEDS.index(item.needs) if item.needs in NEEDS else -1
        arrays["text"][at] = self.text[row]
        if self.phrases is not None:
            for slot, phrase in enumerate(phrases(item.text)):
                arrays["phrases"][at][slot] = self.phrases[phrase]
        for t, box in enumerate(item.boxes or ()):
            arrays["targets"][at][t] = box
        if row not in self._kept:
            self._kept[row] = self._right(item, boxes)
        right, worth = self._kept[row]
        count = len(right)
        slots = list(range(count))
        if "scanrefer" in self.benchmarks:
            slots[-1] = arrays["right"].shape[-1] - 1  # none of them stands last, after padding
        arrays["right"][at][slots] = right
        arrays["worth"][at][slots] = worth
        arrays["open"][at][slots] = True
        for slot, option in enumerate(_words(item)):
            arrays["choices"][at][slot] = self.options[option]
        if item.benchmark == "vsi" and not item.options:
            arrays["number"][at] = _number(item)

    def _right(
        self, item: Item, boxes: Sequence[Box]
    ) -> tuple[Bool[np.ndarray, " A"], Float32[np.ndarray, " A"]]:
        """Return which choices are right, and what each is worth."""
        if item.benchmark in ("scanrefer", "multi3drefer"):
            from vega3d.evaluate.benchmarks.boxes import iou_matrix

            targets = [np.array(box) for box in item.boxes or ()]
            overlaps = iou_matrix([np.array(box) for box in boxes], targets)
            found = (overlaps >= _MIN_IOU).any(axis=1) if targets else np.zeros(len(boxes), bool)
            right = np.append(found, not targets)
        elif item.benchmark == "vsi":
            letters = [option[:1] for option in item.options]
            right = np.array([letter == item.answers[0] for letter in letters], dtype=bool)
        else:
            right = np.array([_fits(item, answer) for answer in self.bank], dtype=bool)
        return right, right.astype(np.float32)

    def _candidates(self, scene_id: str) -> Sequence[Box]:
        short = scene_id.rsplit("/", 1)[-1]
        known = self.questions.annotations.candidates.get(short)
        if known is not None:
            return known
        meant = [box for row in self.rows[scene_id] for box in self.items[row].boxes or ()]
        return tuple(dict.fromkeys(meant))

    def _bank(self) -> tuple[str, ...]:
        """Return the answers of the training items; of all where no file says which they are."""
        train = [item for item in self.items if item.split in ("train", "")]
        found = {answer for item in train or self.items for answer in item.answers}
        return tuple(sorted(found))

    def _phrases(self, text_dim: int) -> dict[str, Float32[np.ndarray, " E"]]:
        found = sorted({phrase for item in self.items for phrase in phrases(item.text)})
        vectors = self._embedded(found, text_dim) if found else np.zeros((0, text_dim))
        return dict(zip(found, vectors, strict=True))

    def _width(self, boxes: Sequence[Sequence[Box]], rows: Sequence[list[int]]) -> int:
        if self.bank:
            return len(self.bank)
        if "vsi" in self.benchmarks:
            return max(1, *(len(self.items[row].options) for each in rows for row in each), 1)
        return max(1, *(len(each) for each in boxes)) + 1

    def _embedded(self, texts: Sequence[str], text_dim: int) -> Float32[np.ndarray, "T E"]:
        vectors = self.questions.embed(self.questions.text_model, texts)
        if vectors.shape[1] != text_dim:
            raise UsageError(
                f"texts have {vectors.shape[1]} numbers by {self.questions.text_model}, not "
                f"{text_dim}: pass --text-dim {vectors.shape[1]}"
            )
        return vectors.astype(np.float32)


def _padded_boxes(boxes: Sequence[Sequence[Box]]) -> Float32[np.ndarray, "B O 6"]:
    padded = np.full((len(boxes), max(1, *(len(each) for each in boxes), 1), 6), np.nan, np.float32)
    for b, each in enumerate(boxes):
        padded[b, : len(each)] = np.array(each, dtype=np.float32).reshape(-1, 6)
    return padded


def _words(item: Item) -> list[str]:
    """Return the options of a choice without their letters."""
    return [option.split(". ", 1)[-1] for option in item.options]


def _fits(item: Item, answer: str) -> bool:
    from vega3d.evaluate.benchmarks.scanqa import is_right as scanqa_right
    from vega3d.evaluate.benchmarks.sqa3d import is_right as sqa3d_right

    if item.benchmark == "scanqa":
        return scanqa_right(answer, item.answers, "released")
    if item.benchmark == "sqa3d":
        return sqa3d_right(answer, item.answers[0], "released")
    return answer in item.answers


def _number(item: Item) -> float:
    try:
        number = float(item.answers[0])
    except ValueError:
        number = float("nan")
    if not number > 0:
        raise UsageError(f"{item.item_id}: the answer must be a number above 0, got {item.answers}")
    return number
