"""Where does geometry pay? Readers of stores that carry it, scored by what a question needs.

The stores are controls with exact content: the semantic one knows class and colour of every token
(what a perfect recogniser knows), the prior where each token lies in the world (from the rooms'
exact depth). `reader` is a program that parses the sentence and looks into the tokens of each box,
`head` the trained one, both variants with the same fusion and training. Neither is given a place.

OMP_NUM_THREADS=1 python tests/benchmarks/bench_needs.py OUT --rooms 120 --task grounding
OMP_NUM_THREADS=1 python tests/benchmarks/bench_needs.py OUT --rooms 480 --steps 600 --task vsi
pytest tests/benchmarks/bench_needs.py                                        # tiny
"""

import argparse
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "support"))

from room_stores import write_room_stores
from store_reader import read_stores

from vega3d.evaluate.benchmarks.catalogue import score
from vega3d.evaluate.benchmarks.config import MakingConfig
from vega3d.evaluate.benchmarks.made.making import make
from vega3d.evaluate.benchmarks.measures import Score, compare
from vega3d.train.config import RunConfig, TrainConfig
from vega3d.train.fitting import fit

TASKS = {"grounding": ("scanrefer", "multi3drefer"), "qa": ("scanqa", "sqa3d"), "vsi": ("vsi",)}
VARIANTS = ("semantic", "adaptive")


def train(
    out: Path, scenes: str, making: MakingConfig, config: TrainConfig, variants: tuple[str, ...]
) -> None:
    """Make rooms' questions and stores, and train a head on each variant; what is there stays."""
    questions = out / "questions"
    if not (questions / "made.json").exists():
        make(scenes, questions, making)
    if not (out / "semantic").exists():
        write_room_stores(out, scenes)
    for variant in variants:
        plain = {name: getattr(config, name) for name in config.__dataclass_fields__}
        one = TrainConfig(**{**plain, "variant": variant})
        run = RunConfig(workers=0, eval_every=10**6, report_scenes=0)
        stores = str(out / "prior"), str(out / "semantic")
        folder = out / config.tasks[0] / variant
        fit(*stores, folder, one, run, questions=[str(questions)])


Found = dict[tuple[str, str], tuple[float, ...]]


def heads(out: Path, task: str) -> Found:
    """Return what the trained heads score by benchmark and need."""
    ours, theirs = (out / task / name / "predictions" for name in ("adaptive", "semantic"))
    scores = {
        name: [
            score(name, ours / f"{name}_annotations.json", place / f"{name}.jsonl")
            for place in (ours, theirs)
        ]
        for name in TASKS[task]
    }
    return differences(scores)


def readers(out: Path) -> Found:
    """Return what the program scores, with both stores and with the semantic one alone."""
    stores = str(out / "semantic"), str(out / "prior")
    scores = {
        name: [
            read_stores(out / "questions", name, stores[0], prior, out / f"read_{name}.jsonl")
            for prior in (stores[1], None)
        ]
        for name in TASKS["grounding"]
    }
    return differences(scores)


def differences(scores: dict[str, list[Score]]) -> Found:
    """Return fused minus semantic by benchmark and need: values, difference, interval, p."""
    found = {}
    for name, pair in scores.items():
        between = compare(*pair)
        for need in ("geometry", "both", "appearance"):
            key = f"worth {need}"
            if key in between:
                one = between[key]
                values = (pair[1].values[key], pair[0].values[key])
                found[name, need] = (*values, one.difference, one.low, one.high, one.p_value)
    return found


def table(found: Found) -> str:
    """Return the differences as lines of a table."""
    lines = [
        "| benchmark | needs | semantic | fused | difference | p |",
        "|---|---|---|---|---|---|",
    ]
    for (name, need), (theirs, ours, difference, low, high, p_value) in found.items():
        told = f"{difference:+.1f} [{low:.1f}, {high:.1f}]"
        lines.append(f"| {name} | {need} | {theirs:.1f} | {ours:.1f} | {told} | {p_value:.3f} |")
    return "\n".join(lines)


@pytest.mark.slow
def test_the_table_has_a_line_a_need(tmp_path: Path) -> None:
    config = TrainConfig(
        tasks=("grounding",), hidden_dim=16, heads=2, reader_layers=0, views_per_sample=4,
        batch_size=2, steps=2,
    )  # fmt: skip
    train(tmp_path, "rooms:4?views=4", MakingConfig(val_share=0.5), config, VARIANTS)
    found = heads(tmp_path, "grounding")
    assert {("scanrefer", "geometry"), ("multi3drefer", "appearance")} <= set(found)
    assert len(table(found).splitlines()) == 2 + len(found)


def main() -> None:
    """Train the variants that are asked for, and print the table when both are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--rooms", type=int, default=120)
    parser.add_argument("--task", choices=TASKS, default="grounding")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    asked = parser.parse_args()
    config = TrainConfig(
        tasks=(asked.task,), hidden_dim=64, reader_layers=0, views_per_sample=24, batch_size=4,
        questions_per_sample=24, steps=asked.steps, lr=4e-3,
    )  # fmt: skip
    scenes, making = f"rooms:{asked.rooms}?views=24&seed=7", MakingConfig(per_room=96)
    train(asked.out, scenes, making, config, tuple(asked.variants.split(",")))
    if asked.task == "grounding":
        sys.stdout.write(f"reader\n{table(readers(asked.out))}\n")
    if all((asked.out / asked.task / name / "summary.json").exists() for name in VARIANTS):
        sys.stdout.write(f"head\n{table(heads(asked.out, asked.task))}\n")


if __name__ == "__main__":
    main()
