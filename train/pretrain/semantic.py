"""Pretrain a small SigLIP: the story of `vega3d-train pretrain semantic`.

Every picture of a batch meets every phrase of the batch: "dark green plain sofa" belongs to the
views that show one and to no other (the sigmoid loss, with several right phrases a picture). Whole
captions against whole pictures taught nothing in a trial of this size; phrases did.
Letters: B pictures, P phrases, L words.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from transformers import SiglipConfig, SiglipModel

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.train.checkpoint import write_json
from vega3d.train.journal import read_metrics
from vega3d.train.pretrain.clips import cache_views, views_folder
from vega3d.train.pretrain.config import PretrainRun, SemanticConfig
from vega3d.train.pretrain.generator import check_same
from vega3d.train.pretrain.loop import train
from vega3d.train.pretrain.saving import save_semantic
from vega3d.train.processes import Processes, join_processes

WORDS = 8
"""Most words of a phrase that the text half reads."""

PAD, UNKNOWN = 0, 1
_PRECISION_AT = 5
_log = logging.getLogger(__name__)
Phrases = list[list[list[str]]]
"""Of every scene, of every view."""


@runtime_checkable
class Describes(Protocol):
    """A scene source that says what its views show."""

    def phrases(self, scene_id: str) -> list[list[str]]:
        """Return each view's phrases."""
        ...


def pretrain_semantic(out: str, config: SemanticConfig, run: PretrainRun) -> dict[str, Any]:
    """Train both halves, and leave a transformers folder in `out`/model.

    Repeat the call to resume. Returns a summary: where the model is, the last scores.

    Raises:
        UsageError: `out` holds a run with another config, or the scenes cannot be described.
    """
    torch.set_num_threads(run.threads)
    folder = Path(out)
    with join_processes(run.device) as processes:
        if processes.is_first:
            check_same(folder, config.identity())
            _described(config.scenes, folder, config, run)
        processes.gather(None)  # the others wait for the files
        known = _described(config.scenes, folder, config, run)
        words = vocabulary(known.phrases)
        model = new_siglip(config, len(words) + 2)
        pairs = _Pairs(known, words, config, processes)
        asked = _Pairs(_described(config.choose, folder, config, run), words, config, processes)
        model = train(
            model,
            pairs.loss,
            asked.score,
            config.recipe,
            run,
            folder / "siglip",
            config.identity(),
            processes,
        )
        if processes.is_first:
            save_semantic(folder / "model", model, words)
    scores = [line for line in read_metrics(folder / "siglip") if line["kind"] == "val"]
    return {"model": str(folder / "model"), "siglip": scores[-1]}


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
    path = place / "phrases.json"
    if not path.exists():
        source = read_scenes(location)
        if not isinstance(source, Describes):
            raise UsageError(
                f"{location} says nothing about its views; a text half needs phrases, as rooms have"
            )
        found = [source.phrases(entry.scene_id) for entry in source.entries()]
        write_json(path, found)
    views = cache_views(location, place, config.height, config.width)
    return _Described(views, json.loads(path.read_text()))


class _Pairs:
    """Pictures and phrases of a batch: a pure function of the seed, the step and the process."""

    def __init__(
        self,
        described: _Described,
        words: Sequence[str],
        config: SemanticConfig,
        processes: Processes,
    ) -> None:
        self._at = [(part, i) for part in described.views for i in range(len(part))]
        self._phrases, self._words = described.phrases, words
        self._config, self._processes = config, processes

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Return the sigmoid loss of one step's pictures.

        Source: Zhai et al. 2023 (SigLIP), eq. 1, with several positives a picture.
        """
        rng = np.random.default_rng([self._config.seed, 1, step, self._processes.rank])
        count = min(self._config.batch, len(self._at))
        scenes = rng.choice(len(self._at), count, replace=False)
        picked = [(int(s), int(rng.integers(len(self._phrases[s])))) for s in scenes]
        logits, right = self._compare(model, picked)
        return -nn.functional.logsigmoid(torch.where(right, logits, -logits)).sum(1).mean()

    def score(self, model: nn.Module) -> dict[str, float]:
        """Return the share of right ones among the first five phrases, and of a blind choice."""
        picked = [(scene, 0) for scene in range(len(self._at))]
        with torch.no_grad():
            logits, right = self._compare(model, picked)
        best = logits.topk(min(_PRECISION_AT, logits.shape[1])).indices
        loss = -nn.functional.logsigmoid(torch.where(right, logits, -logits)).sum(1).mean()
        return {
            "loss": round(float(loss), 4),
            "precision_at_5": round(float(right.gather(1, best).float().mean()), 4),
            "chance": round(float(right.float().mean()), 4),
        }

    def _compare(self, model: Any, picked: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Return logits and right answers of pictures against all their phrases, [B, P]."""
        said = [self._phrases[scene][view] for scene, view in picked]
        phrases = sorted({phrase for view in said for phrase in view})
        right = torch.tensor([[phrase in view for phrase in phrases] for view in said])
        pictures = np.stack([self._at[s][0][self._at[s][1], v] for s, v in picked])
        device = self._processes.device
        pixels = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast(device.type, torch.bfloat16, enabled=self._config.amp):
            out = model(
                pixel_values=pixels,
                input_ids=word_numbers(phrases, self._words).to(device),
                interpolate_pos_encoding=True,
            )
        return out.logits_per_image.float(), right.to(device)
