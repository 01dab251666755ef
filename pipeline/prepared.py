"""A model looked at but not loaded: what a store's identity says of it."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.pipeline.backbones.checkpoints import ModelFacts, cache_dir, model_facts, model_sha256
from vega3d.pipeline.backbones.noise import NOISE_VERSION
from vega3d.pipeline.backbones.prompt import (
    empty_prompt_embedding,
    prompt_sha256,
    read_prompt_embedding,
)
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.store.identity import FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model that was looked at but not loaded."""

    config: ExtractConfig
    """The config with block indices counted from 0."""

    identity: dict[str, Any]
    facts: ModelFacts
    prompt_embeds: np.ndarray | None
    """The empty prompt's embedding, float32 [L, D]; Wan only."""


def prepare_model(config: ExtractConfig, prompt_embeds: str = "") -> PreparedModel:
    """Hash the weights, encode the empty prompt (once, then cached), name the taps.

    `prompt_embeds` names a safetensors file that spares fetching the text encoder.
    """
    facts = model_facts(config)
    config = replace(config, blocks=facts.blocks)
    identity: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "config": json.loads(json.dumps(asdict(config))),  # tuples become lists
        "weights_sha256": model_sha256(config),
        "taps": list(facts.taps),
        "channels": facts.channels,
    }
    rows = None
    if config.backbone == "wan2.1-t2v":
        rows = _prompt_rows(config.model, prompt_embeds)
        identity["prompt_sha256"] = prompt_sha256(rows)
        identity["noise_version"] = NOISE_VERSION
    return PreparedModel(config, identity, facts, rows)


def _prompt_rows(model: str, file: str) -> np.ndarray:
    return read_prompt_embedding(Path(file)) if file else empty_prompt_embedding(model, cache_dir())
