"""Configs of stage 3: what decides the numbers of a run, and how it is carried out.

Standard library only, so that a command line stays light.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

Gate = Literal["adaptive", "channel", "token_gated", "token_gated_residual"]
Variant = Literal[
    Gate,
    "add",
    "weighted",
    "concat",
    "sequence",
    "cross_attention_1",
    "cross_attention_3",
    "semantic",
    "generative",
    "blind",
]
KeepFeatures = Literal["auto", "always", "never"]
GATED: tuple[str, ...] = get_args(Gate)
VARIANTS: tuple[Variant, ...] = get_args(Variant)
"""Fusions: the four gates, the other rows of the paper's Table 5, the two single streams, and
`blind`, which sees no feature at all and shows what position in the image alone can do."""


_ASKING = ("grounding", "qa", "vsi", "caption")
TASKS = ("depth", "displacement", "matching", "classes", *_ASKING, "action")
"""The files of `tasks/`; grounding to caption ask what annotation files ask (`--questions`), action
what demonstrations did (`--actions`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Decides the numbers of a run: change a field and it is another run."""

    tasks: tuple[str, ...] = field(default=("depth",), metadata={"option": "--task"})
    """Trained together, each with its own head: depth, displacement, matching, classes, and of
    annotated scenes grounding, qa, vsi, caption; or, alone, action of robots' demonstrations."""

    variant: Variant = "adaptive"
    """How the two streams become one: a gate, another row of the paper's Table 5, one stream alone,
    or `blind`, which sees no feature at all."""

    hidden_dim: int = 256
    """Width of the projected streams, of the reader and of the heads; a multiple of 4 and heads."""

    reader_layers: int = 1
    """Transformer layers over the fused tokens of a view, in the place of the language model;
    `sequence` needs at least one."""

    heads: int = 4
    """Attention heads of the reader and of the cross-attention variants."""

    dropout: float = 0.1
    """Of the cross-attention variants' residual branches; drawn per sample, not per process."""

    steps: int = 1000
    """Optimiser steps."""

    batch_size: int = 16
    """Samples a step over all processes and accumulated parts; a sample is `views_per_sample`
    views of one scene."""

    views_per_sample: int = 4
    """Views of a sample: neighbours in time for matching; for action the cameras of a frame, the
    first so many; any for the other tasks."""

    accumulate: int = 1
    """Parts a step's batch is cut into; must divide the batch of a process."""

    lr: float = 1e-3
    """Peak learning rate of AdamW."""

    warmup: float = 0.03
    """Share of the steps with a rising rate; a cosine to zero follows."""

    weight_decay: float = 0.01
    """Of matrices only; biases, norms and scales have none."""

    clip_norm: float = 1.0
    """Largest norm of the gradient; 0 leaves it alone."""

    amp: bool = False
    """Matrix products in bfloat16; weights, norms, gates and losses stay float32. On a CPU this
    is faster only with AVX512-BF16 or AMX."""

    ema: float = 0.0
    """Decay of an averaged copy of the weights, which then is scored and saved; 0 is off."""

    val_share: float = 0.25
    """Share of the scenes kept for scoring, at least one; of the views where there is one scene."""

    gap_views: int = 2
    """Views left out between training and scoring where one scene is split by time."""

    min_depth_share: float = 0.5
    """Tokens with a smaller share of their pixels measured take no part in a loss."""

    match_radius_m: float = 0.1
    """Tokens of two views this near in the world are the same point, metres."""

    num_classes: int = 0
    """Classes of the label store; only for the task `classes`."""

    questions_per_sample: int = 16
    """Questions drawn for a sample of its scene's; all are asked when scored."""

    text_dim: int = 512
    """Numbers of a text's vector: 512 for `words`, 128 for `desk`, 1152 for SigLIP so400m."""

    action_chunk: int = 8
    """Actions that are said at once, from a frame on."""

    action_dim: int = 7
    """Numbers of an action; 7 in LIBERO."""

    proprio_dim: int = 8
    """Numbers of the robot's state, 8 in LIBERO; 0 leaves it out."""

    action_offset: int = 0
    """Rows from a frame to the first action after it: 0 where frames were taken before the action
    of their row, 1 in LIBERO's own files, which hold what was seen after it."""

    shards_in_flight: int = 4
    """Shards whose samples are shuffled together: more is a better shuffle, fewer is a more
    sequential read."""

    seed: int = 0
    """Of the weights, the order, the pairs and the dropout."""

    split_seed: int = 0
    """Of the choice of scoring scenes, apart from `seed` so that seeds share one split."""

    def __post_init__(self) -> None:
        """Check every field once."""
        unknown = [name for name in self.tasks if name not in TASKS]
        if not self.tasks or unknown or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks must be different names of {TASKS}, got {self.tasks}")
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, got {self.variant!r}")
        if self.hidden_dim % 4 or self.hidden_dim % self.heads or self.hidden_dim < 4:
            raise ValueError(
                "hidden_dim must be a multiple of 4 (2-D positions) and of `heads` "
                f"({self.heads}), got {self.hidden_dim}"
            )
        if self.variant == "sequence" and self.reader_layers < 1:
            raise ValueError("sequence hands over twice the tokens: it needs reader_layers >= 1")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate must divide batch_size, got {self.accumulate} and {self.batch_size}"
            )
        if "matching" in self.tasks and self.views_per_sample < 2:
            raise ValueError("matching compares views of a sample: views_per_sample must be >= 2")
        if ("classes" in self.tasks) != (self.num_classes > 1):
            raise ValueError(
                "num_classes (2 or more) goes with the task classes, and only with it; "
                f"got {self.num_classes} for {self.tasks}"
            )
        if "action" in self.tasks and len(self.tasks) > 1:
            raise ValueError(f"action makes samples of its own: train it alone, not {self.tasks}")
        self._check_ranges()

    def _check_ranges(self) -> None:
        at_least_one = (
            "heads",
            "steps",
            "batch_size",
            "views_per_sample",
            "accumulate",
            "shards_in_flight",
            "questions_per_sample",
            "text_dim",
            "action_chunk",
            "action_dim",
        )
        if bad := [name for name in at_least_one if getattr(self, name) < 1]:
            raise ValueError(f"{bad[0]} must be >= 1, got {getattr(self, bad[0])}")
        shares = ("dropout", "warmup", "ema", "min_depth_share")
        if bad := [name for name in shares if not 0 <= getattr(self, name) < 1]:
            raise ValueError(f"{bad[0]} must lie in [0, 1), got {getattr(self, bad[0])}")
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share must lie in (0, 1), got {self.val_share}")
        if not (self.lr > 0 and self.match_radius_m > 0):
            raise ValueError(
                f"lr and match_radius_m must be positive, got {self.lr} and {self.match_radius_m}"
            )
        floors: tuple[str, ...] = ("weight_decay", "clip_norm", "gap_views", "reader_layers")
        floors += ("seed", "split_seed", "proprio_dim", "action_offset")
        if bad := [name for name in floors if getattr(self, name) < 0]:
            raise ValueError(f"{bad[0]} must be >= 0, got {getattr(self, bad[0])}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """How a run is carried out; changes its speed and its journal, never its numbers."""

    device: str = "cpu"
    """`cpu`, `cuda`, or `cuda:1`; under torchrun `cuda` is the process's own."""

    workers: int = 2
    """Threads that read batches ahead; 0 reads in the training thread."""

    prefetch: int = 4
    """Batches read ahead at most; each has a pinned buffer of its own."""

    cache_bytes: int = 0
    """Features kept in RAM once read, at most; 0 keeps none."""

    keep_features: KeepFeatures = "auto"
    """Keep all features on the device once read: `auto` on a GPU where they fit into 60 % of its
    free memory, else batches are streamed through pinned memory; `always`; `never`."""

    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""

    eval_every: int = 200
    """Steps between two scorings; the last step is always scored."""

    checkpoint_every: int = 200
    """Steps between two checkpoints; the last step always has one."""

    deterministic: bool = True
    """Ask for deterministic kernels, so that a resumed run repeats bit for bit."""

    allow_partial: bool = False
    """Train on the committed part of a store that is not finished."""

    report_scenes: int = 3
    """Scoring scenes whose gates the report shows."""

    def __post_init__(self) -> None:
        """Check every field once."""
        floors = {"workers": 0, "cache_bytes": 0, "report_scenes": 0}
        positive = ("prefetch", "log_every", "eval_every", "checkpoint_every")
        for name, floor in (floors | dict.fromkeys(positive, 1)).items():
            if getattr(self, name) < floor:
                raise ValueError(f"{name} must be >= {floor}, got {getattr(self, name)}")
        if self.keep_features not in get_args(KeepFeatures):
            raise ValueError(
                f"keep_features must be one of {get_args(KeepFeatures)}, got {self.keep_features!r}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationConfig:
    """Which runs are compared."""

    variants: tuple[Variant, ...] = VARIANTS
    """Fusions to train, each with every seed."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the weights, the order, the pairs and the dropout."""

    baseline: Variant = "semantic"
    """The one that the others are tested against."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if unknown := [name for name in self.variants if name not in VARIANTS]:
            raise ValueError(f"unknown variants {unknown}; there are {list(VARIANTS)}")
        for name in ("variants", "seeds"):
            found = getattr(self, name)
            if not found or len(set(found)) != len(found):
                raise ValueError(f"{name} must be one or more, all different, got {list(found)}")
        if self.baseline not in self.variants:
            raise ValueError(
                f"`baseline` {self.baseline!r} must be one of `variants`, got {list(self.variants)}"
            )


_REPEAT = {"repeat": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherStores:
    """Stores in the place of a run's own; all or none."""

    prior: tuple[str, ...] | None = field(default=None, metadata=_REPEAT)
    """Store of generative features; repeat it for several that are read as one."""

    semantic: tuple[str, ...] | None = field(default=None, metadata=_REPEAT)
    """Store of semantic features of the same views; repeat it likewise."""

    labels: tuple[str, ...] | None = field(default=None, metadata=_REPEAT)
    """Store of token classes, for the task classes."""

    prior_tap: str | None = None
    """Which features of the prior, where it has several taps."""

    semantic_tap: str | None = None
    """Which features of the semantic store, likewise."""

    questions: tuple[str, ...] | None = field(default=None, metadata=_REPEAT)
    """Annotation file of a benchmark, or a folder of `vega3d-benchmark make`; repeat it for
    several, files of candidate boxes too."""

    actions: tuple[str, ...] | None = field(default=None, metadata=_REPEAT)
    """Demonstrations for the task action: a LIBERO HDF5 file, a folder of them, or a LeRobot v3
    dataset, where the stores were extracted from; repeat it for several."""

    text_model: str | None = None
    """What turns texts into vectors: `words` (the default, no weights), `desk`, or the hub id or
    folder of a SigLIP or a sentence encoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stores(OtherStores):
    """Where the features of a run are; they are part of what it is."""

    prior: tuple[str, ...] = field(metadata=_REPEAT)
    semantic: tuple[str, ...] = field(metadata=_REPEAT)


def to_json(config: TrainConfig | RunConfig) -> dict[str, Any]:
    """Return a config as plain JSON values, tuples as lists."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def train_config_from_json(plain: dict[str, Any]) -> TrainConfig:
    """Return the config a run was saved with; unknown fields are an error."""
    known = {field.name for field in fields(TrainConfig)}
    if unknown := sorted(set(plain) - known):
        raise ValueError(f"the run's config has fields this version does not know: {unknown}")
    return TrainConfig(**{**plain, "tasks": tuple(plain["tasks"])})


def digest(plain: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits that name a plain JSON config."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(before: Any, now: Any, path: str = "") -> list[str]:  # noqa: ANN401 - plain JSON
    """Return `field was this, now that` for every leaf in which two plain JSON values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [
            difference
            for key in keys
            for difference in differences(before.get(key), now.get(key), f"{path}.{key}".strip("."))
        ]
    return [] if before == now else [f"{path} was {before!r}, now {now!r}"]
