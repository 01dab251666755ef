"""`vega3d-extract run` with several encoders. Standard library and typer only, until it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import typer

from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.cli_running import (
    check_device,
    closed_on_failure,
    estimated,
    is_unfinished,
    rates_here,
    run_log,
    runner,
    tell_estimate,
    tell_summary,
)
from vega3d.pipeline.cli_scenes import find_scenes
from vega3d.pipeline.commands import SOME_FAILED, check_out, print_result
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.several import Several
from vega3d.pipeline.texts import tell

if TYPE_CHECKING:
    from vega3d.pipeline.extract import Summary
    from vega3d.pipeline.results import UnitResult
    from vega3d.pipeline.store.units import Unit

Given = Mapping[str, Any]
"""What `run` is called with."""


def run_together(stores: Mapping[str, Given]) -> None:
    """Extract the features of every scene with several encoders, each scene decoded once.

    Args:
        stores: What `run` would be given for each of them, by the store's name.
    """
    from vega3d.pipeline.together import check_alike

    check_alike([one["config"] for one in stores.values()])
    first = next(iter(stores.values()))
    if first["dry_run"]:
        found = {
            name: estimated(
                one["scenes"],
                one["config"],
                rates_here(one["config"], one["numerics"], one["run"].workers),
                one["numerics"],
            )
            for name, one in stores.items()
        }
        print_result({"stores": found})
        return
    summaries = {
        name: asdict(summary)
        for name, summary in zip(stores, _extract(first, list(stores.values())), strict=True)
    }
    for summary in summaries.values():
        tell_summary(summary)
    print_result({"stores": summaries})
    if any(map(is_unfinished, summaries.values())):
        raise typer.Exit(SOME_FAILED)


def plan_together(stores: Mapping[str, Given]) -> None:
    """Say what a run with several encoders would do and cost, a store after the other.

    Args:
        stores: What `plan` would be given for each of them, by the store's name.
    """
    from vega3d.pipeline.together import check_alike

    check_alike([one["config"] for one in stores.values()])
    found = {}
    for name, one in stores.items():
        found[name] = estimated(one["scenes"], one["config"], one["rates"], one["numerics"])
        tell(f"{name}:")
        tell_estimate(found[name], one["rates"])
    print_result({"stores": found})


def _own_place(args: Sequence[str], name: str) -> list[str]:
    """Return the place of one of several stores: below what --out names."""
    found = ""
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        flag, equals, value = arg.partition("=")
        if flag == "--out":
            found = value if equals else following
    if not found:
        raise UsageError("several stores need --out FOLDER among the options; each lies below it")
    return ["--out", f"{found.rstrip('/')}/{name}.zarr"]


SEVERAL = Several(run=run_together, own=_own_place)
SEVERAL_PLANS = Several(run=plan_together, own=lambda _args, _name: [])


def _extract(first: Given, given: Sequence[Given]) -> "list[Summary]":
    """Compose source, runner, progress and a log a store, and extract."""
    from vega3d.pipeline.backbones.checkpoints import named_from_root
    from vega3d.pipeline.places import absolute
    from vega3d.pipeline.progress import Progress
    from vega3d.pipeline.together import StorePlan, extract_together

    numerics, run = first["numerics"], first["run"]
    check_device(numerics, run)
    plans = [
        StorePlan(
            out=absolute(one["out"]),
            config=replace(one["config"], backbone=named_from_root(one["config"].backbone)),
            prompt_embeds=_prompt_embeds(one),
        )
        for one in given
    ]
    for plan in plans:
        check_out(plan.out)
    source = find_scenes(first["scenes"])
    outs = ", ".join(plan.out for plan in plans)
    tell(f"{first['scenes']}: {len(source.entries())} scenes -> {outs}")
    logs = {
        plan.out: run_log(plan.out, first["scenes"], plan.config, numerics, run) for plan in plans
    }
    with Progress() as progress:

        def on_result(result: "UnitResult", units: "Sequence[Unit]") -> None:
            for out, log in logs.items():
                if out in result.parts or result.postponed:
                    log.unit(result.parts.get(out, replace(result, parts={})))
            progress.show(result, units)

        with closed_on_failure(*logs.values()):
            summaries = extract_together(
                source,
                plans,
                numerics=numerics,
                run=runner(run),
                retry_failed=first["retry_failed"],
                refresh=first["refresh"],
                gpu_share=run.gpu_share,
                on_result=on_result,
            )
    summaries = [logs[summary.store].with_figures(summary) for summary in summaries]
    for summary in summaries:
        logs[summary.store].close(summary)
    return summaries


def _prompt_embeds(one: Given) -> str:
    """Return the file of the prompt's rows for an encoder that has a prompt."""
    has_prompt = type(one["config"].backbone).prompt is not BackboneConfig.prompt
    return str(one["prompt_embeds"]) if has_prompt else ""
