"""Answers descriptions from what two planted stores hold, as a head would that knows how.

The boxes say which tokens are whose, as in the head, and nothing else: class and colour are read
from the semantic tokens inside, places from the prior's. Who has no prior knows no place: all
things lie in one spot, and the first that fits is named.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from room_oracle import Oracle
from room_stores import word_vector

from vega3d.evaluate.benchmarks.catalogue import score
from vega3d.evaluate.benchmarks.measures import Score
from vega3d.pipeline import open_store
from vega3d.pipeline.scenes.rooms.truth import LABELS

COLORS = ("red", "orange", "yellow", "lime", "green", "teal", "cyan", "azure", "blue", "violet",
          "magenta", "pink", "white", "grey", "black")  # fmt: skip
PATTERNS = ("plain", "wood", "tiles", "bricks", "stripes", "fabric", "leaves", "painting", "books")
WORDS = (*LABELS, *COLORS, "dark", *PATTERNS)
_MARGIN_M = 0.05  # as the head's


class StoreReader(Oracle):
    """The oracle's sentences, over things that are known from tokens alone."""

    def __init__(
        self, semantic: str, prior: str | None, scene_id: str, boxes: Sequence[Sequence[float]]
    ) -> None:
        seen, looks = open_store(semantic), []
        where = seen.world_xyz(scene_id).reshape(-1, 3)
        tokens = np.asarray(seen.features(scene_id), dtype=np.float64).reshape(len(where), -1)
        places = np.zeros((len(where), 3))
        if prior:
            places = np.asarray(open_store(prior).features(scene_id))[..., -3:].reshape(-1, 3)
        low, high = [], []
        for box in np.asarray(boxes):
            inside = (np.abs(where - box[:3]) <= box[3:] / 2 + _MARGIN_M).all(axis=1)
            looks.append(read_look(tokens[inside].mean(axis=0)) if inside.any() else "")
            spot = places[inside] if inside.any() else np.zeros((1, 3))
            low.append(spot.min(axis=0))
            high.append(spot.max(axis=0))
        self.looks = looks
        self.labels = [look.split()[-1] if look else "" for look in looks]
        self.low, self.high = np.array(low), np.array(high)
        self.middle = (self.low + self.high) / 2

    def longest(self, thing: int) -> float:
        return float((self.high[thing] - self.low[thing]).max())

    def told(self, text: str) -> list[int]:
        """Things that a description means; the first one where the tokens do not say."""
        try:
            return self.referred(text)
        except ValueError:  # no thing, or several, by that name
            return [0]


def read_look(vector: np.ndarray) -> str:
    """Return the words whose vectors add up to the mean of a thing's tokens, mostly."""
    table = np.stack([word_vector(word) for word in WORDS], axis=1)
    share = dict(zip(WORDS, np.linalg.lstsq(table, vector, rcond=None)[0], strict=True))
    label = max(LABELS, key=lambda word: share[word])
    color = max(COLORS, key=lambda word: share[word])
    if share[color] < 0.5 * share[label]:
        return label
    dark = ["dark"] * bool(share["dark"] > 0.5 * share[color])
    return " ".join([*dark, color, label])


def read_stores(questions: Path, name: str, semantic: str, prior: str | None, out: Path) -> Score:
    """Answer a benchmark's validation descriptions and score them."""
    stem = {"scanrefer": "scanrefer_vg", "multi3drefer": "multi3drefer"}[name]
    truth = questions / f"{stem}_val_llava_style.json"
    boxes = json.loads((questions / "rooms_val_gt_box.json").read_text())
    readers = {
        video: StoreReader(semantic, prior, video.rsplit("/", 1)[-1], found)
        for video, found in boxes.items()
    }
    lines = []
    for record in json.loads(truth.read_text()):
        text = record["conversations"][0]["value"].replace("<image>", "").strip()
        things = readers[record["video"]].told(text)
        found = [boxes[record["video"]][thing] for thing in things]
        answer = {"box": found[0]} if name == "scanrefer" else {"boxes": found}
        lines.append(json.dumps({"id": record["id"], **answer}))
    out.write_text("\n".join(lines))
    return score(name, truth, out)
