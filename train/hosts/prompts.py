"""Items in words: what a host is asked, what it should answer, and what its answer says.

Boxes are written as six numbers, centre and size in metres, to the centimetre: places that a
language model can spell. The released models answer a `<ground>` token through a head instead;
`vega3d-train fit --task grounding` has that head.
"""

import re
from typing import Any

from vega3d.train.annotations.item import Box, Item

_BOX = "centre x, y, z and size x, y, z, in metres"
_NUMBER = r"-?\d+(?:\.\d+)?"
_SIX = re.compile(r"\[?\s*" + r"\s*,\s*".join([f"({_NUMBER})"] * 6) + r"\s*\]?")


def question_of(item: Item) -> str:
    """Return what the host is asked."""
    if item.benchmark == "scanrefer":
        return f"Find: {item.text}\nGive the box: [{_BOX}]."
    if item.benchmark == "multi3drefer":
        return f"Find: {item.text}\nGive a box a line: [{_BOX}]; or none."
    if item.benchmark == "scan2cap":
        assert item.boxes
        return f"Describe the object in the box {spelled(item.boxes[0])} ({_BOX})."
    if item.options:
        options = "\n".join(item.options)
        return f"{item.text}\n{options}\nAnswer with the letter alone."
    if item.benchmark == "vsi":
        return f"{item.text}\nAnswer with a number alone."
    return f"{item.text}\nAnswer in a few words."


def answer_of(item: Item, turn: int) -> str:
    """Return a right answer to learn; where there are several, another one every turn."""
    if item.benchmark == "scanrefer":
        assert item.boxes
        return spelled(item.boxes[0])
    if item.benchmark == "multi3drefer":
        return "\n".join(spelled(box) for box in item.boxes or ()) or "none"
    return item.answers[turn % len(item.answers)]


def read_answer(item: Item, said: str) -> dict[str, Any] | None:
    """Return the fields of a prediction record; None where a box is asked and none can be read."""
    said = said.strip()
    if item.benchmark == "scanrefer":
        boxes = read_boxes(said)
        return {"box": boxes[0]} if boxes else None
    if item.benchmark == "multi3drefer":
        boxes = read_boxes(said)
        return {"boxes": boxes} if boxes or said.lower().startswith("none") else None
    field = {"scan2cap": "caption", "vsi": "prediction"}.get(item.benchmark, "answer")
    return {field: said}


def can_ask(item: Item) -> bool:
    """Say whether an item can be put to a host: an object without a box cannot be pointed at."""
    if item.benchmark in ("scanrefer", "scan2cap"):
        return bool(item.boxes)
    return item.benchmark == "multi3drefer" or bool(item.answers)


def spelled(box: Box) -> str:
    """Return a box in figures."""
    return f"[{', '.join(f'{value:.2f}' for value in box)}]"


def read_boxes(said: str) -> list[list[float]]:
    """Return the boxes that an answer names, those with sizes that are not negative."""
    found = [[float(value) for value in match] for match in _SIX.findall(said)]
    return [box for box in found if min(box[3:]) >= 0]
