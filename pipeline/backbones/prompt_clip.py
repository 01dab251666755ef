"""CLIP's rows of the empty prompt, encoded once where a run starts, then a small file.

All 77 rows are kept: the rows of padding are attended to. What the tokenizer pads with is its own.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from vega3d.pipeline.backbones.checkpoints import resolve_model
from vega3d.pipeline.backbones.hashing import weights_sha256
from vega3d.pipeline.backbones.weights import load_strictly
from vega3d.pipeline.files import write_whole
from vega3d.pipeline.places import cache_dir

Rows = Mapping[str, np.ndarray]


def remembered(
    model: str, parts: tuple[str, ...], name: str, make: Callable[[Path], Rows]
) -> dict[str, np.ndarray]:
    """Return arrays that follow from parts of a model: from the cache, else made and kept there.

    Args:
        model: Hub id or folder.
        parts: What the arrays follow from; their hash is in the file's name.
        name: Tells files of one hash apart.
        make: Given the folder, returns the arrays.
    """
    folder = resolve_model(model, parts)
    path = cache_dir() / f"{name}_{weights_sha256(folder, parts)[:32]}.safetensors"
    if path.exists():
        return dict(load_file(path))
    made = {key: np.ascontiguousarray(rows, np.float32) for key, rows in make(folder).items()}
    write_whole(path, save(made))
    return made


def clip_prompt(model: str, text: str, tokenizer: str) -> dict[str, np.ndarray]:
    """Return `prompt_embeds` [77, D], the text tower's last hidden states of the empty prompt."""

    def make(folder: Path) -> Rows:
        return {"prompt_embeds": clip_rows(folder, text, tokenizer)[0]}

    return remembered(model, (text, tokenizer), "empty_clip", make)


def clip_rows(folder: Path, text: str, tokenizer: str) -> tuple[np.ndarray, np.ndarray]:
    """Run CLIP's text tower on ""; return its rows [77, D] and the pooled row [D]."""
    import torch
    from transformers import AutoTokenizer, CLIPTextModel

    encoder = load_strictly(CLIPTextModel, folder / text, torch.float32)
    words = AutoTokenizer.from_pretrained(
        str(folder / tokenizer), trust_remote_code=False, local_files_only=True
    )
    length = int(encoder.config.max_position_embeddings)
    ids = words(
        "", padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        found = encoder(ids)
    return found.last_hidden_state[0].numpy(), found.pooler_output[0].numpy()
