"""Tiny checkpoints in the published layouts, for the demo and the tests: no download, a few MB.

Real classes, real topology (30 DiT blocks, so that block 20 exists; the VAE's levels and strides;
a real tokenizer and text encoder; SigLIP's 27 layers over 384 px), small widths, seeded weights.
They know nothing of the world, but they carry an image's layout, as random features do.
"""

import math
from pathlib import Path
from typing import Any

import torch

from vega3d.pipeline.backbones.weights import quiet

_WIDTH, _HEADS = 48, 2
_TEXT_DIM = 32
_LATENT_GAIN = 4.0
"""Brings a photograph's latents to a spread of about 1, so that noise at sigma 0.3 leaves it."""


def write_tiny_wan(folder: Path, seed: int = 0) -> None:
    """Write a Wan2.1 text-to-video checkpoint in diffusers layout: the same bytes for a seed."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    with torch.random.fork_rng(devices=[]):  # the classes draw weights of their own first
        transformer = WanTransformer3DModel(
            num_attention_heads=_HEADS,
            attention_head_dim=_WIDTH // _HEADS,
            text_dim=_TEXT_DIM,
            freq_dim=32,
            ffn_dim=2 * _WIDTH,
            num_layers=30,
        )
        vae = AutoencoderKLWan(base_dim=4)
    seed_weights(transformer, seed)
    transformer.save_pretrained(folder / "transformer")
    seed_weights(vae, seed + 1)
    spread_latents(vae)
    vae.save_pretrained(folder / "vae")
    write_text_encoder(folder, seed + 2)


def write_random_wan(folder: Path, seed: int = 0, num_layers: int = 30) -> None:
    """Write Wan2.1-T2V-1.3B's transformer and VAE at their published sizes, random weights.

    Takes 6.2 GB on disk at 30 layers, 1.1 at 2; for measuring speed and memory, not for features.
    The text encoder is left out: give the prompt's embedding.

    Source: Wan-AI/Wan2.1-T2V-1.3B-Diffusers, transformer/config.json (12 heads of 128, 30 blocks,
    feed-forward 8960); AutoencoderKLWan's defaults are the published VAE's.
    """
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = WanTransformer3DModel(
            num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=num_layers
        )
        transformer.save_pretrained(folder / "transformer")
        del transformer
        AutoencoderKLWan().save_pretrained(folder / "vae")


def write_tiny_siglip(folder: Path, seed: int = 0) -> None:
    """Write a SigLIP checkpoint, both halves, in transformers layout: the same bytes for a seed."""
    from transformers import SiglipConfig, SiglipModel

    half = {"hidden_size": _WIDTH, "intermediate_size": 2 * _WIDTH, "num_attention_heads": _HEADS}
    config = SiglipConfig(
        text_config={
            **half,
            "num_hidden_layers": 1,
            "vocab_size": 32,
            "max_position_embeddings": 8,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={**half, "num_hidden_layers": 27, "image_size": 384, "patch_size": 14},
    )
    with torch.random.fork_rng(devices=[]):
        model = SiglipModel(config)
    seed_weights(model, seed)
    with quiet():
        model.save_pretrained(folder)


def write_text_encoder(folder: Path, seed: int) -> None:
    """Write umT5's encoder and a tokenizer of letters."""
    from tokenizers import Tokenizer, models, processors
    from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=32, d_model=_TEXT_DIM, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    )
    with torch.random.fork_rng(devices=[]):
        encoder = UMT5EncoderModel(config)
    seed_weights(encoder, seed)
    encoder.encoder.embed_tokens.weight = encoder.shared.weight
    with quiet():
        encoder.save_pretrained(folder / "text_encoder")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0).save_pretrained(folder / "tokenizer")


def seed_weights(model: torch.nn.Module, seed: int) -> None:
    """Draw every weight anew: matrices keep the variance of what they map, biases are 0, norms 1.

    The residual branches of 30 blocks then add up to a few times the input: enough to mix tokens,
    too little to drown the image.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters(), key=lambda pair: pair[0]):
        draw = torch.randn(weight.shape, generator=generator)
        fan_in = math.prod(weight.shape[1:]) if weight.ndim > 1 else 1
        with torch.no_grad():
            weight.copy_(_scaled(name, weight, draw, fan_in))


def _scaled(name: str, weight: torch.Tensor, draw: torch.Tensor, fan_in: int) -> torch.Tensor:
    if name.endswith("scale_shift_table"):
        return 0.3 * draw
    if weight.ndim == 1 or name.endswith(("gamma", "logit_scale")):
        return (
            torch.zeros_like(draw) if "bias" in name or "logit" in name else torch.ones_like(draw)
        )
    if "position_embedding" in name:
        return 0.1 * draw
    return draw / math.sqrt(fan_in)


def spread_latents(vae: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
    """Give the posterior's mean about the published latents' mean and spread on an image."""
    z_dim = vae.config.z_dim
    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    with torch.no_grad():
        vae.quant_conv.weight.zero_()
        vae.quant_conv.weight[:z_dim, :z_dim, 0, 0, 0] = _LATENT_GAIN * torch.diag(std)
        vae.quant_conv.bias[:z_dim] = mean
