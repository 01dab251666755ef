"""What a record of any benchmark becomes: a question or description of one scene, and the truth."""

from dataclasses import dataclass

Box = tuple[float, float, float, float, float, float]
"""Centre and size along the world's axes, metres: [cx, cy, cz, dx, dy, dz]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One query of one scene."""

    benchmark: str
    """scanrefer, multi3drefer, scan2cap, scanqa, sqa3d or vsi."""

    item_id: str
    """What predictions name it by."""

    scene_id: str
    """Without a folder: `scene0000_00`."""

    split: str
    """train, val or test as the file's name says; empty where it does not."""

    text: str
    """Question or description; SQA3D's situation stands before it. Empty for a caption."""

    answers: tuple[str, ...] = ()
    """Right answers or captions; of a choice its letter, of a number its digits."""

    options: tuple[str, ...] = ()
    """Of a choice, such as `A. chair`."""

    kind: str = ""
    """Question type in the benchmark's own words."""

    boxes: tuple[Box, ...] | None = None
    """Targets of a description, none for zero targets; the object of a caption."""

    needs: str = ""
    """geometry, appearance or both, where the file says so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotations:
    """Items of some files, and the candidate boxes of their scenes."""

    items: tuple[Item, ...]
    candidates: dict[str, tuple[Box, ...]]
    """By scene; empty without a file of boxes."""
