"""What decides the numbers of a pretraining run, and what only decides how it is carried out."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainRun:
    """How a run is carried out: changes no number on the same machine."""

    device: str = "auto"
    """auto (cuda where torch sees a GPU, else cpu), cpu, cuda, or cuda:N; torchrun starts one
    process a GPU."""

    threads: int = 1
    """Threads of torch on the CPU, each process."""

    save_every: int = 100
    """Steps between two states to resume from."""

    cache: str = ""
    """Folder of decoded views, which runs on the same scenes share; "" is the run's own."""

    log_every: int = 50
    """Steps between two lines of metrics.jsonl, which hold the mean since the last."""

    workers: int = 1
    """Processes that render or decode views."""

    compile: bool = False
    """Compile the blocks of the model that learns: faster on a GPU, the same up to rounding."""

    max_minutes: float = 0
    """Wall-clock minutes of the whole command, 0 for no limit: when the rest is just enough for
    the cool-down (a third of the steps at most), that begins. The run says how many steps it was;
    one with that many asked for makes the same ones."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if min(self.threads, self.save_every, self.log_every, self.workers) < 1:
            raise ValueError(
                "threads, workers, save_every and log_every must be 1 or more, got "
                f"{self.threads}, {self.workers}, {self.save_every} and {self.log_every}"
            )
        if self.max_minutes < 0:
            raise ValueError(f"max_minutes must be 0 or more, got {self.max_minutes}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Steps of one model: AdamW, a warm-up, a constant rate, a cool-down at the end."""

    steps: int
    """Optimiser steps. A run may be resumed with more or fewer: the rate is constant until the
    cool-down, so the steps before it are the same."""

    cooldown: int
    """Last steps, over which the rate falls to 2 % of itself."""

    lr: float
    """Peak learning rate of AdamW."""

    warmup: int = 100
    """First steps, over which the rate rises."""

    weight_decay: float = 0.02
    """Of matrices only."""

    clip_norm: float = 1.0
    """Largest norm of the gradient."""

    ema: float = 0.998
    """Decay of the averaged weights, which are the ones that are saved."""

    probe_every: int = 200
    """Steps between two scores on rooms that are not trained on."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if min(self.steps, self.warmup, self.probe_every) < 1:
            raise ValueError(
                "steps, warmup and probe_every must be positive, got "
                f"{self.steps}, {self.warmup} and {self.probe_every}"
            )
        if self.cooldown < 0:
            raise ValueError(f"cooldown must be >= 0, got {self.cooldown}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """A small Wan: an image VAE whose encoder starts as a PCA of patches, and a DiT."""

    scenes: str = "rooms:400?views=12&height=128&width=160&seed=101"
    """Where clips come from: any scene source; its views in order are the video."""

    choose: str = "rooms:48?views=4&height=128&width=160&seed=102"
    """Scenes with depth that are scored while training, never trained on."""

    height: int = 128
    """Rows that views are brought to, px: a multiple of 16."""

    width: int = 160
    """Columns, px: a multiple of 16."""

    vae_width: int = 16
    """Channels of the VAE's first level."""

    vae_blocks: int = 1
    """Residual blocks a level of the VAE."""

    heads: int = 4
    """Attention heads."""

    head_dim: int = 32
    """Width of a head."""

    layers: int = 8
    """Blocks of the DiT."""

    ffn_dim: int = 384
    """Width of the feed-forward layers."""

    text_dim: int = 32
    """Width of the (empty) prompt."""

    views_a_step: int = 20
    """Views of a step, in clips of 1, 3 or 5."""

    amp: bool = True
    """Matrix products in bfloat16: faster on a GPU and on a CPU that has instructions for it
    (avx512_bf16 or amx_bf16), 6 times slower on any other."""

    init: str = ""
    """Folder, hub id or `desk`: a trained model of these sizes to go on from, with a new optimiser;
    its VAE is taken as it is. "" begins with random weights."""

    vae: str = ""
    """Likewise, of which the VAE alone is taken, as it is; "" is that of `init`, or a new one."""

    seed: int = 0
    """Of weights, batches and noise."""

    transformer: Recipe = Recipe(steps=4_000, cooldown=500, lr=2e-3)
    """Of the DiT."""

    decoder_steps: int = 2_000
    """Optimiser steps of the VAE's decoder; over the last half its rate falls."""

    decoder_lr: float = 2e-3
    """Peak learning rate of the decoder."""

    crops: int = 8
    """Crops of 64 px of a decoder's step."""

    def identity(self) -> dict[str, Any]:
        """Return what decides the numbers of a step; how many there are is not part of it."""
        return _identity(asdict(self))

    @property
    def decoder(self) -> Recipe:
        """Return how the decoder is trained."""
        return Recipe(
            steps=self.decoder_steps,
            cooldown=self.decoder_steps // 2,
            lr=self.decoder_lr,
            weight_decay=1e-3,
            ema=0.99,
        )

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.height % 16 or self.width % 16:
            raise ValueError(
                f"height and width must be multiples of 16, got {self.height} and {self.width}"
            )
        if self.views_a_step < 5:
            raise ValueError(f"views_a_step must be 5 or more, got {self.views_a_step}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticConfig:
    """A small SigLIP with its text half: pictures against the phrases of what they show."""

    scenes: str = "rooms:400?views=12&height=128&width=160&seed=101"
    """Where pictures and phrases come from: a source that describes its views, as rooms do."""

    choose: str = "rooms:100?views=2&height=128&width=160&seed=102"
    """Scenes that are scored while training, never trained on."""

    height: int = 128
    """Rows that views are brought to, px: a multiple of 16."""

    width: int = 160
    """Columns, px: a multiple of 16."""

    hidden: int = 128
    """Width of both halves."""

    ffn_dim: int = 384
    """Width of the feed-forward layers."""

    layers: int = 6
    """Layers of the vision half."""

    heads: int = 4
    """Attention heads."""

    text_layers: int = 2
    """Layers of the text half."""

    batch: int = 32
    """Pictures a step, each of another scene."""

    amp: bool = True
    """Matrix products in bfloat16: faster on a GPU and on a CPU that has instructions for it
    (avx512_bf16 or amx_bf16), 6 times slower on any other."""

    init: str = ""
    """Folder, hub id or `desk`: a trained model of these sizes and its words to go on from, with a
    new optimiser; "" begins with random weights."""

    seed: int = 0
    """Of weights, batches and noise."""

    recipe: Recipe = Recipe(steps=4_000, cooldown=1_000, lr=1.5e-3, weight_decay=0.05)
    """Of both halves together."""

    def identity(self) -> dict[str, Any]:
        """Return what decides the numbers of a step; how many there are is not part of it."""
        return _identity(asdict(self))

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.height % 16 or self.width % 16:
            raise ValueError(
                f"height and width must be multiples of 16, got {self.height} and {self.width}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig:
    """Which rooms are asked about, and how probes are fitted."""

    fitted: int = 60
    """Scenes that probes are fitted on, the first ones, of which every sixth judges the fits; the
    others are scored."""

    epochs: int = 4
    """Passes of each of a probe's two fits over its cells."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the probes' weights and order; scores are means over them."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if min(self.fitted, self.epochs, len(self.seeds)) < 1:
            raise ValueError(
                "fitted and epochs must be 1 or more, seeds one at least, got "
                f"{self.fitted}, {self.epochs} and {self.seeds}"
            )


_LENGTH = ("steps", "cooldown", "probe_every", "decoder_steps")


def _identity(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return {name: value for name, value in flat.items() if name not in _LENGTH}
