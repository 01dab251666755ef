"""The whole chain on rooms that nothing has seen: what was learned must still be there at its end.

From rendered rooms through extraction, store and reading to a probe of both streams together: a bug
that destroys information anywhere on the way (a wrong noise level, a transposed grid, a block that
is not the trained one, stores that are read in another order) takes the gain away.
"""

from pathlib import Path
from typing import Any

import pytest

from vega3d.pipeline.backbones.registry import configured, preset
from vega3d.pipeline.backbones.twins import write_random_generator
from vega3d.train.paper.streams import make_stores, read_features
from vega3d.train.pretrain.answers import room_answers
from vega3d.train.pretrain.config import TableConfig
from vega3d.train.pretrain.table import BETTER, compare_streams

ROOMS, FITTED, VIEWS, SEED = 48, 32, 2, 104
"""A seed that neither the models nor their card has seen."""

MARGINS: dict[tuple[str, str], dict[str, float]] = {
    ("prior", "random"): {"normal_deg": 2.5, "object_accuracy": 0.078},
    ("semantic+prior", "semantic"): {"object_accuracy": 0.02},
    ("semantic+prior", "prior"): {"normal_deg": 0.68, "object_accuracy": 0.05},
    ("semantic+prior", "semantic+random"): {"normal_deg": 0.64, "object_accuracy": 0.014},
}
"""What must be gained, in degrees of the normal and in the share of object cells: half of the least
over seeds 104 to 106 (5.0 and 0.156, 0.040, 1.3 and 0.029, on 26 Nov 2026). Over the prior alone
it is half of what the generator of 10,450 steps gained (1.4 and 0.102): a better one leaves less
to gain (0.53 and 0.093; on seed 104 1.9 and 0.157)."""


def differences(folder: Path, seed: int) -> dict[str, Any]:
    """Return what is gained, by pair and score, on rooms of a seed."""
    scenes = f"rooms:{ROOMS}?views={VIEWS}&height=128&width=160&seed={seed}"
    write_random_generator("desk", folder / "twin", seed=0)
    backbones = {
        "prior": preset("desk"),
        "random": configured("desk", {"model": str(folder / "twin")}),
        "semantic": preset("desk-siglip"),
    }
    stores = make_stores(scenes, backbones, folder)
    streams = {name: read_features(url) for name, url in stores.items()}
    config = TableConfig(fitted=FITTED, epochs=12, seeds=(0, 1))
    found = compare_streams(streams, room_answers(scenes, (8, 10)), [*MARGINS], config)
    gained: dict[str, Any] = found["differences"]
    return gained


@pytest.mark.slow
def test_the_prior_and_its_fusion_gain_on_rooms_that_nothing_has_seen(tmp_path: Path) -> None:
    gained = differences(tmp_path, SEED)
    for (better, than), margins in MARGINS.items():
        found = gained[f"{better} - {than}"]
        for score, margin in margins.items():
            gain = BETTER[score] * found[score]["mean"]
            assert gain > margin, (better, than, score)
