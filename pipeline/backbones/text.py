"""Vectors of texts: counted words, SigLIP's text half, or any sentence encoder by hub id.

`words` needs no weights: every word and pair of neighbours counts in one of 512 hashed places. A
SigLIP (`desk`, a hub id, a folder) gives its projected text feature; any other model the mean of
its last hidden states over the tokens, as sentence encoders are read. Letters: T texts, E channels.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from vega3d.pipeline.backbones.settings import DESK
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import write_whole

WORDS = "words"
_PLACES = 512
_BATCH = 64


def embed_texts(
    model: str, texts: Sequence[str], cache: str | Path | None = None
) -> Float32[np.ndarray, "T E"]:
    """Return a vector of length 1 for every text; each text is embedded once and kept.

    Args:
        model: `words`, `desk`, a hub id or a folder.
        texts: Any.
        cache: Folder of what was embedded before; None takes `vega3d/texts` in the user's cache.

    Raises:
        UsageError: There is no such model, or it has no text half.
    """
    if model == WORDS:
        return np.stack([_counted(text) for text in texts]) if texts else _none()
    folder = _cache_folder() if cache is None else Path(cache)
    folder /= hashlib.blake2b(_identity(model).encode(), digest_size=8).hexdigest()
    kept = {text: folder / f"{_key(text)}.npy" for text in dict.fromkeys(texts)}
    wanted = [text for text, path in kept.items() if not path.exists()]
    if wanted:
        folder.mkdir(parents=True, exist_ok=True)
        for text, vector in zip(wanted, _encode(model, wanted), strict=True):
            write_whole(kept[text], _as_npy(vector))
    return np.stack([np.load(kept[text]) for text in texts]) if texts else _none()


def _none() -> Float32[np.ndarray, "T E"]:
    return np.zeros((0, _PLACES), np.float32)


def _counted(text: str) -> Float32[np.ndarray, " E"]:
    words = ["<", *re.findall(r"[a-z0-9.]+", text.lower()), ">"]
    found = np.zeros(_PLACES, np.float32)
    for gram in (*words, *(f"{a} {b}" for a, b in pairwise(words))):
        place = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest())
        found[place % _PLACES] += 1.0 if (place >> 40) % 2 else -1.0
    return found / max(float(np.linalg.norm(found)), 1e-6)


def _encode(model: str, texts: Sequence[str]) -> Float32[np.ndarray, "T E"]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    place = _place(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        network: Any = AutoModel.from_pretrained(place, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        raise UsageError(f"{model}: cannot be loaded as an encoder of texts: {error}") from error
    siglip = hasattr(network, "get_text_features")
    longest = min(int(tokenizer.model_max_length), 512)
    vectors = []
    for first in range(0, len(texts), _BATCH):
        batch = list(texts[first : first + _BATCH])
        given = tokenizer(
            batch,
            padding="max_length" if siglip else True,  # as SigLIP was trained
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        )
        with torch.no_grad():
            if siglip:
                found = network.get_text_features(input_ids=given["input_ids"])
                vectors.append(getattr(found, "pooler_output", found))
            else:
                hidden = network(**given).last_hidden_state
                seen = given["attention_mask"][..., None].float()
                vectors.append((hidden * seen).sum(1) / seen.sum(1).clamp(min=1))
    stacked = torch.cat(vectors)
    return np.asarray(torch.nn.functional.normalize(stacked, dim=-1).numpy())


def _place(model: str) -> str:
    if model == DESK:
        return str(Path(__file__).parent / "desk" / "semantic")
    return model


def _identity(model: str) -> str:
    """Return what a model is known by: a folder by its files' sizes and times, else its name."""
    folder = Path(_place(model))
    if not folder.is_dir():
        return model
    files = sorted(path for path in folder.iterdir() if path.is_file())
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return json.dumps([str(folder.resolve()), stats])


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "vega3d" / "texts"


def _key(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _as_npy(vector: Float32[np.ndarray, " E"]) -> bytes:
    file = io.BytesIO()
    np.save(file, vector.astype(np.float32))
    return file.getvalue()
