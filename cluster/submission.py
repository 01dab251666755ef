"""A run as a manifest or a script: KubeRay, Slurm, SkyPilot, or `ray job submit`.

`render` is pure: the same options as `vega3d-extract run` in, one text out, to be read, kept or
submitted. The templates lie in `templates/`; each sets Ray's authentication on purpose and none
holds a secret.
"""

import json
import math
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files

from vega3d.cluster.config import TARGETS, SubmitConfig
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.texts import without_secrets

_TEMPLATES = {
    "kuberay": "kuberay.yaml.j2",
    "slurm": "slurm.sh.j2",
    "sky": "skypilot.yaml.j2",
    "ray": "ray.sh.j2",
}
_OWN_DISKS = {"kuberay": "pods", "sky": "SkyPilot's machines"}
_SUBMITTERS = {
    "kuberay": ("kubectl", "apply", "-f", "-"),
    "slurm": ("sbatch",),
    "sky": ("sky", "jobs", "launch", "--yes", "-"),
    "ray": ("bash", "-s"),
}


def render(to: str, options: Sequence[str], run: RunConfig, config: SubmitConfig) -> str:
    """Return the manifest or script of a run.

    Args:
        to: One of TARGETS.
        options: What `vega3d-extract run` is given: SCENES, --out and the rest, without the runner,
            address and workers, which follow from `run`.
        run: Its `workers` are the GPUs that are asked for (CPU workers where `config.gpu` is "").
        config: What the machines are like.

    Raises:
        UsageError: No such target, a place with a secret in its name, or a store where the
            target's machines cannot reach it.
    """
    if to not in TARGETS:
        raise UsageError(f"--to must be one of {', '.join(TARGETS)}, got {to!r}")
    check_bare(options)
    _check_reached(to, options[options.index("--out") + 1])
    from jinja2 import Environment, StrictUndefined

    words = shlex.join(command(options, run, config))
    template = files("vega3d.cluster").joinpath("templates", _TEMPLATES[to]).read_text("utf-8")
    # Values are checked by SubmitConfig or quoted here: nothing that a user types is code.
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["quoted"] = shlex.quote
    return environment.from_string(template).render(
        asdict(config)
        | {
            "command": words,
            "quoted_command": json.dumps(words),
            "workers": run.workers,
            "nodes": math.ceil(run.workers / config.gpus_per_node),
            "cpus_per_node": config.cpus_per_gpu * config.gpus_per_node,
            "memory_gb_per_node": config.memory_gb_per_gpu * config.gpus_per_node,
            "ray_version": version("ray"),
        }
    )


def check_bare(texts: Sequence[str]) -> None:
    """Raise UsageError where a text that goes into a manifest holds a secret."""
    for text in texts:
        if without_secrets(text) != text:
            raise UsageError(
                f"{without_secrets(text)}: a manifest is no place for a user, a password or a "
                "query in a URL; give the nodes what they need through --secret, and the URL bare"
            )


def _check_reached(to: str, out: str) -> None:
    """Refuse a folder where the run has no disk but its own, which goes with it."""
    if to in _OWN_DISKS and "://" not in out:
        raise UsageError(
            f"--out {out}: {_OWN_DISKS[to]} share no folder, and their disks go with them; give "
            "a URL, such as s3://bucket/prior.zarr"
        )


def command(options: Sequence[str], run: RunConfig, config: SubmitConfig) -> list[str]:
    """Return what the job runs: `vega3d-extract run` on the Ray that is around it."""
    per_worker = ["--gpus-per-worker", "1"] if config.gpu else ["--gpus-per-worker", "0"]
    return [
        "vega3d-extract",
        "run",
        *options,
        *("--runner", "ray", "--address", "auto", "--workers", str(run.workers)),
        *("--device", "cuda" if config.gpu else "cpu"),
        *per_worker,
    ]


def submit(to: str, text: str) -> str:
    """Hand a rendered text to kubectl, sbatch, sky or bash; returns what that printed.

    Raises:
        UsageError: The program is not here, or it refuses.
    """
    program = _SUBMITTERS[to]
    try:
        done = subprocess.run(program, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UsageError(
            f"{program[0]} is not here; run this where it is, or leave --go out and take the text"
        ) from error
    if done.returncode:
        raise UsageError(f"{shlex.join(program)} refuses: {done.stderr.strip()[:500]}")
    return done.stdout.strip()
