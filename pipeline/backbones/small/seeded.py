"""Weights from a seed, as `tiny.py` draws them, with biases that are not 0."""

from typing import Any

import torch

from vega3d.pipeline.backbones.tiny import seed_weights


def seeded(make: Any, seed: int, **sizes: object) -> Any:  # noqa: ANN401
    """Return a model of a class with weights from a seed; biases matter too."""
    with torch.random.fork_rng(devices=[]):  # the classes draw weights of their own first
        model = make(**sizes)
    seed_weights(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model
