"""Descriptions that point at things: ScanRefer, Multi3DRefer, and captions for Scan2Cap."""

from collections.abc import Iterator, Sequence

from vega3d.evaluate.benchmarks.made.facts import Facts, Known
from vega3d.evaluate.benchmarks.made.question import Needs, Question
from vega3d.evaluate.benchmarks.made.relations import farthest, gap_m, largest, nearest

_NEAR_M = 1.5
_CLEAR_M = 0.25


def scanrefer(facts: Facts) -> Iterator[Question]:
    """Yield descriptions of one thing; others of its class stand in the same room."""
    for thing in facts.named():
        if thing.name == thing.label:
            text = f"this is the {thing.label}"
            yield _one(facts, thing, "class", "appearance", text, len(facts.things))
    for members in facts.several():
        label = members[0].label
        for thing in members:
            same = [other for other in members if other.color == thing.color]
            if thing.color and len(same) == 1:
                text = f"this is the {thing.color} {label}"
                yield _one(facts, thing, "colour", "appearance", text, len(members))
        yield from _by_place(facts, members, label, "geometry")
        for color in sorted({thing.color for thing in members if thing.color}):
            alike = [thing for thing in members if thing.color == color]
            if 1 < len(alike) < len(members):
                yield from _by_place(facts, alike, f"{color} {label}", "both")


def multi3drefer(facts: Facts) -> Iterator[Question]:
    """Yield descriptions of any number of things, none too."""
    for members in facts.classes().values():
        label = members[0].label
        yield _many(facts, members, members, "class", "appearance", f"all {_plural(label)}")
        for color in sorted({thing.color for thing in facts.things if thing.color}):
            same = [thing for thing in members if thing.color == color]
            text = f"all {color} {_plural(label)}"
            yield _many(facts, same, members, "colour", "appearance", text)
        for anchor in facts.named():
            if anchor.label == label:
                continue
            gaps = [gap_m(thing.box, anchor.box) for thing in members]
            if any(abs(gap - _NEAR_M) < _CLEAR_M for gap in gaps):
                continue
            near = [t for t, gap in zip(members, gaps, strict=True) if gap < _NEAR_M]
            text = f"all {_plural(label)} within {_NEAR_M} meters of the {anchor.name}"
            yield _many(facts, near, members, "near", "geometry", text)


def scan2cap(facts: Facts) -> Iterator[Question]:
    """Yield things to describe, with two captions each: looks, and place among its like."""
    for members in facts.classes().values():
        for thing in members:
            places = [
                (anchor, relation)
                for anchor in facts.named()
                if anchor.label != thing.label
                for relation, pick in (("closest to", nearest), ("farthest from", farthest))
                if len(members) > 1 and pick(members, anchor) is thing
            ]
            look = f"this is a {thing.look}."
            captions = [look]
            if places:
                anchor, relation = places[0]
                captions.append(f"{look} it is the {thing.label} {relation} the {anchor.name}.")
            yield Question(
                benchmark="scan2cap",
                scene_id=facts.scene_id,
                template="place" if places else "look",
                needs="both" if places else "appearance",
                text="describe this object",
                answer=captions[-1],
                targets=(thing.number,),
                more={"captions": captions, "thing": thing},
            )


def _by_place(
    facts: Facts, members: Sequence[Known], name: str, needs: Needs
) -> Iterator[Question]:
    for anchor in facts.named():
        if anchor.label == members[0].label:
            continue
        for relation, pick in (("closest to", nearest), ("farthest from", farthest)):
            if (thing := pick(members, anchor)) is not None:
                text = f"this is the {name} that is {relation} the {anchor.name}"
                yield _one(facts, thing, relation, needs, text, len(members))
    if (thing := largest(members)) is not None:
        yield _one(facts, thing, "largest", needs, f"this is the largest {name}", len(members))


def _one(
    facts: Facts, thing: Known, template: str, needs: Needs, text: str, choices: int
) -> Question:
    alone = sum(other.label == thing.label for other in facts.things) == 1
    return Question(
        benchmark="scanrefer",
        scene_id=facts.scene_id,
        template=template,
        needs=needs,
        text=text,
        answer=str(thing.number),
        kind="unique" if alone else "multiple",
        targets=(thing.number,),
        chance=1.0 / choices,
        more={"thing": thing},
    )


def _many(
    facts: Facts,
    targets: Sequence[Known],
    members: Sequence[Known],
    template: str,
    needs: Needs,
    text: str,
) -> Question:
    others = len(members) > len(targets)
    kind = {0: "zt", 1: "st"}.get(len(targets), "mt")
    return Question(
        benchmark="multi3drefer",
        scene_id=facts.scene_id,
        template=template,
        needs=needs,
        text=text,
        answer=" ".join(str(thing.number) for thing in targets),
        kind=kind if kind == "mt" else f"{kind}_{'w' if others else 'wo'}_d",
        targets=tuple(thing.number for thing in targets),
        more={"label": members[0].label},
    )


def _plural(label: str) -> str:
    return {"bookshelf": "bookshelves"}.get(label, f"{label}s")
