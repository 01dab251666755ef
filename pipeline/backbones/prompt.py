"""The embedding of the empty prompt: encoded once with umT5, then a small file.

The text encoder is the largest part of a Wan checkpoint: 5.68 G parameters, 22.7 of its 29 GB as
published in float32, held in bfloat16 here (11 GB). The prompt never changes, so no worker loads
it: whoever starts a run encodes the prompt and hands on the rows. `--prompt-embeds FILE` spares it,
with the `prompt_embeds` of the empty prompt as any diffusers pipeline gives them:

    embeds, _ = pipeline.encode_prompt("", do_classifier_free_guidance=False)
    safetensors.torch.save_file({"prompt_embeds": embeds.contiguous()}, "empty.safetensors")

What the files of other pipelines hold is told in `prompt_given`.
"""

import hashlib
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vega3d.pipeline.backbones.checkpoints import resolve_model
from vega3d.pipeline.backbones.fetching import announce
from vega3d.pipeline.backbones.hashing import weights_sha256
from vega3d.pipeline.backbones.prompt_given import read_prompt
from vega3d.pipeline.backbones.settings import Prompt
from vega3d.pipeline.backbones.weights import load_strictly
from vega3d.pipeline.errors import CheckpointError
from vega3d.pipeline.files import write_whole

logger = logging.getLogger(__name__)

TEXT_PARTS = ("text_encoder", "tokenizer")

_TENSOR = "prompt_embeds"
_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")
_EITHER = re.compile("|".join(map(re.escape, _EMBEDDINGS)))


def empty_prompt_embedding(model: str, cache_dir: Path) -> Float32[np.ndarray, "L D"]:
    """Return umT5's rows of the empty prompt, from the cache where it was encoded before.

    Args:
        model: Hub id or folder with text_encoder/ and tokenizer/.
        cache_dir: Where the small file is kept, under a name made of the hash of these two parts.

    Returns:
        One row per token that is not padding: the end-of-sequence token alone.
    """
    hint = (
        ". The text encoder is most of it, and encodes one empty prompt: --prompt-embeds spares it"
    )
    announce(model, (*TEXT_PARTS, "transformer", "vae"), hint)
    folder = resolve_model(model, TEXT_PARTS)
    name = f"empty_prompt_{weights_sha256(folder, TEXT_PARTS)[:32]}.safetensors"
    path = cache_dir / name
    if path.exists():
        return read_prompt(path, kept="filled")[_TENSOR]
    rows = _encode_empty_prompt(folder)
    write_whole(path, save({_TENSOR: rows}))
    logger.info("empty prompt encoded to %s", path)
    return rows


def prompt_sha256(prompt: Prompt) -> str:
    """Hash a prompt's arrays, for the digest of a store: another prompt gives other features."""
    digest = hashlib.sha256()
    for name, rows in prompt.items():
        if name != _TENSOR:  # the first and for long the only one goes without its name
            digest.update(name.encode())
        digest.update(f"{rows.shape}".encode() + np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()


def _encode_empty_prompt(folder: Path) -> Float32[np.ndarray, "L D"]:
    """Run the real text encoder on "", in bfloat16 as the weights are published.

    Without padding there is nothing to mask: these are the rows that masking 512 would leave.
    """
    import torch
    from transformers import AutoTokenizer, UMT5EncoderModel

    encoder = load_t5(UMT5EncoderModel, folder / "text_encoder")
    tokenizer = AutoTokenizer.from_pretrained(
        str(folder / "tokenizer"), trust_remote_code=False, local_files_only=True
    )
    ids = tokenizer("", add_special_tokens=True, return_tensors="pt").input_ids.long()
    if ids.shape[1] == 0:
        raise CheckpointError(f"{folder / 'tokenizer'}: adds no end-of-sequence token to a prompt")
    with torch.inference_mode():
        rows = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    return np.ascontiguousarray(rows.float().numpy())


def load_t5(cls: type, place: Path) -> Any:  # noqa: ANN401 - transformers is untyped here
    """Load the encoder of umT5 or T5, and tie its two names of the token embedding by hand.

    umT5's config says `tie_word_embeddings: false` (it means the decoder's head), and transformers
    from 5.0 on may leave whichever of `shared` and `encoder.embed_tokens` the file lacks unset:
    https://github.com/huggingface/transformers/pull/43880 and issue 43992.
    """
    import torch

    stored = _stored_names(place)
    if not (names := [name for name in _EMBEDDINGS if name in stored]):
        raise CheckpointError(
            f"{place}: holds no token embedding, neither {' nor '.join(_EMBEDDINGS)}"
        )
    encoder = load_strictly(cls, place, torch.bfloat16, may_miss=_EITHER)
    source = encoder.shared if names[0] == "shared.weight" else encoder.encoder.embed_tokens
    encoder.shared.weight = source.weight
    encoder.encoder.embed_tokens.weight = source.weight
    return encoder


def _stored_names(place: Path) -> set[str]:
    names: set[str] = set()
    for path in sorted(place.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as stored:
                names.update(stored.keys())
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a readable .safetensors file: {error}") from error
    return names
