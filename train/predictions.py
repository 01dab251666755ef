"""Answers to the scored questions as files, and the official metrics of each benchmark."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import write_whole
from vega3d.train.annotations.item import Item
from vega3d.train.loader import Loader
from vega3d.train.model import SpatialModel
from vega3d.train.order import Sample
from vega3d.train.questions import QuestionTable
from vega3d.train.scoring import scene_requests
from vega3d.train.tasks.asking import AskingTask

FOLDER = "predictions"
_log = logging.getLogger(__name__)


@torch.no_grad()
def write_predictions(
    run_dir: Path,
    model: SpatialModel,
    loader: Loader,
    samples: Sequence[Sample],
    table: QuestionTable,
) -> dict[str, dict[str, float]]:
    """Write `predictions/NAME.jsonl` beside the truth of the scored scenes; return the metrics.

    Both files go into `vega3d-benchmark score NAME PREDICTIONS --annotations FILE`, `--against`
    another run's.
    """
    was_training = model.training
    model.eval()
    found: dict[str, dict[str, tuple[Item, dict[str, Any]]]] = {}
    for batch in loader.batches(scene_requests(samples, 1)):
        targets = model.targets(batch)
        predictions, _ = model(batch, targets)
        for task in model.task_list():
            if not isinstance(task, AskingTask):
                continue
            mine = table.tasks[task.name]
            for row, told in task.answers(predictions[task.name], targets[task.name], mine.bank):
                item = mine.items[row]
                found.setdefault(item.benchmark, {})[item.item_id] = item, told
    model.train(was_training)
    return {name: score_answers(run_dir, name, list(each.values())) for name, each in found.items()}


def score_answers(
    run_dir: Path, name: str, answered: Sequence[tuple[Item, dict[str, Any] | None]]
) -> dict[str, float]:
    """Write the answers to a benchmark's items beside the truth; return the official metrics.

    Args:
        run_dir: The run's folder.
        name: The benchmark.
        answered: Items with the fields of their prediction records; None where there is no answer.
    """
    from vega3d.evaluate.benchmarks.catalogue import score  # other runs need no benchmark

    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    truth, given = folder / f"{name}_annotations.json", folder / f"{name}.jsonl"
    lines = [
        json.dumps({"id": item.item_id, **told}) for item, told in answered if told is not None
    ]
    write_whole(given, ("\n".join(lines or ["[]"]) + "\n").encode())
    records = [_record(item) for item, _ in answered]
    write_whole(truth, (json.dumps(records, indent=1) + "\n").encode())
    try:
        scored = score(name, truth, given)
    except UsageError as error:  # an extra is not installed: the files can be scored elsewhere
        _log.warning("%s is not scored: %s", name, error)
        return {}
    return {metric: value for metric, value in scored.values.items() if value == value}


def _record(item: Item) -> dict[str, Any]:
    """Return an item as the benchmark's module reads it."""
    record: dict[str, Any] = {
        "id": item.item_id,
        "scene_id": item.scene_id,
        "question_type": item.kind,
        "question": item.text,
        "needs": item.needs,
    }
    if item.benchmark == "scanrefer":
        assert item.boxes
        record["box"] = item.boxes[0]
        record["question_type"] = item.kind or "multiple"
    elif item.benchmark == "multi3drefer":
        record["box"] = list(item.boxes or ())
    elif item.benchmark == "scan2cap":
        record |= {"captions": list(item.answers), "box": (item.boxes or ((),))[0]}
    elif item.benchmark == "scanqa":
        record["answers"] = list(item.answers)
    elif item.benchmark == "sqa3d":
        turns = [{"from": "human", "value": item.text}, {"from": "gpt", "value": item.answers[0]}]
        record |= {"conversations": turns, "metadata": {"question_type": item.kind}}
    else:
        options = list(item.options) or None
        record |= {"ground_truth": item.answers[0], "options": options, "scene_name": item.scene_id}
    return record
