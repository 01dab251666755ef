"""Which streams are asked, and what is compared with what: the table of the desk paper."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vega3d.train.paper.comparing import difference, estimate
from vega3d.train.paper.config import PaperConfig
from vega3d.train.paper.questions import (
    QUESTIONS,
    Scores,
    blind_scores,
    read_rooms,
    score_stream,
)
from vega3d.train.paper.streams import read_features
from vega3d.train.pretrain.config import TableConfig

PRIOR, SEMANTIC, BOTH = "prior", "semantic", "semantic + prior"
RANDOM, RANDOM_SEMANTIC = "random prior", "random semantic"
SEMANTIC_RANDOM = "semantic + random prior"
STREAMS: dict[str, tuple[str, ...]] = {
    BOTH: (SEMANTIC, PRIOR),
    PRIOR: (PRIOR,),
    SEMANTIC: (SEMANTIC,),
    SEMANTIC_RANDOM: (SEMANTIC, RANDOM),
    RANDOM: (RANDOM,),
    RANDOM_SEMANTIC: (RANDOM_SEMANTIC,),
    "VAE latent": ("VAE latent",),
    "RGB": ("RGB",),
    "position": (),
}
"""Name -> the features that are read side by side; every probe sees the position too."""

PAIRS = (
    (PRIOR, RANDOM),
    (SEMANTIC, RANDOM_SEMANTIC),
    (PRIOR, "VAE latent"),
    (PRIOR, "RGB"),
    (PRIOR, "position"),
    (BOTH, SEMANTIC),
    (BOTH, PRIOR),
    (BOTH, SEMANTIC_RANDOM),
)


def compare_streams(scenes: str, stores: Mapping[str, str], config: PaperConfig) -> dict[str, Any]:
    """Return the score of every stream and every difference that the paper is about.

    Args:
        scenes: The rooms that the stores were made of.
        stores: By stream; a random twin has one for each seed.
        config: Sizes and seeds.
    """
    fits = TableConfig(fitted=config.fitted, epochs=config.epochs, seeds=config.seeds)
    rooms = read_rooms(scenes, stores[PRIOR])
    read = _Reader(stores)
    scores: dict[str, Scores] = {}
    for name, parts in _streams(config).items():
        by_seed = [[read(part, seed) for part in parts] for seed in config.seeds]
        scores[name] = score_stream(by_seed, rooms, fits)
    scores["blind"] = blind_scores(rooms, fits)
    pairs = [*PAIRS, *((name, PRIOR) for name in _streams(config) if name.startswith("prior, "))]
    samples = config.bootstrap_samples
    return {
        "rooms": config.rooms,
        "scores": {
            name: {q: estimate(values, samples) for q, values in found.items()}
            for name, found in scores.items()
        },
        "differences": [
            {
                "better": a,
                "than": b,
                "found": {
                    q: difference(scores[a][q], scores[b][q], sign, samples)
                    for q, (_, _, sign) in QUESTIONS.items()
                    if q in scores[a] and q in scores[b]
                },
            }
            for a, b in pairs
        ],
    }


def _streams(config: PaperConfig) -> dict[str, tuple[str, ...]]:
    return STREAMS | {f"prior, {name}": (f"prior, {name}",) for name in config.contexts}


class _Reader:
    """Features of a stream, read once; a random twin's are those of the seed."""

    def __init__(self, stores: Mapping[str, str]) -> None:
        self._stores = stores
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str, seed: int) -> Tensor:
        store = name if name in self._stores else f"{name} {seed}"
        if store not in self._held:
            self._held[store] = read_features(self._stores[store])
        return self._held[store]
