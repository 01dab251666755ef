"""Settings of the desk paper. Standard library only, so that `--help` stays light."""

from dataclasses import dataclass, replace

from vega3d.train.config import VARIANTS, Variant

VERSION = 2
"""Counts changes of the arithmetic: parts of another are made anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperConfig:
    """Decides the numbers of the desk paper."""

    prior: str = "desk"
    """The generator: `desk`, or a folder that `vega3d-train pretrain generator` left."""

    semantic: str = "desk"
    """The semantic model, likewise."""

    rooms: int = 80
    """Rooms that are scored; nothing is fitted on them."""

    fitted: int = 300
    """Rooms that probes and fusions are fitted on, of the same seed; every sixth judges the probes.
    On few rooms a probe of two streams side by side learns the rooms by heart: from 30, 60 and 100
    of them (seed 102, no judges) it read depth with R2 0.11, 0.22 and 0.26."""

    map_rooms: int = 24
    """Rooms of the maps over block and timestep: of another seed, so that a choice made from
    the maps is not made on the rooms that are scored."""

    views: int = 4
    """Views of a room."""

    test_seed: int = 103
    """Seed of the rooms that are fitted on and scored."""

    choose_seed: int = 102
    """Seed of the rooms of the maps."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of probes and fusions, and of the random twins: each seed meets a twin of its own."""

    epochs: int = 4
    """Passes of each of a probe's two fits over the tokens that it is fitted on."""

    map_timesteps: tuple[int, ...] = (100, 300, 500, 700, 900)
    """Columns of the maps."""

    map_blocks: tuple[int, ...] = ()
    """Rows of the maps; none named is all."""

    contexts: tuple[str, ...] = ("clip", "stack")
    """How views go through the generator, beside one by one."""

    variants: tuple[Variant, ...] = VARIANTS
    """Fusions that are compared; adaptive, semantic, generative and blind are among them."""

    fusion_steps: int = 300
    """Optimiser steps of each."""

    fusion_dim: int = 64
    """Width of each."""

    bootstrap_samples: int = 2000
    """Resamples of rooms and seeds behind each interval."""

    quick: bool = False
    """Try the way: a few rooms, one seed, few steps. Its numbers mean nothing."""

    def __post_init__(self) -> None:
        """Check every field once."""
        for name in ("rooms", "fitted", "map_rooms", "views", "epochs", "fusion_steps"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be 2 or more, got {getattr(self, name)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more, all different, got {self.seeds}")
        if self.test_seed == self.choose_seed:
            raise ValueError("test_seed and choose_seed must differ: maps are looked at to choose")
        if missing := {"adaptive", "semantic", "generative", "blind"} - set(self.variants):
            raise ValueError(f"variants must hold {', '.join(sorted(missing))} too")
        if unknown := set(self.contexts) - {"clip", "stack"}:
            raise ValueError(f"contexts must be of clip and stack, got {sorted(unknown)} too")

    def sized(self) -> "PaperConfig":
        """Return the config itself, or with the sizes of `quick`."""
        if not self.quick:
            return self
        return replace(
            self,
            rooms=3,
            fitted=3,
            map_rooms=2,
            views=2,
            seeds=self.seeds[:1],
            epochs=2,
            map_timesteps=(300, 700),
            map_blocks=(1, 3),
            contexts=("stack",),
            variants=("adaptive", "semantic", "generative", "blind"),
            fusion_steps=4,
            fusion_dim=16,
            bootstrap_samples=100,
            quick=False,
        )

    def scenes(self, *, maps: bool = False) -> str:
        """Return the location of the rooms: those fitted on first, then those scored."""
        count = self.map_rooms if maps else self.fitted + self.rooms
        seed = self.choose_seed if maps else self.test_seed
        return f"rooms:{count}?views={self.views}&height=128&width=160&seed={seed}"
