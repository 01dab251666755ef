"""Loading Wan2.1's two networks from a diffusers layout, checked, and cut to what a tap needs."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from vega3d.pipeline.backbones.checkpoints import check_class
from vega3d.pipeline.backbones.weights import load_strictly
from vega3d.pipeline.errors import CheckpointError


def load_transformer(folder: Path, last_block: int, dtype: str, device: str) -> Any:  # noqa: ANN401 - diffusers is untyped here
    """Load the DiT in float32 and drop what comes after the last tap.

    With dtype bfloat16 the weights of the big matrix products are then held in bfloat16; norms,
    time embedding and modulation stay float32 as the official model keeps them.

    Source: Wan-Video/Wan2.1, wan/modules/model.py (the asserts on float32).
    """
    config = check_class(folder, "transformer", "WanTransformer3DModel")
    if config.get("image_dim") or config.get("added_kv_proj_dim"):
        raise CheckpointError(
            f"{folder / 'transformer'}: is an image-to-video model and needs an image; "
            f"give a text-to-video one such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
        )
    if tuple(config["patch_size"]) != (1, 2, 2):
        raise CheckpointError(
            f"{folder / 'transformer'}: patch_size must be (1, 2, 2), found {config['patch_size']}"
        )
    transformer = load_strictly(WanTransformer3DModel, folder / "transformer", torch.float32)
    transformer.blocks = transformer.blocks[: last_block + 1]
    del transformer.norm_out, transformer.proj_out, transformer.scale_shift_table
    if dtype == "bfloat16":
        _hold_in_bfloat16(transformer)
    return transformer.to(device)


def load_vae(folder: Path, latent_channels: int, device: str) -> Any:  # noqa: ANN401 - diffusers is untyped here
    """Load the VAE in float32 and drop its decoder."""
    config = check_class(folder, "vae", "AutoencoderKLWan")
    if config["z_dim"] != latent_channels or config.get("patch_size") is not None:
        raise CheckpointError(
            f"{folder / 'vae'}: must be Wan2.1's VAE with the transformer's {latent_channels} "
            f"latent channels, found z_dim {config['z_dim']}, patch_size {config.get('patch_size')}"
        )
    vae = load_strictly(AutoencoderKLWan, folder / "vae", torch.float32)
    vae.decoder = vae.post_quant_conv = None
    return vae.to(device)


def _hold_in_bfloat16(transformer: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
    """Cast the big matrices, and feed query and key norms float32 as the official model does."""
    transformer.condition_embedder.text_embedder.to(torch.bfloat16)
    for block in transformer.blocks:
        block.ffn.to(torch.bfloat16)
        for attention in (block.attn1, block.attn2):
            for linear in (attention.to_q, attention.to_k, attention.to_v, attention.to_out):
                linear.to(torch.bfloat16)
            for norm in (attention.norm_q, attention.norm_k):
                norm.register_forward_pre_hook(_to_float32)


def _to_float32(_module: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (args[0].float(),)
