"""Pretrain a small SigLIP: the story of `vega3d-train pretrain semantic`.

Every picture of a batch meets every phrase of the batch: "dark green plain sofa" belongs to the
views that show one and to no other (the sigmoid loss, with several right phrases a picture). Whole
captions against whole pictures taught nothing in a trial of this size; phrases did.
Letters: B pictures, P phrases, L words.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from vega3d.pipeline.backbones.checkpoints import resolve_model
from vega3d.train.journal import read_metrics
from vega3d.train.pretrain.clips import cache_phrases, cache_views, views_folder
from vega3d.train.pretrain.config import PretrainRun, SemanticConfig
from vega3d.train.pretrain.generator import check_same
from vega3d.train.pretrain.loop import Place, compile_each, train
from vega3d.train.pretrain.pictures import Pictures
from vega3d.train.pretrain.saving import save_semantic
from vega3d.train.pretrain.starting import identity_of, take_weights
from vega3d.train.processes import Processes, join_processes

WORDS = 8
"""Most words of a phrase that the text half reads."""

PAD, UNKNOWN = 0, 1
_PRECISION_AT = 5
_log = logging.getLogger(__name__)
Phrases = list[list[list[str]]]
"""Of every scene, of every view."""


def pretrain_semantic(out: str, config: SemanticConfig, run: PretrainRun) -> dict[str, Any]:
    """Train both halves, and leave a transformers folder in `out`/model.

    Repeat the call to resume. Returns a summary: where the model is, its steps, the last scores.

    Raises:
        UsageError: `out` holds a run with another config, or the scenes cannot be described.
    """
    torch.set_num_threads(run.threads)
    folder, begun_s, identity = Path(out), time.monotonic(), identity_of(config)
    with join_processes(run.device) as processes:
        if processes.is_first:
            check_same(folder, identity)
            _described(config.scenes, folder, config, run)
            _described(config.choose, folder, config, run)
        processes.gather(None)  # the others wait for the files
        known = _described(config.scenes, folder, config, run)
        words = known_words(config.init) if config.init else vocabulary(known.phrases)
        model: Any = new_siglip(config, len(words) + 2)
        if config.init:
            take_weights(model, config.init, ".")
        if run.compile:
            compile_each(model.vision_model.encoder.layers)
        pairs = _Pairs(known, words, config, processes)
        asked = _Pairs(_described(config.choose, folder, config, run), words, config, processes)
        ends_s = begun_s + 60 * run.max_minutes if run.max_minutes else math.inf
        place = Place(folder / "siglip", identity, run, processes, ends_s)
        model, steps = train(model, pairs.loss, asked.score, config.recipe, place)
        if processes.is_first:
            save_semantic(folder / "model", model, words)
    scores = [line for line in read_metrics(folder / "siglip") if line["kind"] == "val"]
    return {"model": str(folder / "model"), "steps": steps, "siglip": scores[-1]}


def new_siglip(config: SemanticConfig, num_words: int) -> SiglipModel:
    """Return both halves with random weights, as the config's seed gives them."""
    half = {"hidden_size": config.hidden, "num_attention_heads": config.heads}
    siglip = SiglipConfig(
        text_config={
            **half,
            "intermediate_size": 2 * config.hidden,
            "num_hidden_layers": config.text_layers,
            "vocab_size": num_words,
            "max_position_embeddings": WORDS,
            "projection_size": config.hidden,
            "bos_token_id": PAD,
            "eos_token_id": PAD,
            "pad_token_id": PAD,
        },
        vision_config={
            **half,
            "intermediate_size": config.ffn_dim,
            "num_hidden_layers": config.layers,
            "image_size": config.height,
            "patch_size": 16,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = SiglipModel(siglip)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10))
        model.logit_bias.fill_(-4.0)
    return model


def vocabulary(phrases: Phrases) -> list[str]:
    """Return every word, sorted; the first two numbers are for padding and unknown words."""
    return sorted({word for scene in phrases for view in scene for p in view for word in p.split()})


def known_words(init: str) -> list[str]:
    """Return the words of a trained model, in the order of their numbers."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(resolve_model(init, (".",))))
    numbers: dict[str, int] = tokenizer.get_vocab()
    return sorted((word for word in numbers if numbers[word] > UNKNOWN), key=lambda w: numbers[w])


def word_numbers(phrases: Sequence[str], words: Sequence[str]) -> Tensor:
    """Return [P, L] word numbers, padded."""
    number = {word: index + 2 for index, word in enumerate(words)}
    rows = np.full((len(phrases), WORDS), PAD)
    for row, phrase in zip(rows, phrases, strict=True):
        found = [number.get(word, UNKNOWN) for word in phrase.split()][:WORDS]
        row[: len(found)] = found
    return torch.from_numpy(rows)


@dataclasses.dataclass(frozen=True, slots=True)
class _Described:
    views: list[np.ndarray]
    """[S, V, H, W, 3] in parts."""

    phrases: Phrases


def _described(location: str, folder: Path, config: SemanticConfig, run: PretrainRun) -> _Described:
    """Return views and phrases of a source, kept on disk."""
    place = views_folder(location, config.height, config.width, run.cache, folder)
    phrases = cache_phrases(location, place, run.workers)
    views = cache_views(location, place, config.height, config.width, run.workers)
    return _Described(views, phrases)


class _Pairs:
    """Pictures and phrases of a batch: a pure function of the seed, the step and the process."""

    def __init__(
        self,
        described: _Described,
        words: Sequence[str],
        config: SemanticConfig,
        processes: Processes,
    ) -> None:
        self._pictures = Pictures(described.views, processes.device)
        phrases = sorted({p for scene in described.phrases for view in scene for p in view})
        self._words = word_numbers(phrases, words).to(processes.device)
        self._said = _numbered(described.phrases, phrases)
        self._config, self._processes = config, processes

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Return the sigmoid loss of one step's pictures, half of them mirrored.

        Source: Zhai et al. 2023 (SigLIP), eq. 1, with several positives a picture.
        """
        rng = np.random.default_rng([self._config.seed, 1, step, self._processes.rank])
        count = min(self._config.batch, len(self._pictures))
        scenes = rng.choice(len(self._pictures), count, replace=False)
        views = rng.integers(self._said.shape[1], size=count)
        logits, right = self._compare(model, scenes, views, rng.uniform(size=count) < 0.5)
        return -nn.functional.logsigmoid(torch.where(right, logits, -logits)).sum(1).mean()

    def score(self, model: nn.Module) -> dict[str, float]:
        """Return the share of right ones among the first five phrases, and of a blind choice."""
        scenes = np.arange(len(self._pictures))
        with torch.no_grad():
            logits, right = self._compare(model, scenes, 0 * scenes, scenes < 0)
        best = logits.topk(min(_PRECISION_AT, logits.shape[1])).indices
        loss = -nn.functional.logsigmoid(torch.where(right, logits, -logits)).sum(1).mean()
        return {
            "loss": round(float(loss), 4),
            "precision_at_5": round(float(right.gather(1, best).float().mean()), 4),
            "chance": round(float(right.float().mean()), 4),
        }

    def _compare(
        self,
        model: Any,  # noqa: ANN401
        scenes: np.ndarray,
        views: np.ndarray,
        is_mirrored: np.ndarray,
    ) -> tuple[Tensor, Tensor]:
        """Return logits and right answers of pictures against all their phrases, [B, P]."""
        device = self._processes.device
        pictures = self._pictures.take(scenes, views).permute(0, 3, 1, 2)
        mirrored = torch.from_numpy(is_mirrored).to(device)[:, None, None, None]
        pixels = torch.where(mirrored, pictures.flip(3), pictures).float() / 127.5 - 1
        said = self._said[scenes, views]
        phrases = np.unique(said[said >= 0])
        picture, place = np.nonzero(said >= 0)
        right = np.zeros((len(said), len(phrases)), bool)
        right[picture, np.searchsorted(phrases, said[picture, place])] = True
        with torch.autocast(device.type, torch.bfloat16, enabled=self._config.amp):
            out = model(
                pixel_values=pixels,
                input_ids=self._words[torch.from_numpy(phrases)],
                interpolate_pos_encoding=True,
            )
        return out.logits_per_image.float(), torch.from_numpy(right).to(device)


def _numbered(phrases: Phrases, known: Sequence[str]) -> np.ndarray:
    """Return every view's phrases as numbers, [S, V, phrases of the richest view], -1 for none."""
    number = {phrase: index for index, phrase in enumerate(known)}
    longest = max(len(view) for scene in phrases for view in scene)
    rows = np.full((len(phrases), min(len(scene) for scene in phrases), longest), -1)
    for s, v in np.ndindex(rows.shape[:2]):
        rows[s, v, : len(phrases[s][v])] = [number[phrase] for phrase in phrases[s][v]]
    return rows
