"""A model that sees no room: it answers from the question alone, as training answers went."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vega3d.evaluate.benchmarks.made.balance import best_number
from vega3d.evaluate.benchmarks.made.facts import Facts
from vega3d.evaluate.benchmarks.made.formats import question_ids
from vega3d.evaluate.benchmarks.made.question import Question
from vega3d.evaluate.benchmarks.vsi import NUMBERS

_ENOUGH = 5
_LETTERS = "ABCDEFGH"


class Blind:
    """Answers as most training questions of the same words were answered, else of the template."""

    def __init__(self, training: Sequence[Question]) -> None:
        """Count the answers to every text and template."""
        self._by: dict[str, list[Question]] = defaultdict(list)
        for question in training:
            self._by[f"text {question.text}"].append(question)
            self._by[f"template {question.template}"].append(question)

    def answer(self, question: Question) -> str:
        """Return the answer in words; an option where there are options."""
        seen = self._by.get(f"text {question.text}", [])
        if len(seen) < _ENOUGH:
            seen = self._by.get(f"template {question.template}", seen)
        if not seen:
            return question.options[0] if question.options else ""
        if question.kind in NUMBERS:
            return f"{best_number([float(one.answer) for one in seen])[0]:g}"
        if question.options:
            return max(question.options, key=lambda option: _win_rate(option, seen))
        return Counter(one.answer for one in seen).most_common(1)[0][0]


def blind_predictions(
    benchmark: str,
    training: Sequence[Question],
    scored: Sequence[Question],
    rooms: Mapping[str, Facts],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Return prediction records of a benchmark; where boxes are asked one is drawn, or none."""
    blind = Blind(training)
    records: list[dict[str, Any]] = []
    for key, question in zip(question_ids(scored), scored, strict=True):
        if benchmark == "scanrefer":
            things = rooms[question.scene_id].things
            box = things[int(rng.integers(len(things)))].box.tolist()
            records.append({"id": key, "box": box})
        elif benchmark == "multi3drefer":
            records.append({"id": key, "boxes": []})
        elif benchmark == "scan2cap":
            records.append({"id": key, "caption": blind.answer(question)})
        elif benchmark == "vsi" and question.options:
            letter = _LETTERS[question.options.index(blind.answer(question))]
            records.append({"id": key, "prediction": letter})
        else:
            field = "prediction" if benchmark == "vsi" else "answer"
            records.append({"id": key, field: blind.answer(question)})
    return records


def _win_rate(option: str, seen: Sequence[Question]) -> float:
    """Return how often an option was right where it was offered, drawn to one in three."""
    offered = [one for one in seen if option in one.options]
    return (sum(one.answer == option for one in offered) + 1) / (len(offered) + 3)
