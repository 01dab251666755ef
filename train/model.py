"""The trained network: standardised streams, fusion, a small reader, one head a task.

The reader stands in the place of the language model: it is the same for every variant, so that a
table compares fusions and nothing else.

Letters: B samples, V views, N tokens of a view, C channels of a stream.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from vega3d.train.attention import ReaderLayer, sincos_positions
from vega3d.train.batch import Batch
from vega3d.train.config import TrainConfig
from vega3d.train.fusion import GatedFusion
from vega3d.train.tasks.registry import task_class
from vega3d.train.tasks.task import Prediction, Targets, Task

_FLAT = 1e-6  # of the mean: what rounding leaves of a constant is less


class Standardize(nn.Module):
    """Shift and scale every channel to mean 0 and deviation 1; tokens without a feature become 0.

    Diffusion transformers keep a few channels hundreds of times as large as the rest (DiTF,
    arXiv 2505.18584), which an MLP at its first step would see alone.
    """

    def __init__(self, channels: int) -> None:
        """Start as the identity; the store's statistics are set by `set_stats`."""
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def set_stats(self, mean: Float[Tensor, " C"], deviation: Float[Tensor, " C"]) -> None:
        """Take a store's statistics; a constant channel is only shifted."""
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > _FLAT * mean.abs(), deviation, 1.0))

    def forward(
        self, features: Float[Tensor, "*batch C"], valid: Bool[Tensor, "*batch"]
    ) -> Float32[Tensor, "*batch C"]:
        """Return float32 features of about unit size."""
        standard = (features.float() - self.mean) / self.deviation
        return torch.where(valid[..., None], standard, 0.0)


class SpatialModel(nn.Module):
    """Both streams of a batch in, one prediction a task and the gate out."""

    def __init__(
        self, gen_dim: int, sem_dim: int, grid: tuple[int, int], config: TrainConfig
    ) -> None:
        """Build every layer; weights come from torch's generator, which `build_model` seeds."""
        super().__init__()
        dim = config.hidden_dim
        self.standardize_gen = Standardize(gen_dim)
        self.standardize_sem = Standardize(sem_dim)
        self.fusion = GatedFusion(
            gen_dim, sem_dim, dim, config.variant, grid, config.heads, config.dropout
        )
        self.norm_in = nn.LayerNorm(dim)
        self.reader = nn.ModuleList(
            ReaderLayer(dim, config.heads) for _ in range(config.reader_layers)
        )
        self.norm_out = nn.LayerNorm(dim)
        self.tasks = nn.ModuleDict(
            {name: task_class(name).from_config(config, grid) for name in config.tasks}
        )
        self.positions: Tensor
        self.register_buffer("positions", sincos_positions(grid, dim), persistent=False)

    def task_list(self) -> list[Task]:
        """Return the tasks in the config's order."""
        return [task for task in self.tasks.values() if isinstance(task, Task)]

    def targets(self, batch: Batch) -> dict[str, Targets]:
        """Return what every task asks of a batch."""
        tasks = self.task_list()
        if any(task.reads_looks for task in tasks):
            batch = replace(batch, sem=self.standardize_sem(batch.sem, batch.valid))
        return {task.name: task.targets(batch) for task in tasks}

    def forward(
        self,
        batch: Batch,
        targets: Mapping[str, Targets],
        force_gate: float | None = None,
    ) -> tuple[dict[str, Prediction], Float32[Tensor, "B V N G"] | None]:
        """Return the predictions by task, and the gate where the variant has one."""
        fused, gate = self.fusion(
            self.standardize_gen(batch.gen, batch.valid),
            self.standardize_sem(batch.sem, batch.valid),
            valid=batch.valid,
            seeds=batch.seeds,
            force_gate=force_gate,
        )
        tokens = self._read(fused, batch.valid)
        return {task.name: task(tokens, targets[task.name]) for task in self.task_list()}, gate

    def _read(
        self, fused: Float[Tensor, "B V M D"], valid: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V N D"]:
        num_tokens = valid.shape[-1]
        copies = fused.shape[-2] // num_tokens  # 2 for `sequence`
        tokens = self.norm_in(fused) + self.positions.repeat(copies, 1)
        for layer in self.reader:
            tokens = layer(tokens, valid.repeat(1, 1, copies))
        return self.norm_out(tokens[..., :num_tokens, :])  # type: ignore[no-any-return]


def build_model(
    gen_dim: int, sem_dim: int, grid: tuple[int, int], config: TrainConfig
) -> SpatialModel:
    """Return a model whose first weights depend on the config's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return SpatialModel(gen_dim, sem_dim, grid, config)
