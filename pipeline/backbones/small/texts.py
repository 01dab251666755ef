"""Small text encoders and image towers beside a generator, with tokenizers of letters."""

import json
from pathlib import Path

from vega3d.pipeline.backbones.preprocessing import OPENAI
from vega3d.pipeline.backbones.small.seeded import seeded
from vega3d.pipeline.backbones.weights import quiet

CLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": 24,
}


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
