import itertools

import numpy as np

from vega3d.pipeline.backbones.noise import NOISE_VERSION, view_noise

SHAPE = (16, 1, 60, 80)
BASE = {"noise_seed": 0, "scene_id": "office_3", "view_id": "12", "timestep": 300, "sample": 0}

GOLDEN = [
    1.2214254140853882,
    -1.4017432928085327,
    0.014890501275658607,
    0.9357584118843079,
    -1.52931809425354,
    1.0542609691619873,
]
GOLDEN_UNICODE = [[0.8737106323242188, 0.407219797372818], [0.2017696350812912, 0.9943002462387085]]


def test_the_values_of_version_1_never_change() -> None:
    assert NOISE_VERSION == 1
    drawn = view_noise(7, "scene0000_00", "00042", 300, 1, (6,))
    np.testing.assert_array_equal(drawn, np.array(GOLDEN, dtype=np.float32))
    unicode = view_noise(2**63 - 1, "\u90e8\u5c4b/a b", "", 0, 0, (2, 2))
    np.testing.assert_array_equal(unicode, np.array(GOLDEN_UNICODE, dtype=np.float32))


def test_every_field_of_the_key_gives_uncorrelated_noise() -> None:
    changes = [
        {},
        {"noise_seed": 1},
        {"noise_seed": 2**32},
        {"scene_id": "office_4"},
        {"view_id": "13"},
        {"timestep": 301},
        {"sample": 1},
        {"scene_id": "office_31", "view_id": "2"},  # the same text when run together
        {"timestep": 0, "sample": 300},
    ]
    draws = [view_noise(**{**BASE, **change}, shape=SHAPE).ravel() for change in changes]
    for first, second in itertools.combinations(draws, 2):
        # The correlation of independent draws has standard deviation 1 / sqrt(76800) = 0.0036.
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_noise_is_standard_normal_float32() -> None:
    drawn = view_noise(**BASE, shape=SHAPE)
    assert drawn.dtype == np.float32
    assert drawn.shape == SHAPE
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02
    assert abs((np.abs(drawn) > 1.96).mean() - 0.05) < 0.005


def test_noise_does_not_depend_on_what_was_drawn_before() -> None:
    first = view_noise(**BASE, shape=SHAPE)
    np.random.seed(3)
    view_noise(**{**BASE, "view_id": "99"}, shape=(5,))
    np.testing.assert_array_equal(view_noise(**BASE, shape=SHAPE), first)
