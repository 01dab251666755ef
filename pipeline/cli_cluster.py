"""Commands on clusters: `submit`. Standard library and typer only, until one runs."""

import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal

import typer

from vega3d.cluster.config import SubmitConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import preset
from vega3d.pipeline.cli_running import usual_dtype
from vega3d.pipeline.cli_scenes import Scenes
from vega3d.pipeline.commands import print_result
from vega3d.pipeline.config import ExtractConfig, RunConfig
from vega3d.pipeline.options import Program
from vega3d.pipeline.settings import as_toml

app = Program()

_FOLLOWS = ("device", "runner", "address", "workers", "gpus_per_worker", "wheel")
"""Settings of a run that its place on the cluster decides."""


_ASKED_OF_GPUS = ("dtype", "batch_size")
"""Settings that `run` has another usual value for on a GPU: said in any case."""


def _by_machine(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that follow from the machines, as `run` does from its device."""
    on_gpu = bool(asked.get("gpu", SubmitConfig().gpu))
    found: dict[str, Any] = {}
    if asked.get("dtype", "auto") == "auto" and (usual := usual_dtype(asked, on_gpu)):
        found["dtype"] = usual
    if "batch_size" not in asked and on_gpu:
        found["batch_size"] = 0
    return found


@app.command(without=set(_FOLLOWS) - {"workers"}, fill=_by_machine)
def submit(
    scenes: Scenes,
    out: Annotated[str, typer.Option(help="Folder or URL that every node sees, for the store.")],
    to: Annotated[Literal["kuberay", "slurm", "sky", "ray"], typer.Option(help="Where to.")],
    config: ExtractConfig,
    numerics: Numerics,
    run: RunConfig,
    machines: SubmitConfig,
    go: Annotated[bool, typer.Option("--go", help="Submit it too, not only print it.")] = False,
) -> None:
    """Print a run as a manifest or script for a cluster; its options are those of `run`."""
    from vega3d.cluster.submission import render
    from vega3d.cluster.submission import submit as hand_over
    from vega3d.pipeline.places import absolute
    from vega3d.pipeline.prepared import with_absolute_model
    from vega3d.pipeline.scenes.reading import absolute_location

    usual = ExtractConfig(backbone=preset(config.backbone.name))
    config = with_absolute_model(config)
    options = [absolute_location(scenes), "--out", absolute(out)]
    options += ["--backbone", config.backbone.name]
    for chosen, default in ((config, usual), (numerics, Numerics()), (run, RunConfig())):
        always = _ASKED_OF_GPUS if machines.gpu else ()
        options += _changed(as_toml(chosen), as_toml(default), always)
    text = render(to, options, run, machines)
    if not go:
        sys.stdout.write(text)
        return
    print_result({"submitted": to, "told": hand_over(to, text)})


def _changed(chosen: str, default: str, always: Collection[str]) -> Iterator[str]:
    """Yield the options that turn one file of settings into another, and some that may not."""
    usual: Mapping[str, Any] = tomllib.loads(default)
    for key, value in tomllib.loads(chosen).items():
        if key in ("backbone", *_FOLLOWS) or (value == usual.get(key) and key not in always):
            continue
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield f"--{flag}"
            yield ",".join(map(str, value)) if isinstance(value, list) else str(value)
