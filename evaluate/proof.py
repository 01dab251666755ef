"""Whether the scenes of a report prove their own geometry: what extraction noted of them.

A score compares tokens by where they lie; with poses of another convention, or another camera's
intrinsics, they lie elsewhere, and the score falls without a word. Extraction carries depth from
each view into the next and notes how far it lies from what is read there.
"""

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vega3d.evaluate.sources import Source, opened

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What one store's notes say of the scenes that are compared."""

    label: str
    reprojection_m: Mapping[str, float]
    """Median distance of depths between neighbouring views, by scene, where it was measured."""

    misread: Mapping[str, Sequence[str]]
    """Scenes whose depths do not agree, with what would mend them."""

    num_unknown: int
    """Scenes without a note: imported features, or of an older version."""

    @property
    def median_m(self) -> float | None:
        """Median over the scenes."""
        found = self.reprojection_m.values()
        return statistics.median(found) if found else None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "median_m": self.median_m,
            "reprojection_m": dict(self.reprojection_m),
            "misread": {scene_id: list(lines) for scene_id, lines in self.misread.items()},
            "num_unknown": self.num_unknown,
        }


def prove(sources: Sequence[Source], scene_ids: Collection[str]) -> tuple[Proof, ...]:
    """Return what the notes of each store say of some scenes."""
    return tuple(_proof(source, scene_ids) for source in sources)


def warnings(proofs: Sequence[Proof]) -> Iterator[str]:
    """Yield what a person must know before believing a score, with what would mend it."""
    for proof in proofs:
        named = list(proof.misread.items())
        for scene_id, lines in named[:_MOST_NAMED]:
            yield f"{proof.label}: {scene_id}: {'; '.join(lines)}. Its tokens lie elsewhere."
        if len(named) > _MOST_NAMED:
            yield f"{proof.label}: {len(named) - _MOST_NAMED} scenes more are read wrongly."


def _proof(source: Source, scene_ids: Collection[str]) -> Proof:
    store = opened(source.urls, source.digest)
    notes = {scene_id: store.note(scene_id) for scene_id in scene_ids}
    known = {scene_id: note for scene_id, note in notes.items() if note is not None}
    return Proof(
        label=source.label,
        reprojection_m={
            scene_id: note.reprojection_m
            for scene_id, note in known.items()
            if note.reprojection_m is not None
        },
        misread={scene_id: note.misread for scene_id, note in known.items() if note.misread},
        num_unknown=len(notes) - len(known),
    )
