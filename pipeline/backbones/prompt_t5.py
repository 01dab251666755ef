"""T5's rows of the empty prompt, as generators read them that attend to padding too.

Unlike Wan's, these pipelines let the text encoder see the padding, and give the rows of all of it
to the transformer: diffusers, pipeline_flux.py and pipeline_cogvideox.py (no attention mask).
"""

from pathlib import Path
from typing import Literal

import numpy as np

from vega3d.pipeline.backbones.prompt import load_t5
from vega3d.pipeline.backbones.prompt_clip import Rows, clip_rows, remembered

Kept = Literal["all", "real", "alone"]
"""All rows, padding too; the real ones, encoded beside padding; the same, encoded without it."""


def t5_prompt(model: str, rows: int, kept: Kept = "all") -> dict[str, np.ndarray]:
    """Return `prompt_embeds` [rows, D] of the empty prompt, by text_encoder/ and tokenizer/.

    Args:
        model: Hub id or folder.
        rows: That the prompt is padded to.
        kept: Which of them the transformer reads.
    """

    def make(folder: Path) -> Rows:
        return {"prompt_embeds": t5_rows(folder, "text_encoder", "tokenizer", rows, kept)}

    return remembered(model, ("text_encoder", "tokenizer"), f"empty_t5_{rows}_{kept}", make)


def flux_prompt(model: str, rows: int) -> dict[str, np.ndarray]:
    """Return T5's rows as `prompt_embeds`, and CLIP's pooled row as `pooled_prompt_embeds`."""

    def make(folder: Path) -> Rows:
        _, pooled = clip_rows(folder, "text_encoder", "tokenizer")
        long = t5_rows(folder, "text_encoder_2", "tokenizer_2", rows)
        return {"prompt_embeds": long, "pooled_prompt_embeds": pooled}

    parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    return remembered(model, parts, f"empty_flux_{rows}", make)


def t5_rows(folder: Path, text: str, tokenizer: str, rows: int, kept: Kept = "all") -> np.ndarray:
    """Run T5's encoder on the empty prompt, in bfloat16; see `t5_prompt`."""
    import torch
    from transformers import AutoTokenizer, T5EncoderModel

    encoder = load_t5(T5EncoderModel, folder / text)
    words = AutoTokenizer.from_pretrained(
        str(folder / tokenizer), trust_remote_code=False, local_files_only=True
    )
    real = words("", return_tensors="pt").input_ids.long()
    ids = real
    if kept != "alone":
        ids = words(
            "", padding="max_length", max_length=rows, truncation=True, return_tensors="pt"
        ).input_ids.long()
    with torch.inference_mode():
        found: np.ndarray = encoder(ids).last_hidden_state[0].float().numpy()
    return found if kept == "all" else found[: real.shape[1]]
