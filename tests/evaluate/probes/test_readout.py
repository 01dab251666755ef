"""The ridge against the normal equations, and its error from sums against that from tokens."""

import numpy as np
import pytest
import torch

from vega3d.evaluate.probes.readout import fit_ridge, ridge, sums_of, total


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("strength", [1e-6, 1e-2, 1.0])
def test_ridge_solves_the_normal_equations(offset: float, strength: float) -> None:
    """In float64 by numpy: (A'A + n s I) w = A'b of standardised A and centred b."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 12)) @ rng.standard_normal((12, 12)) + offset
    y, asked = rng.standard_normal((200, 3)), rng.standard_normal((40, 12)) + offset
    a = (x - x.mean(0)) / x.std(0)
    w = np.linalg.solve(a.T @ a + 200 * strength * np.eye(12), a.T @ (y - y.mean(0)))
    expected = (asked - x.mean(0)) / x.std(0) @ w + y.mean(0)
    found = ridge(*(torch.from_numpy(part) for part in (x, y, asked)), strength)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_error_from_sums_is_the_error_on_tokens() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 8, generator=rng) + 3, torch.randn(300, 2, generator=rng)
    parts = [sums_of(x[k::3], y[k::3]) for k in range(3)]
    fit = fit_ridge(total(parts[:2]), 1e-2)
    direct = (fit(x[2::3]) - y[2::3]).square().sum(0)
    torch.testing.assert_close(fit.squared_error(parts[2]), direct, rtol=1e-10, atol=1e-10)


def test_a_constant_channel_changes_nothing() -> None:
    rng = torch.Generator().manual_seed(1)
    x, y = torch.randn(100, 4, generator=rng), torch.randn(100, 1, generator=rng)
    more = torch.cat([x, torch.full((100, 1), 7.0)], dim=1)
    torch.testing.assert_close(ridge(more, y, more), ridge(x, y, x), rtol=1e-10, atol=1e-10)
