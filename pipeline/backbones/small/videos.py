"""Video generators of other houses, small."""

from pathlib import Path

import torch

from vega3d.pipeline.backbones.small.seeded import seeded
from vega3d.pipeline.backbones.small.texts import write_clip_text, write_t5
from vega3d.pipeline.backbones.small.wan import write_wan_vae
from vega3d.pipeline.backbones.weights import quiet


def write_cogvideox(folder: Path, **sizes: object) -> None:
    """Write CogVideoX, small."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

    usual = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 16,
        "num_layers": 4,
        "text_embed_dim": 32,
        "time_embed_dim": 32,
        "sample_width": 12,
        "sample_height": 8,
    }
    dit = seeded(CogVideoXTransformer3DModel, 0, **{**usual, **sizes})
    dit.save_pretrained(folder / "transformer")
    vae = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    made = seeded(AutoencoderKLCogVideoX, 1, **vae, scaling_factor=1.15)
    made.save_pretrained(folder / "vae")
    write_t5(folder, "text_encoder", "tokenizer")


LTX_LATER = {
    "block_out_channels": (8, 16, 16, 16, 16),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "spatio_temporal_scaling": (True,) * 4,
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "decoder_block_out_channels": (16, 16, 16),
    "decoder_layers_per_block": (1, 1, 1, 1),
    "decoder_spatio_temporal_scaling": (True,) * 3,
    "decoder_inject_noise": (False,) * 4,
    "upsample_residual": (True,) * 3,
    "upsample_factor": (2, 2, 2),
}
"""Of a VAE from 0.9.5 on."""


def write_ltx(folder: Path, **differing: object) -> None:
    """Write LTX-Video, small; `differing` sizes are the VAE's."""
    from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel

    sizes = {
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "cross_attention_dim": 48,
        "num_layers": 4,
        "caption_channels": 32,
    }
    dit = seeded(LTXVideoTransformer3DModel, 0, **sizes)
    dit.save_pretrained(folder / "transformer")
    widths = (8, 16, 16, 16)
    usual = {
        "latent_channels": 16,
        "block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
    }
    vae = seeded(AutoencoderKLLTXVideo, 1, **{**usual, **differing})
    rng = torch.Generator().manual_seed(4)
    vae.latents_mean.copy_(torch.randn(16, generator=rng))
    vae.latents_std.copy_(1 + torch.rand(16, generator=rng))
    vae.save_pretrained(folder / "vae")
    write_t5(folder, "text_encoder", "tokenizer")


def write_cosmos(folder: Path) -> None:
    """Write Cosmos-Predict2, small."""
    from diffusers import CosmosTransformer3DModel

    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "num_layers": 4,
        "text_embed_dim": 32,
        "adaln_lora_dim": 8,
        "max_size": (16, 240, 240),
        "rope_scale": (1.0, 4.0, 4.0),
        "extra_pos_embed_type": None,
    }
    seeded(CosmosTransformer3DModel, 0, **sizes).save_pretrained(folder / "transformer")
    write_wan_vae(folder)
    write_t5(folder, "text_encoder", "tokenizer")


def write_hunyuan(folder: Path) -> None:
    """Write HunyuanVideo with two double-stream and two single-stream blocks, and Llama."""
    from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoTransformer3DModel
    from transformers import LlamaConfig, LlamaModel

    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "num_layers": 2,
        "num_single_layers": 2,
        "num_refiner_layers": 1,
        "text_embed_dim": 32,
        "pooled_projection_dim": 32,
        "rope_axes_dim": (4, 10, 10),
    }
    dit = seeded(HunyuanVideoTransformer3DModel, 0, **sizes)
    dit.save_pretrained(folder / "transformer")
    vae = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    seeded(AutoencoderKLHunyuanVideo, 1, **vae).save_pretrained(folder / "vae")
    write_clip_text(folder, "text_encoder_2", "tokenizer_2")
    write_t5(folder, "unused", "tokenizer")  # any tokenizer that pads
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    llama = seeded(lambda: LlamaModel(config), 8)
    with quiet():
        llama.save_pretrained(folder / "text_encoder")
