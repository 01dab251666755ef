"""Which streams are asked, and what is compared with what: the table of the desk paper."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file
from torch import Tensor

from vega3d.evaluate.config import digest_of
from vega3d.pipeline.files import whole_file
from vega3d.pipeline.store.store import open_store
from vega3d.train.paper.comparing import difference, estimate
from vega3d.train.paper.config import VERSION, PaperConfig
from vega3d.train.paper.questions import (
    QUESTIONS,
    Rooms,
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


def compare_streams(
    scenes: str, stores: Mapping[str, str], folder: Path, config: PaperConfig
) -> dict[str, Any]:
    """Return the score of every stream and every difference that the paper is about.

    Args:
        scenes: The rooms that the stores were made of.
        stores: By stream; a random twin has one for each seed.
        folder: Gets each stream's scores, which are not made again.
        config: Sizes and seeds.
    """
    fits = TableConfig(fitted=config.fitted, epochs=config.epochs, seeds=config.seeds)
    rooms = read_rooms(scenes, stores[PRIOR])
    read = _Reader(stores)
    scores: dict[str, Scores] = {}
    for name, parts in _streams(config).items():
        scores[name] = _kept(
            folder,
            [
                scenes,
                asdict(fits),
                [[read.digest(part, s) for part in parts] for s in config.seeds],
            ],
            partial(_score, parts, read, rooms, fits),
        )
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


def _score(parts: Sequence[str], read: "_Reader", rooms: Rooms, fits: TableConfig) -> Scores:
    by_seed = [[read(part, seed) for part in parts] for seed in fits.seeds]
    return score_stream(by_seed, rooms, fits)


def _kept(folder: Path, follows_from: list[Any], make: Callable[[], Scores]) -> Scores:
    """Return scores as they were kept under what they follow from, or made and kept."""
    path = folder / f"{digest_of({'version': VERSION, 'of': follows_from})}.safetensors"
    if not path.exists():
        made = {name: values.copy(order="C") for name, values in make().items()}
        with whole_file(path) as temporary:
            save_file(made, temporary)
    return load_file(path)


def _streams(config: PaperConfig) -> dict[str, tuple[str, ...]]:
    return STREAMS | {f"prior, {name}": (f"prior, {name}",) for name in config.contexts}


class _Reader:
    """Features of a stream, read once; a random twin's are those of the seed."""

    def __init__(self, stores: Mapping[str, str]) -> None:
        self._stores = stores
        self._held: dict[str, Tensor] = {}

    def digest(self, name: str, seed: int) -> str:
        """Return what a stream's features are known by."""
        return open_store(self._stores[self._store(name, seed)]).digest()

    def __call__(self, name: str, seed: int) -> Tensor:
        """Return a stream's features."""
        store = self._store(name, seed)
        if store not in self._held:
            self._held[store] = read_features(self._stores[store])
        return self._held[store]

    def _store(self, name: str, seed: int) -> str:
        return name if name in self._stores else f"{name} {seed}"
