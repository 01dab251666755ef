"""Tiny checkpoints of generators: real classes, seeded weights, the published layout."""

import json
from pathlib import Path
from typing import Any

import torch

from vega3d.pipeline.backbones.preprocessing import OPENAI
from vega3d.pipeline.backbones.tiny import seed_weights, spread_latents, write_text_encoder
from vega3d.pipeline.backbones.weights import quiet

DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 96,
    "num_layers": 4,
}
CLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": 24,
}


def seeded(make: Any, seed: int, **sizes: object) -> Any:  # noqa: ANN401
    """Return a model of a class with weights from a seed; biases matter too."""
    with torch.random.fork_rng(devices=[]):  # the classes draw weights of their own first
        model = make(**sizes)
    seed_weights(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


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
    sizes = {"in_channels": 36, "out_channels": 16, "image_dim": 32, "added_kv_proj_dim": 48}
    write_wan(folder, **sizes)
    write_clip_tower(folder / "image_encoder", projected=False)
    write_processor(folder / "image_processor")


def write_clip_tower(folder: Path, *, projected: bool, side: int = 28) -> None:
    """Write CLIP's vision tower."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(**{**CLIP, "image_size": side})
    cls = CLIPVisionModelWithProjection if projected else CLIPVisionModel
    model = seeded(lambda: cls(config), 5)
    with quiet():
        model.save_pretrained(folder)


def write_processor(folder: Path) -> None:
    """Write what CLIP's processor does."""
    folder.mkdir(parents=True)
    side = {"height": CLIP["image_size"], "width": CLIP["image_size"]}
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": side,
        "size": {"shortest_edge": CLIP["image_size"]},
        "image_mean": list(OPENAI[0]),
        "image_std": list(OPENAI[1]),
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def write_wan22(folder: Path) -> None:
    """Write two experts that differ."""
    import diffusers

    write_wan(folder)
    second = seeded(diffusers.WanTransformer3DModel, 7, **DIT)
    second.save_pretrained(folder / "transformer_2")
    index = {"_class_name": "WanPipeline", "boundary_ratio": 0.875}
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
    "block_out_channels": (32, 32, 32, 32),
    "layers_per_block": 1,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
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


def write_clip_text(folder: Path, text: str, tokenizer: str) -> None:
    """Write CLIP's text tower and a tokenizer of letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    config = CLIPTextConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=12, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    with quiet():
        seeded(lambda: CLIPTextModel(config), 3).save_pretrained(folder / text)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    words |= {letter: 4 + k for k, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", model_max_length=12,
    ).save_pretrained(folder / tokenizer)  # fmt: skip


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
    seeded(AutoencoderKLTemporalDecoder, 1, **VAE).save_pretrained(folder / "vae")
    write_clip_tower(folder / "image_encoder", projected=True, side=224)
    write_processor(folder / "feature_extractor")


def write_t5(folder: Path, text: str, tokenizer: str) -> None:
    """Write T5's encoder and a tokenizer of letters."""
    from tokenizers import Tokenizer, models, processors
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    config = T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    encoder = seeded(lambda: T5EncoderModel(config), 6)
    encoder.encoder.embed_tokens.weight = encoder.shared.weight
    with quiet():
        encoder.save_pretrained(folder / text)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    made = Tokenizer(models.Unigram(pieces, unk_id=2))
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    T5TokenizerFast(tokenizer_object=made, extra_ids=0).save_pretrained(folder / tokenizer)


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


def write_ltx(folder: Path) -> None:
    """Write LTX-Video, small."""
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
    vae = seeded(
        AutoencoderKLLTXVideo, 1, latent_channels=16, block_out_channels=widths,
        decoder_block_out_channels=widths, layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )  # fmt: skip
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
