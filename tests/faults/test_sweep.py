"""A part of `sweep.py`: one object of each kind."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sweep import sweep

KINDS = [
    "zarr.json",
    "moments/zarr.json",
    "scene/c.0",
    "unit/rows.json",
    "unit/copy.json",
    "unit/commits/000000.0.json",
    "unit/index.jsonl",
    "k300_b1/c.0.0.0.0.0",
    "moments/c.1.0.0.0",
    "world_from_camera/c.0.0.0.0",
]


@pytest.mark.one_quick
@pytest.mark.parametrize("key", KINDS)
def test_damage_is_named_and_repaired(tmp_path: Path, key: str) -> None:
    table = sweep(tmp_path, 1, [key])
    assert sum(table.values()) == 5
    assert {told for _, told in table} <= {"restored", "restored by a rerun"}
    lost = key.startswith("k300")
    assert (("flipped", "restored by a rerun") in table) == lost
