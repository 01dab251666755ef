"""Wan and its relatives, small."""

import json
from pathlib import Path
from typing import Any

import torch

from vega3d.pipeline.backbones.small.seeded import seeded
from vega3d.pipeline.backbones.small.texts import write_clip_tower, write_processor
from vega3d.pipeline.backbones.tiny import spread_latents, write_text_encoder

DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 96,
    "num_layers": 4,
}


def write_wan_vae(folder: Path, **sizes: object) -> None:
    """Write Wan's VAE, small."""
    from diffusers import AutoencoderKLWan

    vae = seeded(AutoencoderKLWan, 1, **{"base_dim": 4, **sizes})
    spread_latents(vae)
    vae.save_pretrained(folder / "vae")


def write_wan(folder: Path, cls: str = "WanTransformer3DModel", **sizes: object) -> None:
    """Write a checkpoint of the Wan kind."""
    import diffusers

    seeded(getattr(diffusers, cls), 0, **{**DIT, **sizes}).save_pretrained(folder / "transformer")
    write_wan_vae(folder)
    write_text_encoder(folder, 2)


def write_vace(folder: Path) -> None:
    """Write VACE with hints at the blocks 0 and 2."""
    write_wan(folder, "WanVACETransformer3DModel", vace_layers=[0, 2])


def write_i2v(folder: Path) -> None:
    """Write an image-to-video model and CLIP's tower."""
    sizes: dict[str, Any] = {
        "in_channels": 36,
        "out_channels": 16,
        "image_dim": 32,
        "added_kv_proj_dim": 48,
    }
    write_wan(folder, **sizes)
    write_clip_tower(folder / "image_encoder", projected=False)
    write_processor(folder / "image_processor")


def write_wan22_i2v(folder: Path) -> None:
    """Write two experts that read an image's latent, and no CLIP."""
    write_wan22(folder, 0.9, in_channels=36, out_channels=16)


def write_wan22(folder: Path, boundary_ratio: float = 0.875, **sizes: Any) -> None:  # noqa: ANN401
    """Write two experts that differ."""
    import diffusers

    write_wan(folder, **sizes)
    second = seeded(diffusers.WanTransformer3DModel, 7, **{**DIT, **sizes})
    second.save_pretrained(folder / "transformer_2")
    index: dict[str, object] = {"_class_name": "WanPipeline", "boundary_ratio": boundary_ratio}
    index["transformer_2"] = ["diffusers", "WanTransformer3DModel"]
    (folder / "model_index.json").write_text(json.dumps(index))


def write_ti2v(folder: Path) -> None:
    """Write the small Wan2.2 with a VAE of 16 x 16 px."""
    import diffusers

    sizes = {**DIT, "in_channels": 48, "out_channels": 48}
    seeded(diffusers.WanTransformer3DModel, 0, **sizes).save_pretrained(folder / "transformer")
    rng = torch.Generator().manual_seed(4)
    write_wan_vae(
        folder,
        base_dim=8,
        decoder_base_dim=8,
        z_dim=48,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=torch.randn(48, generator=rng).tolist(),
        latents_std=(1 + torch.rand(48, generator=rng)).tolist(),
    )
    write_text_encoder(folder, 2)
