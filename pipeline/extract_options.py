"""The options of `vega3d-extract`, and how they become configs.

Standard library and typer only: a command line's `--help` loads nothing else.
"""

from dataclasses import fields
from enum import StrEnum
from typing import Annotated, Any

import typer

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import backbone_names, configured, preset, preset_names
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.commands import checked
from vega3d.pipeline.config import ExtractConfig, RunConfig

WAN = WanConfig()
DEFAULT = ExtractConfig()
NUMERICS = Numerics()
RUN = RunConfig()


class Fit(StrEnum):
    """How an image of another aspect becomes the backbone's input."""

    PAD = "pad"
    CROP = "crop"
    STRETCH = "stretch"


class Context(StrEnum):
    """Which views the generator sees together."""

    FRAME = "frame"
    CLIP = "clip"
    STACK = "stack"


class RunnerName(StrEnum):
    """Where units are computed."""

    INLINE = "inline"
    RAY = "ray"


class Sampling(StrEnum):
    """How views are chosen."""

    UNIFORM = "uniform"
    COVERAGE = "coverage"


class Device(StrEnum):
    """Where the model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Scenes = Annotated[
    str,
    typer.Argument(
        help="A capture or a folder of captures (ScanNet export, posed_images, 7-Scenes), "
        "WebDataset shards (folder, index, http:// or s3:// URLs), videos, or rooms:N."
    ),
]
Out = Annotated[str, typer.Option(help="Folder or URL (s3://...) of the store.")]
PresetOption = Annotated[
    str, typer.Option("--preset", "--backbone", help="Named config; the options change it.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        help="Hub id or folder, or desk: small, comes with the package. [default: the preset's]",
        show_default=False,
    ),
]
Blocks = Annotated[
    str | None,
    typer.Option(
        help=f"Blocks to keep, from 0, such as 10,20. [default: {WAN.blocks[0]}, SigLIP -2]",
        show_default=False,
    ),
]
Timesteps = Annotated[
    str | None,
    typer.Option(
        help=f"Noise steps k of 0..1000, such as 100,300. [default: {WAN.timesteps[0]}]",
        show_default=False,
    ),
]
ResolutionOption = Annotated[
    str | None,
    typer.Option(
        help="ROWSxCOLS of the backbone's input, auto (keeps each image's aspect), or native "
        "(SigLIP). [default: 480x640]",
        show_default=False,
    ),
]
FitOption = Annotated[
    Fit | None,
    typer.Option(
        help="An image of another aspect: pad shows all of it, crop fills, stretch distorts. "
        "[default: pad]",
        show_default=False,
    ),
]
ContextOption = Annotated[
    Context | None,
    typer.Option(
        help="What the generator sees together: frame (each view alone), clip (all as one video), "
        "stack (all, each with a latent of its own). [default: frame]",
        show_default=False,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Precision of matrix products: float32 or bfloat16. [default: float32]",
        show_default=False,
    ),
]
NoiseSeed = Annotated[
    int | None, typer.Option(help="Seed of the noise. [default: 0]", show_default=False)
]
NoiseSamples = Annotated[
    int | None,
    typer.Option(help="Noise draws a view, each its own tap. [default: 1]", show_default=False),
]
Grid = Annotated[str, typer.Option(help="ROWSxCOLS of the common token grid.")]
StoreDtype = Annotated[str, typer.Option(help="Type of the stored features: float16, float32.")]
Views = Annotated[int, typer.Option("--views", help="Views kept of a scene at most; 0: all.")]
SamplingOption = Annotated[Sampling, typer.Option(help="How views are chosen.")]
PromptEmbeds = Annotated[
    str,
    typer.Option(help="safetensors file of the empty prompt's embedding; spares the text encoder."),
]
PerShard = Annotated[
    int | None,
    typer.Option(
        help="Scenes of one file, one commit, one retry. [default: 8 on a GPU, 1 on a CPU]",
        show_default=False,
    ),
]
BatchSize = Annotated[int, typer.Option(help="Views a forward pass; fixed with the store.")]
Threads = Annotated[int, typer.Option(help="CPU threads a worker; fixed with the store.")]
DeviceOption = Annotated[Device, typer.Option(help="auto takes a GPU where there is one.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]


def configs(asked: dict[str, Any]) -> tuple[ExtractConfig, Numerics]:
    """Turn a command's options into the two configs; what was not given is the preset's."""
    device = device_of(asked["device"])
    numerics = checked(
        Numerics, batch_size=asked["batch_size"], threads=asked["threads"], device=device
    )
    own: dict[str, Any] = {
        "model": asked["model"],
        "blocks": _ints("--blocks", asked["blocks"]),
        "timesteps": _ints("--timesteps", asked["timesteps"]),
        "resolution": _resolution(asked["resolution"]),
        "fit": asked["fit"] and asked["fit"].value,
        "context": asked["context"] and asked["context"].value,
        "dtype": asked["dtype"],
        "noise_seed": asked["noise_seed"],
        "noise_samples": asked["noise_samples"],
    }
    per_shard = asked["scenes_per_shard"]
    config = checked(
        ExtractConfig,
        backbone=_backbone(asked["preset"], own),
        scenes_per_shard=(8 if device == "cuda" else 1) if per_shard is None else per_shard,
        grid=_size("--grid", asked["grid"]),
        store_dtype=asked["store_dtype"],
        num_views=asked["views"],
        sampling=asked["sampling"].value,
    )
    return config, numerics


def _backbone(name: str, own: dict[str, Any]) -> BackboneConfig:
    """Return the named config with the settings that were given; it must have each of them."""
    if name not in (known := (*backbone_names(), *preset_names())):
        raise typer.BadParameter(f"--backbone must be one of {', '.join(known)}, got {name!r}")
    base: Any = checked(preset, name)
    given = {setting: value for setting, value in own.items() if value is not None}
    if unknown := given.keys() - {field.name for field in fields(base)}:
        flags = ", ".join("--" + setting.replace("_", "-") for setting in sorted(unknown))
        raise typer.BadParameter(f"{base.name} takes no {flags}")
    return checked(configured, name, given)


def device_of(device: Device) -> str:
    """Return cpu or cuda; auto takes a GPU where torch sees one."""
    if device is not Device.AUTO:
        return device.value
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _ints(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} takes numbers such as 10,20, got {text!r}") from None


def _resolution(text: str | None) -> tuple[int, int] | str | None:
    if text is None:
        return None
    if text in ("auto", "native"):
        return text
    return _size("--resolution", text)


def _size(option: str, text: str) -> tuple[int, int]:
    try:
        rows, cols = (int(part) for part in text.replace(",", "x").split("x"))
    except ValueError:
        raise typer.BadParameter(f"{option} takes ROWSxCOLS, got {text!r}") from None
    return rows, cols
