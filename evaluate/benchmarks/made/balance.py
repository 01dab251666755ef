"""Questions chosen so that they do not give their answers away, and what a guess is then worth."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from vega3d.evaluate.benchmarks.made.question import Question
from vega3d.evaluate.benchmarks.vsi import NUMBERS, relative_accuracy

_ENOUGH = 5
"""Questions of one text from which on a guess may go by the text, and not by its template."""

_ROUNDING = 1e-6  # six thirds add up to less than 2, and then no third answer would be fair again


def choose(
    questions: Sequence[Question], per_room: int, rng: np.random.Generator
) -> list[Question]:
    """Return at most `per_room` questions a room, as many of each template as can be.

    Where a question names its options, each is right as often as chance would have it, over all
    questions of its text and of its template: what is mostly right is left out.
    """
    wins: Counter[tuple[str, str]] = Counter()
    offers: dict[tuple[str, str], float] = defaultdict(float)
    taken: Counter[tuple[str, str]] = Counter()
    rooms: Counter[str] = Counter()
    templates = {question.template for question in questions}
    share = -(-per_room // max(1, len(templates)))
    kept = []
    for index in rng.permutation(len(questions)):
        question = questions[index]
        slot = question.scene_id, question.template
        if taken[slot] >= share or rooms[question.scene_id] >= per_room:
            continue
        if not _is_fair(question, wins, offers):
            continue
        for key in _keys(question):
            wins[key, question.answer] += 1
            for option in question.options:
                offers[key, option] += 1 / len(question.options)
        taken[slot] += 1
        rooms[question.scene_id] += 1
        kept.append(question)
    return sorted(_capped(kept), key=lambda q: (q.scene_id, q.template, q.text))


def with_chances(questions: Sequence[Question]) -> list[Question]:
    """Return the questions of a split with what the best guess from the question is worth.

    A choice: one over its options. Else the best constant answer, over the questions of the same
    text where there are several, else of the same template. Targets have a chance already, and a
    set of them is guessed best as the empty set.
    """
    groups: dict[str, list[Question]] = defaultdict(list)
    texts = Counter(question.text for question in questions)
    for question in questions:
        groups[_group(question, texts)].append(question)
    best = {name: _best(group) for name, group in groups.items()}
    return [
        replace(
            question,
            chance=question.chance
            or (1 / len(question.options) if question.options else best[_group(question, texts)]),
        )
        for question in questions
    ]


def best_number(truths: Sequence[float]) -> tuple[float, float]:
    """Return the number that is worth most as an answer to all, and its mean relative accuracy."""
    found = [
        (float(np.mean([relative_accuracy(guess, truth) for truth in truths])), guess)
        for guess in np.unique(np.quantile(truths, np.linspace(0.05, 0.95, 19)))
    ]
    worth, guess = max(found)
    return float(guess), worth


def _is_fair(question: Question, wins: Counter, offers: dict) -> bool:  # type: ignore[type-arg]
    if not question.options:
        return True
    return all(
        wins[key, question.answer] <= offers[key, question.answer] + _ROUNDING
        for key in _keys(question)
    )


def _keys(question: Question) -> tuple[str, ...]:
    return question.text, f"template {question.template}"


def _capped(questions: Iterable[Question]) -> list[Question]:
    """Cut the most frequent answer to an open question of one text to the second's number."""
    groups: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        groups[question.text].append(question)
    kept = []
    for group in groups.values():
        counts = Counter(question.answer for question in group).most_common(2)
        is_open = group[0].benchmark in ("scanqa", "sqa3d") and not group[0].options
        limit = max(1, counts[1][1]) if len(counts) > 1 else 1
        seen: Counter[str] = Counter()
        for question in group:
            seen[question.answer] += 1
            if not is_open or seen[question.answer] <= limit:
                kept.append(question)
    return kept


def _group(question: Question, texts: Counter[str]) -> str:
    if question.benchmark in ("multi3drefer", "scan2cap"):
        return question.benchmark
    return question.text if texts[question.text] >= _ENOUGH else f"template {question.template}"


def _best(group: Sequence[Question]) -> float:
    if group[0].kind in NUMBERS:
        return best_number([float(question.answer) for question in group])[1]
    return Counter(question.answer for question in group).most_common(1)[0][1] / len(group)
