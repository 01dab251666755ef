"""What a small MLP reads of scenes that it was not fitted on: no more than proves right."""

import pytest
import torch
from torch import Tensor

from vega3d.train.pretrain.config import TableConfig
from vega3d.train.pretrain.reader import Wanted, read

S, N, FITTED = 40, 24, 30
CONFIG = TableConfig(fitted=FITTED, epochs=40, seeds=(0,))


@pytest.fixture(scope="module")
def world() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of 3 channels, a number that follows from them, and noise of 30 channels."""
    generator = torch.Generator().manual_seed(0)
    told = torch.randn(S, N, 3, generator=generator)
    number = told[..., :1] + 0.5 * torch.randn(S, N, 1, generator=generator)
    return told, number, torch.randn(S, N, 30, generator=generator)


def _r2(said: Tensor, number: Tensor) -> float:
    gap = said[..., 0] - number[FITTED:, :, 0]
    return float(1 - gap.square().mean() / number[FITTED:].var())


@pytest.mark.slow
def test_noise_is_read_as_the_mean_however_long_it_is_fitted(
    world: tuple[Tensor, Tensor, Tensor],
) -> None:
    _, number, noise = world
    said = read(noise, Wanted(number + 5, (slice(0, 1),)), CONFIG, seed=0)
    assert said.shape == (S - FITTED, N, 1)
    assert _r2(said - 5, number) > -0.03
    assert float(said.mean()) == pytest.approx(float(number[:FITTED].mean()) + 5, abs=0.05)


@pytest.mark.slow
def test_what_is_told_is_read_beside_noise_too(world: tuple[Tensor, Tensor, Tensor]) -> None:
    told, number, noise = world
    wanted = Wanted(number, (slice(0, 1),))
    possible = 1 - 0.25 / float(number.var())  # the rest is the answer's own noise
    assert _r2(read(told, wanted, CONFIG, seed=0), number) > possible - 0.1
    assert _r2(read(torch.cat([told, noise], -1), wanted, CONFIG, seed=0), number) > possible - 0.2


def test_classes_are_read_and_judged_where_they_count(
    world: tuple[Tensor, Tensor, Tensor],
) -> None:
    told, number, _ = world
    label = told.argmax(-1)
    wanted = Wanted(number, (slice(0, 1),), label, counts=told[..., 0] > 0, classes=3)
    said = read(told, wanted, CONFIG, seed=0)[..., 1:]
    assert float((said.argmax(-1) == label[FITTED:]).float().mean()) > 0.9


def test_the_scenes_that_are_read_are_not_looked_at(world: tuple[Tensor, Tensor, Tensor]) -> None:
    told, number, _ = world
    quick = TableConfig(fitted=FITTED, epochs=1, seeds=(0,))
    said = read(told, Wanted(number, (slice(0, 1),)), quick, seed=0)
    other = number.clone()
    other[FITTED:] = torch.nan
    torch.testing.assert_close(read(told, Wanted(other, (slice(0, 1),)), quick, seed=0), said)


def test_a_single_scene_leaves_none_to_judge_by(world: tuple[Tensor, Tensor, Tensor]) -> None:
    told, number, _ = world
    one = TableConfig(fitted=1, epochs=1, seeds=(0,))
    said = read(told[:2], Wanted(number[:2], (slice(0, 1),)), one, seed=0)
    assert said.shape == (1, N, 1)
