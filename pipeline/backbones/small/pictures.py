"""Image generators and Stable Video Diffusion, small."""

from pathlib import Path

from vega3d.pipeline.backbones.small.seeded import seeded
from vega3d.pipeline.backbones.small.texts import (
    CLIP,
    write_clip_text,
    write_clip_tower,
    write_processor,
    write_t5,
)

UNET = {
    "in_channels": 4,
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": (2, 2, 4, 4),
    "use_linear_projection": True,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "sample_size": 8,
}

VAE = {
    "block_out_channels": (8,) * 4,
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
}
_SVD_VAE = {
    **{name: value for name, value in VAE.items() if name != "norm_num_groups"},
    "block_out_channels": (32,) * 4,  # its class has 32 groups of channels
}


def write_sd_vae(folder: Path) -> None:
    """Write Stable Diffusion's VAE, small."""
    from diffusers import AutoencoderKL

    sizes = {**VAE, "up_block_types": ("UpDecoderBlock2D",) * 4}
    seeded(AutoencoderKL, 1, **sizes).save_pretrained(folder / "vae")


def write_sd(folder: Path) -> None:
    """Write Stable Diffusion 2.1 with a text tower and a tokenizer of letters."""
    from diffusers import UNet2DConditionModel

    seeded(UNet2DConditionModel, 0, **UNET).save_pretrained(folder / "unet")
    write_sd_vae(folder)
    write_clip_text(folder, "text_encoder", "tokenizer")


def write_svd(folder: Path) -> None:
    """Write Stable Video Diffusion."""
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel

    heads = UNET["attention_head_dim"]
    differing = {"attention_head_dim", "use_linear_projection", "down_block_types"}
    sizes = {k: v for k, v in UNET.items() if k not in {*differing, "up_block_types"}} | {
        "in_channels": 8,
        "num_attention_heads": heads,
        "cross_attention_dim": CLIP["projection_dim"],
        "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 48,
    }
    unet = seeded(UNetSpatioTemporalConditionModel, 0, **sizes)
    unet.save_pretrained(folder / "unet")
    seeded(AutoencoderKLTemporalDecoder, 1, **_SVD_VAE).save_pretrained(folder / "vae")
    write_clip_tower(folder / "image_encoder", projected=True, side=224)
    write_processor(folder / "feature_extractor")


def write_flux(folder: Path, **sizes: object) -> None:
    """Write FLUX with two double-stream and two single-stream blocks."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel

    usual = {
        "in_channels": 64,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 24,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 10, 10),
    }
    dit = seeded(FluxTransformer2DModel, 0, **{**usual, **sizes})
    dit.save_pretrained(folder / "transformer")
    vae = {
        **VAE,
        "latent_channels": 16,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    seeded(AutoencoderKL, 1, **vae).save_pretrained(folder / "vae")
    write_clip_text(folder, "text_encoder", "tokenizer")
    write_t5(folder, "text_encoder_2", "tokenizer_2")
