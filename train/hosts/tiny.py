"""Tiny hosts in the published layout: real classes, random weights, a letter a token.

They know nothing; they show that what is trained and saved fits the published ones.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vega3d.pipeline.files import whole_folder

_WIDTH = 64
_SPECIAL = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>", "<video>",
            "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")  # fmt: skip
_LETTERS = ["\n", *(chr(code) for code in range(32, 127))]
_IDS = {token: number for number, token in enumerate([*_SPECIAL, *_LETTERS])}
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% else %}%s{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT: dict[str, Any] = {
    "vocab_size": len(_IDS), "hidden_size": _WIDTH, "intermediate_size": 2 * _WIDTH,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 4096, "bos_token_id": _IDS["<|im_start|>"],
    "eos_token_id": _IDS["<|im_end|>"], "pad_token_id": _IDS["<pad>"],
}  # fmt: skip
_ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
_VISION: dict[str, Any] = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 8,
    "out_hidden_size": _WIDTH,
}  # fmt: skip


def write_tiny_host(name: str, folder: Path, seed: int = 0) -> None:
    """Write a host of `config.TINY`: the same bytes for a seed."""
    with torch.random.fork_rng(devices=[]), whole_folder(folder) as half_done:
        torch.manual_seed(seed)
        model, images, placeholder = _MAKERS[name]()
        model.generation_config.pad_token_id = _IDS["<pad>"]
        model.generation_config.eos_token_id = _IDS["<|im_end|>"]
        model.save_pretrained(half_done)
        images.save_pretrained(half_done)
        _tokenizer().save_pretrained(half_done)
        (half_done / "chat_template.jinja").write_text(_TEMPLATE.replace("%s", placeholder))


def _llava() -> tuple[Any, Any, str]:
    """Views of 64 x 64 px, 8 x 8 patches, halved to 4 x 4 tokens."""
    vision = SiglipVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                num_attention_heads=2, image_size=64, patch_size=8)  # fmt: skip
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=Qwen2Config(**_TEXT), vision_feature_layer=-1,
        image_token_id=_IDS["<image>"], video_token_id=_IDS["<video>"],
        image_grid_pinpoints=[[64, 64]],
    )  # fmt: skip
    half = [0.5, 0.5, 0.5]
    images = LlavaOnevisionImageProcessorPil(
        size={"height": 64, "width": 64}, image_mean=half, image_std=half,
        image_grid_pinpoints=[[64, 64]],
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration(config), images, "<video>\n"


def _qwen25() -> tuple[Any, Any, str]:
    vision = {**_VISION, "window_size": 32, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(
        vision_config=vision, text_config={**_TEXT, "rope_parameters": _ROPE}, **_qwen_ids()
    )
    return Qwen2_5_VLForConditionalGeneration(config), _qwen_images(), _QWEN_VIEW


def _qwen3() -> tuple[Any, Any, str]:
    vision = {**_VISION, "num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
    text = {**_TEXT, "head_dim": 16, "rope_parameters": _ROPE}
    config = Qwen3VLConfig(vision_config=vision, text_config=text, **_qwen_ids())
    return Qwen3VLForConditionalGeneration(config), _qwen_images(), _QWEN_VIEW


_QWEN_VIEW = "<|vision_start|><|image_pad|><|vision_end|>"
_MAKERS = {"tiny": _llava, "tiny-qwen2.5-vl": _qwen25, "tiny-qwen3-vl": _qwen3}


def _qwen_ids() -> dict[str, int]:
    return {
        "image_token_id": _IDS["<|image_pad|>"],
        "video_token_id": _IDS["<|video_pad|>"],
        "vision_start_token_id": _IDS["<|vision_start|>"],
        "vision_end_token_id": _IDS["<|vision_end|>"],
    }


def _qwen_images() -> Any:  # noqa: ANN401 - transformers is untyped here
    """Views of 5,120 px at most: 4 x 5 tokens of 2 x 2 patches of 8 x 8 px."""
    return Qwen2VLImageProcessorPil(
        patch_size=8, size={"shortest_edge": 256, "longest_edge": 64 * 80}
    )


def _tokenizer() -> Any:  # noqa: ANN401 - transformers is untyped here
    tokenizer = Tokenizer(models.WordLevel(_IDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(_SPECIAL[2:]),
        clean_up_tokenization_spaces=False,
    )
