"""Random twins of trained models: the same config, weights from a seed. What a prior must beat."""

import json
import shutil
from pathlib import Path

import torch

from vega3d.pipeline.backbones.checkpoints import resolve_model
from vega3d.pipeline.backbones.tiny import seed_weights
from vega3d.pipeline.backbones.weights import quiet


def write_random_generator(model: str, folder: Path, seed: int = 0) -> None:
    """Write a Wan folder whose DiT is drawn from a seed; the VAE and the text parts are copied.

    Only the DiT's training then sets the two apart: both see the same latents.
    """
    from diffusers import WanTransformer3DModel

    parts = ("transformer", "vae", "text_encoder", "tokenizer")
    source = resolve_model(model, parts)
    config = json.loads((source / "transformer" / "config.json").read_text("utf-8"))
    with torch.random.fork_rng(devices=[]):  # the class draws weights of its own first
        transformer = WanTransformer3DModel.from_config(config)
    seed_weights(transformer, seed)
    transformer.save_pretrained(folder / "transformer")
    for part in parts[1:]:
        shutil.copytree(source / part, folder / part)


def write_random_semantic(model: str, folder: Path, seed: int = 0) -> None:
    """Write a SigLIP folder, both halves, drawn from a seed."""
    from transformers import SiglipConfig, SiglipModel

    source = resolve_model(model, (".",))
    with torch.random.fork_rng(devices=[]):
        twin = SiglipModel(SiglipConfig.from_pretrained(source))
    seed_weights(twin, seed)
    with quiet():
        twin.save_pretrained(folder)
