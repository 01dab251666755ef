"""Train what is added to a vision-language model: the whole story of `vega3d-train host fit`."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import remove_partial_files
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.settings import FILE, as_toml
from vega3d.pipeline.store.store import open_store
from vega3d.train.checkpoint import write_json, write_text
from vega3d.train.config import differences
from vega3d.train.hosts.adapters import FOLDER, Added, add_adapters
from vega3d.train.hosts.answering import answer_all
from vega3d.train.hosts.attached import attach_prior
from vega3d.train.hosts.captures import Captures
from vega3d.train.hosts.config import HostConfig, HostRun, HostSources
from vega3d.train.hosts.inputs import Writer
from vega3d.train.hosts.loading import Host, load_host
from vega3d.train.hosts.plan import HostPlan, plan_host
from vega3d.train.hosts.training import Ready, train_added
from vega3d.train.journal import read_metrics
from vega3d.train.processes import Processes, join_processes, repeatable
from vega3d.train.sealed import read_sealed_json, sealed_json

RECORD, SUMMARY = "run.json", "summary.json"
_log = logging.getLogger(__name__)


def fit_host(
    sources: HostSources, out: str | Path, config: HostConfig, run: HostRun | None = None
) -> dict[str, Any]:
    """Train, answer the scored questions, leave all in `out`, and return the summary.

    Repeat the call to resume: the remaining steps are those of the undisturbed run. A finished run
    is left as it is. What was added is in `out/added`, nothing of the host.

    Raises:
        UsageError: Host, scenes, store and questions do not fit together, or `out` holds another
            run.
        NonFiniteLossError: The loss is NaN or infinite.
    """
    run, run_dir = HostRun() if run is None else run, Path(out)
    plan = open_plan(sources, config, run)
    with (
        join_processes(run.device) as processes,
        repeatable(run.deterministic, processes.device.type),
    ):
        if config.batch_size % processes.count:
            raise UsageError(
                f"batch_size must be a multiple of the {processes.count} processes, got "
                f"{config.batch_size}"
            )
        summary = _finished(run_dir, processes)
        if summary is not None:
            return summary
        ready = make_ready(plan, sources, run, processes, run_dir)
        if processes.is_first:
            remove_partial_files(run_dir)
            _write_record(run_dir, ready, run)
        finished = train_added(ready, run_dir, run)
        summary = _summary(ready, run_dir, finished)
        if finished:
            is_sharded = run.shard and processes.count > 1
            ready.host.model.eval()  # --recompute had it train, which forgets what was said
            summary["benchmarks"] = answer_all(ready, run_dir, is_sharded=is_sharded)
            if processes.is_first:
                summary["added"] = str(ready.added.save(run_dir, config))
        if processes.is_first:
            write_json(run_dir / SUMMARY, sealed_json(summary))  # last: the run is finished
    return summary


def open_plan(sources: HostSources, config: HostConfig, run: HostRun) -> HostPlan:
    """Open the store and read the questions; no host is loaded, no view decoded."""
    store = open_store(sources.prior)
    if store.pending and not run.allow_partial:
        raise UsageError(
            f"the prior store is half-extracted: {len(store.pending)} scenes are not committed. "
            "Finish with the same `vega3d-extract run` command, or pass --allow-partial"
        )
    plan = plan_host(store, sources, config)
    for note in plan.notes:
        _log.info("%s", note)
    return plan


def make_ready(
    plan: HostPlan, sources: HostSources, run: HostRun, processes: Processes, run_dir: Path
) -> Ready:
    """Load the host, freeze it, and add what trains."""
    config = plan.config
    if processes.is_first:  # a tiny host is written once
        host = load_host(config.host, config.precision, run_dir / "host")
    processes.gather(None)
    if not processes.is_first:
        host = load_host(config.host, config.precision, run_dir / "host")
    host.model.eval().requires_grad_(False)
    writer = Writer(host, config.view_pixels)
    try:
        source = read_scenes(sources.scenes)
    except ValueError as error:
        raise UsageError(str(error)) from error
    captures = Captures(source, plan.store, config.views, run.held_scenes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        adapters = add_adapters(host.model, config)
        prior = None
        if not config.without_prior:
            prior = attach_prior(
                host.model, plan.store, tap=plan.tap, variant=config.variant, train_host=True
            )
    added = Added(prior, adapters)
    _place(host, added, run, processes)
    return Ready(
        host=host,
        added=added,
        writer=writer,
        captures=captures,
        plan=plan,
        identity={**plan.identity(), "host": host.identity()},
        processes=processes,
    )


def _place(host: Host, added: Added, run: HostRun, processes: Processes) -> None:
    """Bring the host to its device, its frozen weights spread over the processes where asked."""
    if run.recompute:
        host.model.gradient_checkpointing_enable({"use_reentrant": False})
        host.model.train()  # where transformers heeds it; dropout stays off
        for module in host.model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
    if run.shard and processes.count > 1:
        _shard(host.model, added, processes)
    else:
        host.model.to(processes.device)
    added.to(processes.device)


def _shard(model: nn.Module, added: Added, processes: Processes) -> None:
    """Shard every layer of the host by itself, and what is left as one; adapters stay whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(processes.device.type, (processes.count,))
    whole = set(added.parameters())
    for layers in [each for each in model.modules() if isinstance(each, nn.ModuleList)]:
        for layer in layers:
            if any(parameter not in whole for parameter in layer.parameters()):
                fully_shard(layer, mesh=mesh, ignored_params=whole)
    fully_shard(model, mesh=mesh, ignored_params=whole)


def _write_record(run_dir: Path, ready: Ready, run: HostRun) -> None:
    """Write what the run is, or refuse a folder that holds another."""
    path = run_dir / RECORD
    if path.exists():
        before = read_sealed_json(path, "remove it and repeat the run's command")["identity"]
        if fields := differences(before, ready.identity):
            raise UsageError(
                f"{run_dir} holds another run: {'; '.join(fields[:6])}. Choose another --out, or "
                "repeat the command of that run to resume it"
            )
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(path, sealed_json({"identity": ready.identity, "notes": list(ready.plan.notes)}))
    write_text(run_dir / FILE, as_toml(ready.plan.config, run))


def _finished(run_dir: Path, processes: Processes) -> dict[str, Any] | None:
    """Return the summary of a finished run, the same on every process."""
    found: dict[str, Any] | None = None
    if processes.is_first and (run_dir / SUMMARY).exists():
        found = read_sealed_json(run_dir / SUMMARY, "remove it and repeat the run's command")
    (found, *_) = processes.gather(found)
    return {**found, "run": str(run_dir)} if found and found["finished"] else None


def _summary(ready: Ready, run_dir: Path, finished: bool) -> dict[str, Any]:
    lines = [line for line in read_metrics(run_dir) if line["kind"] == "train"]
    plan, added = ready.plan, ready.added
    return {
        "run": str(run_dir),
        "host": plan.config.host,
        "finished": finished,
        "steps": lines[-1]["step"] if lines else 0,
        "loss": [lines[0]["loss"], lines[-1]["loss"]] if lines else [],
        "gate_mean": lines[-1].get("gate_mean") if lines else None,
        "parameters": {
            "added": sum(p.numel() for p in added.parameters()),
            "host": ready.host.model.num_parameters(),
        },
        "questions": {"train": len(plan.training), "scored": len(plan.scored)},
        "notes": list(plan.notes),
        "added": str(run_dir / FOLDER),
        "benchmarks": {},
    }
