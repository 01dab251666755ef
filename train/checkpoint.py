"""Files of a run, written so that a kill at any moment leaves the old one or the new one."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import write_whole
from vega3d.train.config import differences
from vega3d.train.sealed import DamagedFileError, seal, unseal

CHECKPOINT = "checkpoint"
"""Beginning of the names `checkpoint-<finished steps>.safetensors`."""

_log = logging.getLogger(__name__)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write a JSON file whole."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_whole(path, text.encode())


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """All that a resumed run needs."""

    done: int
    """Finished steps."""

    best_score: float
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    """As `Optimizer.state_dict` returns it."""

    average: dict[str, Tensor] | None


_UNSEALED = "checkpoint.pt"
"""What the first versions kept: one file, unpickled, without a hash or the run it is of."""


def save_state(run_dir: Path, state: State, identity: dict[str, Any]) -> None:
    """Write a checkpoint, and keep the one before it; older ones go.

    Args:
        run_dir: The run's folder.
        state: What to keep.
        identity: What decides the run's numbers (`RunPlan.identity`).
    """
    tensors = {f"model/{name}": tensor for name, tensor in state.model.items()}
    tensors |= {f"average/{name}": tensor for name, tensor in (state.average or {}).items()}
    for index, values in state.optimizer["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in values.items()}
    about = {
        "run": identity,
        "done": state.done,
        "best_score": repr(state.best_score),  # -inf before the first score
        "param_groups": state.optimizer["param_groups"],
        "has_average": state.average is not None,
    }
    path = run_dir / f"{CHECKPOINT}-{state.done:08d}.safetensors"
    write_whole(path, seal(tensors, about))
    # One of a later step is what a resumed run found damaged and went back behind.
    older = [there for there in _checkpoints(run_dir) if there.name < path.name]
    for there in {*_checkpoints(run_dir)} - {path, *older[-1:]}:
        there.unlink(missing_ok=True)


def load_state(run_dir: Path, identity: dict[str, Any]) -> State | None:
    """Return the newest state that is whole, None where none was ever saved.

    A damaged checkpoint is named in a warning, and the one before it is taken: the steps between
    the two are done again, with the same numbers.

    Raises:
        UsageError: Every checkpoint is damaged, or it is of another run (the message says what
            differs).
    """
    damaged: list[str] = []
    for path in reversed(_checkpoints(run_dir)):
        try:
            tensors, about = unseal(path.read_bytes(), str(path))
        except DamagedFileError as error:
            _log.warning("%s", error)
            damaged.append(path.name)
            continue
        check_same_run(path, about["run"], identity)
        if damaged:
            _log.warning("going on from the checkpoint before it, after step %d", about["done"])
        return _state(tensors, about)
    if damaged:
        raise UsageError(
            f"{run_dir}: no checkpoint is whole ({', '.join(damaged)}); remove them to start the "
            "run over, or restore one from a copy"
        )
    if (old := run_dir / _UNSEALED).exists():
        _log.warning(
            "%s was saved by an older vega3d and vouches for nothing: it is not read, and the run "
            "begins at its first step. To go on from it, repeat the command with the version that "
            "wrote it; else remove it",
            old,
        )
    return None


def check_same_run(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse a file of another run; raises UsageError, naming what differs."""
    if fields := differences(before, now):
        raise UsageError(
            f"{path} is of another run: {'; '.join(fields[:6])}. Choose another --out, or repeat "
            "the command of that run to resume it"
        )


def save_weights(path: Path, model: nn.Module, identity: dict[str, Any]) -> None:
    """Write a model's weights as safetensors, with their hash and the run they are of."""
    write_whole(path, seal(model.state_dict(), {"run": identity}))


def load_weights(path: Path, model: nn.Module, identity: dict[str, Any]) -> None:
    """Read a model's weights; raises UsageError where they are damaged or not of this run."""
    if not path.exists():
        raise UsageError(f"{path} does not exist; the run may not have scored anything yet")
    try:
        state, about = unseal(path.read_bytes(), str(path))
    except DamagedFileError as error:
        raise UsageError(f"{error}; remove it and repeat the run's command") from error
    check_same_run(path, about["run"], identity)
    take_weights(model, state, str(path))


def take_weights(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Give a model its weights; raises UsageError where another version of it left them."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in state.items()}
    differing = [n for n in sorted(shapes.keys() | found) if shapes.get(n) != found.get(n)]
    if differing:
        raise UsageError(
            f"{where} holds tensors of another network, such as {differing[0]}: another version "
            "of vega3d trained it (run.json says which). Use that one, or train into a new --out"
        )
    model.load_state_dict(state, strict=True)


def _checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoints, oldest first."""
    return sorted(run_dir.glob(f"{CHECKPOINT}-*.safetensors"))


def _state(tensors: dict[str, Tensor], about: dict[str, Any]) -> State:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        index, _, rest = name.partition("/")
        moments.setdefault(int(index), {})[rest] = tensor
    groups = [{**group, "betas": tuple(group["betas"])} for group in about["param_groups"]]
    return State(
        done=about["done"],
        best_score=float(about["best_score"]),
        model=parts["model"],
        optimizer={"state": moments, "param_groups": groups},
        average=parts["average"] if about["has_average"] else None,
    )
