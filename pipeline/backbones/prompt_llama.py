"""HunyuanVideo's empty prompt: Llama's rows of a template around nothing, and CLIP's pooled row.

Source: diffusers, pipeline_hunyuan_video.py (DEFAULT_PROMPT_TEMPLATE, _get_llama_prompt_embeds):
the third hidden state from the end, without the template's own tokens before the prompt.
"""

from pathlib import Path

import numpy as np

from vega3d.pipeline.backbones.prompt_clip import Rows, clip_rows, remembered
from vega3d.pipeline.backbones.weights import load_strictly

_HIDDEN_STATE = -3


def hunyuan_prompt(model: str) -> dict[str, np.ndarray]:
    """Return Llama's real rows as `prompt_embeds`, CLIP's as `pooled_prompt_embeds`."""

    def make(folder: Path) -> Rows:
        _, pooled = clip_rows(folder, "text_encoder_2", "tokenizer_2")
        return {"prompt_embeds": _llama_rows(folder), "pooled_prompt_embeds": pooled}

    parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    return remembered(model, parts, "empty_hunyuan", make)


def _llama_rows(folder: Path) -> np.ndarray:
    """Run Llama on the template, in bfloat16; it is causal, so padding would change nothing."""
    import torch
    from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video as pipeline
    from transformers import AutoTokenizer, LlamaModel

    template = pipeline.DEFAULT_PROMPT_TEMPLATE
    encoder = load_strictly(LlamaModel, folder / "text_encoder", torch.bfloat16)
    words = AutoTokenizer.from_pretrained(
        str(folder / "tokenizer"), trust_remote_code=False, local_files_only=True
    )
    ids = words(template["template"].format(""), return_tensors="pt").input_ids.long()
    with torch.inference_mode():
        states = encoder(input_ids=ids, output_hidden_states=True).hidden_states
    found: np.ndarray = states[_HIDDEN_STATE][0, template["crop_start"] :].float().numpy()
    return found
