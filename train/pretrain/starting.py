"""Trained weights as the beginning of another run: the optimiser and the average are new."""

from typing import Any

import torch
from torch import nn

from vega3d.pipeline.backbones.checkpoints import resolve_model
from vega3d.pipeline.backbones.hashing import weights_sha256
from vega3d.pipeline.backbones.weights import load_strictly
from vega3d.pipeline.errors import UsageError
from vega3d.train.pretrain.config import GeneratorConfig, SemanticConfig


def identity_of(config: GeneratorConfig | SemanticConfig) -> dict[str, Any]:
    """Return what decides a run's numbers: of models that it takes the bytes, not the names."""
    taken = {"init": (config.init, (".",))}
    if isinstance(config, GeneratorConfig):
        taken = {
            "init": (config.init, ("transformer",)),
            "vae": (config.vae or config.init, ("vae",)),
        }
    hashes = {
        name: weights_sha256(resolve_model(model, parts), parts) if model else ""
        for name, (model, parts) in taken.items()
    }
    return {**config.identity(), **hashes}


def take_weights(model: nn.Module, init: str, part: str) -> None:
    """Give a new model the weights of a trained one, in float32.

    Args:
        model: Of the sizes that the config says.
        init: Folder, hub id or `desk`.
        part: Subfolder, "." for the root.

    Raises:
        UsageError: The sizes are not those of the trained one.
    """
    folder = resolve_model(init, (part,)) / part
    trained = load_strictly(type(model), folder, torch.float32)
    try:
        model.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise UsageError(
            f"{init}: its {folder.name} has other sizes than this config; give those it was "
            f"trained with: {str(error)[:300]}"
        ) from error
