"""Commands on clusters: `submit`. Standard library and typer only, until one runs."""

import sys
import tomllib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import typer

from vega3d.cluster.config import SubmitConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import preset
from vega3d.pipeline.cli_running import gpu_settings
from vega3d.pipeline.cli_scenes import Scenes
from vega3d.pipeline.cli_together import SEVERAL
from vega3d.pipeline.commands import print_result
from vega3d.pipeline.config import ExtractConfig, RunConfig
from vega3d.pipeline.options import Program
from vega3d.pipeline.settings import as_toml
from vega3d.pipeline.several import Several
from vega3d.pipeline.spelling import IN_A_WORD, toml_value

app = Program()

_FOLLOWS = ("device", "runner", "address", "workers", "gpus_per_worker", "wheel")
"""Settings of a run that its place on the cluster decides."""


_ASKED_OF_GPUS = ("dtype", "batch_size")
"""Settings that `run` has another usual value for on a GPU: said in any case."""


def _by_machine(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that follow from the machines, as `run` does from its device."""
    return gpu_settings(asked, on_gpu=bool(asked.get("gpu", SubmitConfig().gpu)))


def submit_together(stores: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a run with several encoders as a manifest or script, each scene decoded once.

    Args:
        stores: What `submit` would be given for each of them, by the store's name.
    """
    first = next(iter(stores.values()))
    changed = {name: _changed_settings(one) for name, one in stores.items()}
    having = {name: set(tomllib.loads(as_toml(one["config"]))) for name, one in stores.items()}
    shared = {
        key: value
        for found in changed.values()
        for key, value in found.items()
        if all(changed[name].get(key) == value for name in stores if key in having[name])
    }
    own = {
        name: {key: value for key, value in found.items() if key not in shared}
        for name, found in changed.items()
    }
    names = {name: one["config"].backbone.name for name, one in stores.items()}
    place = first["out"].removesuffix(f"/{next(iter(stores))}.zarr")
    options = [*_places(first["scenes"], place), *_spelled(shared), *_run_options(first)]
    if any(own.values()) or any(name != encoder for name, encoder in names.items()):
        options += ["--config", _as_word(names, own)]
    else:
        options += [word for encoder in names.values() for word in ("--backbone", encoder)]
    _hand_out(first, options)


@app.command(
    without=set(_FOLLOWS) - {"workers"},
    fill=_by_machine,
    several=Several(run=submit_together, own=SEVERAL.own),
)
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
    given: dict[str, Any] = {"to": to, "config": config, "numerics": numerics, "run": run}
    given |= {"machines": machines, "go": go}
    options = [*_places(scenes, out), "--backbone", config.backbone.name]
    options += [*_spelled(_changed_settings(given)), *_run_options(given)]
    _hand_out(given, options)


def _as_word(names: Mapping[str, str], own: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a file with a table a store as one word: the nodes do not see this machine's files."""
    from vega3d.cluster.submission import check_bare

    lines: list[str] = []
    for name, encoder in names.items():
        lines += [f"[stores.{toml_value(name)}]", f"backbone = {toml_value(encoder)}"]
        lines += [f"{key} = {toml_value(value)}" for key, value in own[name].items()]
    check_bare(lines)
    return IN_A_WORD + b64encode("\n".join(lines).encode()).decode()


def _hand_out(given: Mapping[str, Any], options: Sequence[str]) -> None:
    """Print the text, or hand it to what runs it."""
    from vega3d.cluster.submission import render
    from vega3d.cluster.submission import submit as hand_over

    text = render(given["to"], options, given["run"], given["machines"])
    if not given["go"]:
        sys.stdout.write(text)
        return
    print_result({"submitted": given["to"], "told": hand_over(given["to"], text)})


def _places(scenes: str, out: str) -> list[str]:
    from vega3d.pipeline.places import absolute
    from vega3d.pipeline.scenes.reading import absolute_location

    return [absolute_location(scenes), "--out", absolute(out)]


def _changed_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked for of a store and is not its encoder's default, by key."""
    from vega3d.pipeline.backbones.checkpoints import named_from_root

    usual = ExtractConfig(backbone=preset(given["config"].backbone.name))
    config = given["config"]
    config = replace(config, backbone=named_from_root(config.backbone))
    return _changed(config, usual, given["machines"])


def _run_options(given: Mapping[str, Any]) -> list[str]:
    """Return the options that all stores of a run share."""
    numerics = _changed(given["numerics"], Numerics(), given["machines"])
    return _spelled({**numerics, **_changed(given["run"], RunConfig(), given["machines"])})


def _changed(chosen: object, default: object, machines: SubmitConfig) -> dict[str, Any]:
    """Return the settings that turn one config into another, and some that may not."""
    always = _ASKED_OF_GPUS if machines.gpu else ()
    usual: Mapping[str, Any] = tomllib.loads(as_toml(default))
    return {
        key: value
        for key, value in tomllib.loads(as_toml(chosen)).items()
        if key not in ("backbone", *_FOLLOWS) and (value != usual.get(key) or key in always)
    }


def _spelled(values: Mapping[str, Any]) -> list[str]:
    """Return settings as options."""
    found = []
    for key, value in values.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            told = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            found += [f"--{flag}", told]
    return found
