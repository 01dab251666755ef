"""Answers of a host to the scored questions, and the benchmarks' own metrics of them."""

import logging
from pathlib import Path
from typing import Any

import torch

from vega3d.train.annotations.item import Item
from vega3d.train.hosts.prompts import question_of, read_answer
from vega3d.train.hosts.training import Ready
from vega3d.train.predictions import score_answers

_log = logging.getLogger(__name__)


def answer_all(ready: Ready, run_dir: Path, *, is_sharded: bool) -> dict[str, dict[str, float]]:
    """Answer the scored questions and write `predictions/`; return the metrics by benchmark.

    The processes share the questions; all of them must call it. Only the first returns metrics.
    """
    scored, processes = ready.plan.scored, ready.processes
    mine = list(range(processes.rank, len(scored), processes.count))
    # A sharded host answers on all processes or on none: who has no question repeats one.
    rounds = -(-len(scored) // processes.count) if is_sharded else len(mine)
    told: dict[int, str] = {}
    for number in range(rounds):
        place = mine[number] if number < len(mine) else 0
        said = answer(ready, *scored[place], is_sharded=is_sharded)
        if number < len(mine):
            told[place] = said
    every = {place: said for part in processes.gather(told) for place, said in part.items()}
    if not processes.is_first:
        return {}
    return _scores(run_dir, [(item, every[place]) for place, (_, item) in enumerate(scored)])


@torch.no_grad()
def answer(ready: Ready, scene_id: str, item: Item, *, is_sharded: bool = False) -> str:
    """Return what the host says to one question, greedily."""
    host = ready.host
    with ready.seeing(scene_id) as pixels:
        inputs = ready.placed(ready.writer.inputs(pixels, question_of(item)))
        if is_sharded:  # generate() asks for the visual tokens before the host is called as a whole
            host.model.unshard()
        found = host.model.generate(
            **inputs,
            max_new_tokens=ready.plan.config.answer_tokens,
            do_sample=False,
            eos_token_id=list(host.ends),
            synced_gpus=is_sharded,
        )
    new = found[0, inputs["input_ids"].shape[1] :]
    return str(host.tokenizer.decode(new, skip_special_tokens=True)).strip()


def _scores(run_dir: Path, told: list[tuple[Item, str]]) -> dict[str, dict[str, float]]:
    by_name: dict[str, list[tuple[Item, dict[str, Any] | None]]] = {}
    for item, said in told:
        by_name.setdefault(item.benchmark, []).append((item, read_answer(item, said)))
    found = {}
    for name, answered in by_name.items():
        if unread := sum(fields is None for _, fields in answered):
            _log.warning(
                "%s: %d of %d answers name no box that can be read, and count as wrong",
                name,
                unread,
                len(answered),
            )
        found[name] = score_answers(run_dir, name, answered)
    return found
