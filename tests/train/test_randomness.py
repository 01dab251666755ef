import math

import pytest
import torch

from vega3d.train.randomness import dropout, seed_of, uniform


def test_uniform_numbers_are_flat_fixed_and_independent_of_each_other() -> None:
    drawn = uniform(torch.arange(64), 4096, salt=1)
    assert ((drawn >= 0) & (drawn < 1)).all()
    counts = torch.histc(drawn, bins=16, min=0, max=1)
    # 262144 numbers, 16384 a bin, standard deviation 124: six of them.
    assert (counts - 16384).abs().max() < 6 * 124
    centred = drawn - 0.5
    correlation = (centred[:-1] * centred[1:]).mean(dim=1) * 12
    assert correlation.abs().max() < 6 / math.sqrt(4096)
    assert (
        uniform(torch.tensor([3]), 2, salt=0).tolist()
        != uniform(torch.tensor([3]), 2, salt=1).tolist()
    )


def test_uniform_is_splitmix_written_out() -> None:
    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    start = mix((7 + 5 * golden) % 2**64)
    want = [(mix((start + (i + 1) * golden) % 2**64) >> 40) / 2**24 for i in range(8)]
    assert uniform(torch.tensor([7]), 8, salt=5)[0].tolist() == want


def test_dropout_keeps_the_mean_and_drops_the_share() -> None:
    x = torch.ones(32, 16, 64)
    kept = dropout(x, 0.25, torch.arange(32), salt=3)
    assert kept.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1, abs=0.02)
    assert dropout(x, 0.0, None, salt=3) is x


def test_seed_tells_its_parts_apart() -> None:
    assert seed_of("a", 1) != seed_of("a", "1")
    assert seed_of("ab", "c") != seed_of("a", "bc")
    assert 0 <= seed_of("a", 1) < 2**63
