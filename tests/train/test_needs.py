"""What a question needs is what answers it: stores that carry geometry, and those that do not."""

from pathlib import Path

import pytest
from room_stores import write_room_stores
from store_reader import read_stores

from vega3d.evaluate.benchmarks.config import MakingConfig
from vega3d.evaluate.benchmarks.made.making import make
from vega3d.evaluate.benchmarks.measures import compare

SCENES = "rooms:10?views=16&seed=7"


@pytest.mark.slow
def test_places_answer_what_needs_geometry_and_nothing_else(tmp_path: Path) -> None:
    """A program reads both stores through the head's own boxes; no place is given but the prior's.

    Left out of 95 % intervals over rooms: no gain where geometry is needed, any where it is not.
    """
    make(SCENES, tmp_path / "questions", MakingConfig(val_share=0.9, per_room=48))
    stores = write_room_stores(tmp_path, SCENES)
    for name in ("scanrefer", "multi3drefer"):
        fused, alone = (
            read_stores(tmp_path / "questions", name, stores.semantic, prior, tmp_path / "a.jsonl")
            for prior in (stores.prior, None)
        )
        between = compare(fused, alone)
        assert between["worth geometry"].low > 10
        assert between["worth appearance"].difference == 0
        assert fused.values["worth appearance"] > 70
        assert fused.values["worth geometry"] > 50
