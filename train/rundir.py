"""What a run is: its plan, made from stores and config alone, and the record kept in its folder."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.settings import FILE, as_toml
from vega3d.pipeline.texts import safe, shown_url
from vega3d.train.checkpoint import write_json, write_text
from vega3d.train.config import (
    RunConfig,
    TrainConfig,
    differences,
    digest,
    to_json,
    train_config_from_json,
)
from vega3d.train.loader import aligned_batch
from vega3d.train.model import SpatialModel, build_model
from vega3d.train.order import (
    Sample,
    SceneViews,
    Split,
    TrainOrder,
    frame_samples,
    scene_samples,
    scoring_samples,
)
from vega3d.train.pairing import AnyStore, Pairing, pair_stores, parts
from vega3d.train.questions import asks_scenes, run_split
from vega3d.train.sealed import read_sealed_json, sealed_json
from vega3d.train.tasks.registry import task_class
from vega3d.train.tasks.task import Targets
from vega3d.train.usable import check_geometry, check_labels, usable_views

RECORD = "run.json"
SUMMARY = "summary.json"
LAST = "last.safetensors"
BEST = "best.safetensors"
_VERSIONS = ("vega3d", "torch", "numpy", "zarr", "safetensors")


@dataclass(frozen=True)
class RunPlan:
    """Everything about a run that is known before its first step."""

    pairing: Pairing
    config: TrainConfig
    split: Split
    order: TrainOrder
    scoring: tuple[Sample, ...]
    gen_dim: int
    sem_dim: int

    def identity(self) -> dict[str, Any]:
        """Return all that decides the numbers: config, and the stores by content."""
        return {"train": to_json(self.config), "stores": _stores_identity(self.pairing)}

    def streams(self) -> dict[str, str]:
        """Return what made the two streams, for people to read."""
        pairing = self.pairing
        return {
            "prior": _origin(pairing.prior, pairing.prior_tap),
            "semantic": _origin(pairing.semantic, pairing.semantic_tap),
        }

    def build_model(self) -> SpatialModel:
        """Return the model with its first weights and the stores' channel statistics."""
        pairing = self.pairing
        model = build_model(self.gen_dim, self.sem_dim, pairing.grid, self.config)
        for standardize, store, tap in (
            (model.standardize_gen, pairing.prior, pairing.prior_tap),
            (model.standardize_sem, pairing.semantic, pairing.semantic_tap),
        ):
            stats = store.channel_stats(tap)
            standardize.set_stats(
                torch.from_numpy(stats["mean"]).float(), torch.from_numpy(stats["std"]).float()
            )
        return model


def plan_run(pairing: Pairing, config: TrainConfig) -> RunPlan:
    """Split the scenes, order the samples; raises UsageError where there is too little to train."""
    check_labels(pairing, config)
    num_views, note = usable_views(pairing, config)
    split = run_split(pairing.questions, num_views, config)
    split = replace(split, note=note + split.note)
    check_geometry(pairing, split, config)
    acted = pairing.action_table(config)
    if acted is not None and split.kind != "scene":
        raise UsageError("action needs two demonstrations or more: one to train and one to score")
    adjacent = any(task_class(name).adjacent_views for name in config.tasks)
    frames = None if acted is None else acted.order()
    return RunPlan(
        pairing=pairing,
        config=config,
        split=split,
        order=TrainOrder(split.train, pairing.units, config, adjacent=adjacent, frames=frames),
        scoring=tuple(scored_samples(pairing, split.val, config)),
        gen_dim=pairing.prior.num_channels(pairing.prior_tap),
        sem_dim=pairing.semantic.num_channels(pairing.semantic_tap),
    )


def scored_samples(
    pairing: Pairing, scenes: Sequence[SceneViews], config: TrainConfig
) -> list[Sample]:
    """Return the samples that score the config's tasks: views, whole scenes, or frames."""
    acted = pairing.action_table(config)
    if acted is not None:
        return frame_samples(scenes, acted.order())
    sampled = scene_samples if asks_scenes(config) else scoring_samples
    return sampled(scenes, config.views_per_sample)


def check_answers(plan: RunPlan) -> None:
    """Refuse tasks to which the scored views have no answer; reads no more scenes than it must."""
    with torch.random.fork_rng(devices=[]):
        waiting = [
            task_class(name).from_config(plan.config, plan.pairing.grid)
            for name in plan.config.tasks
        ]
    rows, cols = plan.pairing.grid
    table = plan.pairing.table(plan.config.min_depth_share)
    nothing = torch.empty(1, plan.config.views_per_sample, rows * cols, 0)
    for sample in plan.scoring:
        seed, asked = plan.config.split_seed, plan.pairing.asks(plan.config)
        batch = aligned_batch(table, [sample], seed, nothing, nothing, asked)
        waiting = [task for task in waiting if not _is_asked(task.targets(batch))]
        if not waiting:
            return
    found = "; ".join(f"{task.name}: {task.unanswered}" for task in waiting)
    raise UsageError(f"{found}. Leave the task out of --task, or score other scenes (--split-seed)")


def _is_asked(targets: Targets) -> bool:
    """Say whether something is asked: annotated questions may have answers that none trains."""
    return bool(targets["count"]) or ("there" in targets and bool(targets["there"].any()))


def same_stores(pairing: Pairing, record: dict[str, Any]) -> bool:
    """Tell whether stores hold what those of the run held, wherever they are now."""
    before, now = record["identity"]["stores"], _stores_identity(pairing)
    return bool(before == {**before, **now})  # labels may be left out


def check_no_leak(pairing: Pairing, record: dict[str, Any]) -> str:
    """Refuse to score scenes that the run was trained on, by their content in either store.

    A record of before content was kept names its scenes only: the same name counts there.

    Returns:
        What a person must judge: scenes of the same names and other content; "" without any.
    """
    split = record["split"]
    trained, names = set(split.get("trained_content", ())), set(split["train"])
    leaked = [
        scene_id
        for scene_id in pairing.scene_ids
        if (not trained and scene_id in names) or trained & set(_content(pairing, [scene_id]))
    ]
    if leaked:
        raise UsageError(
            f"{len(leaked)} of {len(pairing.scene_ids)} scenes were trained on, such as "
            f"{leaked[:3]}: their scores would say nothing of new scenes. Leave --prior and "
            "--semantic out, or name the run's own stores, to score what it kept for scoring"
        )
    alike = [scene_id for scene_id in pairing.scene_ids if scene_id in names]
    if not alike:
        return ""
    return (
        f"{len(alike)} of these {len(pairing.scene_ids)} scenes are called as scenes that were "
        f"trained on, such as {alike[0]}, and were made from other views or pictures: where they "
        "are the same places, their scores say nothing of new ones."
    )


def _content(pairing: Pairing, scene_ids: Sequence[str]) -> list[str]:
    """Return the hashes of what the scenes were made from, as either store knows it."""
    stores = (pairing.prior, pairing.semantic)
    return sorted({store.content_sha256(name) for store in stores for name in scene_ids} - {""})


def check_same_stores(pairing: Pairing, record: dict[str, Any]) -> None:
    """Refuse stores that are not those of the run: its split would be of other scenes."""
    before = record["identity"]["stores"]
    now = _stores_identity(pairing)
    changed = sorted(
        name for name in before.keys() | now.keys() if before.get(name) != now.get(name)
    )
    if changed:
        raise UsageError(
            f"the run's {' and '.join(changed)} stores changed since it was trained, so its split "
            "cannot be made again; name the stores with --prior and --semantic to score all views"
        )


def write_record(run_dir: Path, plan: RunPlan, run: RunConfig) -> None:
    """Write what the run is and its settings, or check that the folder holds the same run.

    Raises:
        UsageError: The folder holds another run; the message names the fields that differ.
    """
    identity = plan.identity()
    before = _read_record(run_dir)
    if before is not None:
        if before["digest"] != digest(identity):
            fields = differences(before["identity"], identity)
            raise UsageError(
                f"{run_dir} holds another run: {'; '.join(fields[:6])}. Choose another --out, or "
                "repeat the command of that run to resume it"
            )
        write_json(run_dir / RECORD, sealed_json({**before, "where": _where(plan.pairing)}))
        write_text(run_dir / FILE, as_toml(plan.config, run))
        return
    pairing = plan.pairing
    record = {
        "digest": digest(identity),
        "identity": identity,
        "dims": {"gen": plan.gen_dim, "sem": plan.sem_dim, "grid": list(pairing.grid)},
        "split": {
            "kind": plan.split.kind,
            "note": plan.split.note,
            "train": [scene.scene_id for scene in plan.split.train],
            "val": [scene.scene_id for scene in plan.split.val],
            "trained_content": _content(pairing, [s.scene_id for s in plan.split.train]),
        },
        "notes": list(pairing.notes),
        "streams": plan.streams(),
        "where": _where(pairing),
        "run": to_json(run),
        **_policy(plan),
        "versions": {name: version(name) for name in _VERSIONS}
        | {"python": platform.python_version()},
    }
    write_json(run_dir / RECORD, sealed_json(record))
    write_text(run_dir / FILE, as_toml(plan.config, run))


def _policy(plan: RunPlan) -> dict[str, Any]:
    """Return what acting on new frames takes beside the weights; nothing of other tasks."""
    acted = plan.pairing.action_table(plan.config)
    if acted is None:
        return {}
    stores = {"prior": plan.pairing.prior, "semantic": plan.pairing.semantic}
    encoders = {name: store.identity for name, store in stores.items()}
    sizes = plan.pairing.prior.image_size(next(iter(acted.frames))).tolist()
    told = {**acted.to_json(), "image_size": sizes[0] if sizes else None, "encoders": encoders}
    return {"policy": told}


def read_record(run_dir: Path) -> dict[str, Any]:
    """Return what a run's folder says it is; raises UsageError where there is no run."""
    record = _read_record(run_dir)
    if record is None:
        raise UsageError(f"{run_dir} holds no run: there is no {RECORD} in it")
    return record


def recorded_config(record: dict[str, Any]) -> TrainConfig:
    """Return the config of a run."""
    return train_config_from_json(record["identity"]["train"])


def recorded_pairing(record: dict[str, Any]) -> Pairing:
    """Open the stores of a run, from where they were when it last ran."""
    stores, where = record["identity"]["stores"], record["where"]
    pairing = pair_stores(
        where["prior"],
        where["semantic"],
        prior_tap=stores["prior"]["tap"],
        semantic_tap=stores["semantic"]["tap"],
        labels=where.get("labels"),
        questions=where.get("questions"),
        actions=where.get("actions"),
        text_model=where.get("text_model"),
        allow_partial=True,
    )
    return replace(pairing, policy=record.get("policy"))


def recorded_model(record: dict[str, Any]) -> SpatialModel:
    """Return a model of a run's shapes; its weights are not read yet."""
    dims = record["dims"]
    rows, cols = dims["grid"]
    return build_model(dims["gen"], dims["sem"], (rows, cols), recorded_config(record))


def kept_policy(run_dir: Path) -> dict[str, Any] | None:
    """Return the cameras and bounds of the run that a folder holds; None where it has none."""
    record = _read_record(run_dir)
    return None if record is None else record.get("policy")


def _read_record(run_dir: Path) -> dict[str, Any] | None:
    path = run_dir / RECORD
    if not path.exists():
        return None
    return read_sealed_json(path, "remove it and repeat the run's command, which writes it anew")


def _stores_identity(pairing: Pairing) -> dict[str, Any]:
    stores = {
        "prior": _store_identity(pairing.prior, pairing.prior_tap),
        "semantic": _store_identity(pairing.semantic, pairing.semantic_tap),
    }
    if pairing.labels is not None:
        stores["labels"] = _store_identity(pairing.labels, pairing.labels.taps[0])
    if pairing.questions is not None:
        stores["questions"] = {"digest": pairing.questions.digest}
    if pairing.demonstrations is not None:
        stores["actions"] = {"digest": pairing.demonstrations.digest}
    return stores


def _store_identity(store: AnyStore, tap: str) -> dict[str, Any]:
    return {"tap": tap, "config_digest": store.config_digest, "digest": store.digest()}


def _origin(store: AnyStore, tap: str) -> str:
    config = store.identity["config"]
    made_by = ", ".join(str(config[key]) for key in ("backbone", "model") if config.get(key))
    return safe(f"{made_by}, tap {tap}")


def _where(pairing: Pairing) -> dict[str, Any]:
    stores = {"prior": pairing.prior, "semantic": pairing.semantic, "labels": pairing.labels}
    places: dict[str, Any] = {
        name: [_absolute(one.url) for one in parts(store)]
        for name, store in stores.items()
        if store is not None
    }
    if pairing.questions is not None:
        places["questions"] = [_absolute(file) for file in pairing.questions.files]
        places["text_model"] = pairing.questions.text_model
    if pairing.demonstrations is not None:
        places["actions"] = [_absolute(file) for file in pairing.demonstrations.files]
        places["text_model"] = pairing.demonstrations.text_model
    return places


def _absolute(url: str) -> str:
    return shown_url(url) if "://" in url else str(Path(url).absolute())
