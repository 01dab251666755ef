"""Loading an encoder by its name."""

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from vega3d.pipeline.backbones.backbone import Backbone
from vega3d.pipeline.backbones.checkpoints import describe, model_folder, model_name, read_configs
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import DEFAULT, configured, family
from vega3d.pipeline.backbones.settings import Prompt
from vega3d.pipeline.errors import UsageError


def load_backbone(
    name: str = DEFAULT,
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    batch_size: int = 4,
    prompt_embeds: Float32[np.ndarray, "L D"] | str | Path | None = None,
    **settings: Any,  # noqa: ANN401 - each encoder's own
) -> Backbone:
    """Return an encoder, ready to use; the global number of threads is the caller's.

    Args:
        name: One of `backbone_names()`: `wan2.1-t2v`, `siglip`, ...
        device: `cpu` or `cuda`.
        batch_size: Views a forward pass.
        prompt_embeds: Rows of the empty prompt, or a safetensors file of them; None encodes it.
        settings: `model`, `blocks`, `timesteps`, `resolution`, ...: the fields of the encoder's
            config (`WanConfig`, `SiglipConfig`), whose defaults and docs are there.

    Raises:
        CheckpointError: The model does not hold what the encoder needs.
        ValueError: There is no such encoder or setting, or a setting is out of its range.
    """
    make = family(name)
    known = [field.name for field in fields(make)]  # type: ignore[arg-type]
    if unknown := sorted(settings.keys() - set(known)):
        raise UsageError(f"{name} has no setting {', '.join(unknown)}; it has {', '.join(known)}")
    config = configured(name, settings)
    numerics = Numerics(device=device, batch_size=batch_size)
    return load_from_config(config, numerics, config.prompt(prompt_embeds))


def load_from_config(
    config: BackboneConfig, numerics: Numerics, prompt: Prompt | None = None
) -> Backbone:
    """Return the encoder that a config describes; None encodes the prompt, where there is one.

    Raises:
        CheckpointError: The model does not hold what the encoder needs.
        ValueError: A block lies outside the model, or the prompt has another width.
    """
    folder = model_folder(config)
    facts = describe(config, model_name(config), read_configs(folder, config.parts))
    rows = config.prompt(None) if prompt is None else prompt
    return Backbone(config, facts, numerics, config.load(folder, facts, numerics, rows))
