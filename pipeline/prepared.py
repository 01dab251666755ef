"""A model looked at but not loaded: what a store's identity says of it."""

import json
from dataclasses import dataclass, replace
from typing import Any

from vega3d.pipeline.backbones.checkpoints import model_facts, named_from_root
from vega3d.pipeline.backbones.hashing import model_sha256
from vega3d.pipeline.backbones.noise import NOISE_VERSION
from vega3d.pipeline.backbones.prompt import prompt_sha256
from vega3d.pipeline.backbones.settings import ModelFacts, Prompt
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.store.identity import FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model that was looked at but not loaded."""

    config: ExtractConfig
    """The config with block indices counted from 0."""

    identity: dict[str, Any]
    facts: ModelFacts
    prompt: Prompt
    """The empty prompt, encoded; {} where the model takes none."""


def prepare_model(config: ExtractConfig, prompt_embeds: str = "") -> PreparedModel:
    """Hash the weights, encode the empty prompt (once, then cached), name the taps.

    `prompt_embeds` names a safetensors file that spares fetching the text encoder.
    """
    config = replace(config, backbone=named_from_root(config.backbone))
    facts = model_facts(config.backbone)
    config = replace(config, backbone=config.backbone.resolved(facts))
    prompt = config.backbone.prompt(prompt_embeds or None)
    identity: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "config": json.loads(json.dumps(config.stored())),  # tuples become lists
        "weights_sha256": model_sha256(config.backbone),
        "taps": list(facts.taps),
        "channels": facts.channels,
    }
    if prompt:
        identity["prompt_sha256"] = prompt_sha256(prompt)
    if config.backbone.draws_noise:
        identity["noise_version"] = NOISE_VERSION
    if arithmetic := config.backbone.arithmetic:
        identity["arithmetic_version"] = arithmetic
    return PreparedModel(config, identity, facts, prompt)
