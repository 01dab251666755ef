"""Save trained models in the published layouts: nothing downstream can tell the difference."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast, T5TokenizerFast, UMT5Config, UMT5EncoderModel

from vega3d.pipeline.backbones.weights import quiet
from vega3d.pipeline.files import whole_folder
from vega3d.train.pretrain.config import GeneratorConfig


def save_generator(
    folder: Path,
    transformer: Any,  # noqa: ANN401 - diffusers is untyped here
    vae: Any,  # noqa: ANN401
    config: GeneratorConfig,
) -> None:
    """Write a Wan folder in diffusers layout, whole or not at all.

    Its text encoder is the smallest real one whose last norm is zero, so that the empty prompt is
    the zero rows that the DiT was trained with.
    """
    with whole_folder(folder) as half_done:
        in_half(transformer).save_pretrained(half_done / "transformer")
        in_half(vae).save_pretrained(half_done / "vae")
        _save_text_encoder(half_done, config.text_dim)


def in_half(model: nn.Module) -> Any:  # noqa: ANN401
    """Return a copy in float16 on the CPU."""
    with torch.no_grad():
        return copy.deepcopy(model).cpu().to(torch.float16)


def save_semantic(folder: Path, model: Any, words: Sequence[str]) -> None:  # noqa: ANN401
    """Write a SigLIP folder in transformers layout, words as a tokenizer; whole or not at all."""
    numbers = {"<pad>": 0, "<unk>": 1, **{word: i + 2 for i, word in enumerate(words)}}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=model.config.text_config.max_position_embeddings,
    )
    with whole_folder(folder) as half_done:
        with quiet():
            in_half(model).save_pretrained(half_done)
        fast.save_pretrained(half_done)


def _save_text_encoder(folder: Path, width: int) -> None:
    """Write a text encoder that knows no word and turns every prompt into zeros."""
    config = UMT5Config(vocab_size=8, d_model=width, d_kv=8, d_ff=8, num_layers=1, num_heads=1)
    with torch.random.fork_rng(devices=[]):
        encoder = UMT5EncoderModel(config)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.zero_()
    encoder.encoder.embed_tokens.weight = encoder.shared.weight
    with quiet():
        encoder.to(torch.float16).save_pretrained(folder / "text_encoder")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0).save_pretrained(folder / "tokenizer")
