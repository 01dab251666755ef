"""The fusions of the paper's Table 5 on the desk's stores, by `vega3d-train ablate`'s functions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.train.ablation import ablate, plan_ablation
from vega3d.train.config import AblationConfig, RunConfig, TrainConfig
from vega3d.train.fitting import fit
from vega3d.train.paper.compared import RANDOM, SEMANTIC
from vega3d.train.paper.comparing import difference, estimate
from vega3d.train.paper.config import PaperConfig

ON_RANDOM = "adaptive, random prior"
TASKS = ("depth", "displacement", "matching")


def compare_fusions(stores: Mapping[str, str], folder: Path, config: PaperConfig) -> dict[str, Any]:
    """Train every variant with every seed, and the gate once more on the random twins.

    A room's score is the mean of its tasks' scores; rooms are those that `vega3d-train` keeps for
    scoring. Runs that are there already are not trained again.
    """
    train = TrainConfig(
        tasks=TASKS,
        hidden_dim=config.fusion_dim,
        steps=config.fusion_steps,
        batch_size=8,
        views_per_sample=config.views,
        val_share=config.rooms / (config.rooms + config.fitted),
    )
    run = RunConfig(eval_every=config.fusion_steps, checkpoint_every=config.fusion_steps, workers=1)
    compared = AblationConfig(variants=config.variants, seeds=config.seeds)
    table = ablate(stores["prior"], stores[SEMANTIC], folder / "prior", train, run, compared)
    _check_finished(table)
    found: dict[str, list[dict[str, Any]]] = {}
    for (variant, seed), one in plan_ablation(train, compared).items():
        where = folder / "prior" / variant / f"seed{seed}"
        summary = fit(stores["prior"], stores[SEMANTIC], where, one, run)  # finished: read alone
        found.setdefault(variant, []).append(summary)
        if variant == "adaptive":
            twin, where = stores[f"{RANDOM} {seed}"], folder / "random" / f"seed{seed}"
            summary = fit(twin, stores[SEMANTIC], where, one, run)
            _check_finished(summary)
            found.setdefault(ON_RANDOM, []).append(summary)
    return {
        "tasks": list(TASKS),
        "split": table["note"],
        "page": str(folder / "prior" / "report.html"),
        "rows": _rows(found, config.bootstrap_samples),
        "differences": _differences(found, config.bootstrap_samples),
    }


def _check_finished(told: Mapping[str, Any]) -> None:
    """End here where a signal ended the training: it saved its state, and goes on from there."""
    if not told["finished"]:
        raise KeyboardInterrupt


def _rows(found: Mapping[str, list[dict[str, Any]]], samples: int) -> list[dict[str, Any]]:
    rows = []
    for variant, runs in found.items():
        metrics = {
            name: float(np.mean([run["metrics"][name] for run in runs]))
            for name in ("depth/absrel", "displacement/mra", "matching/recall")
        }
        gates = [run["gate_mean"] for run in runs if run["gate_mean"] is not None]
        rows.append(
            {
                "variant": variant,
                "score": estimate(_scores(runs), samples),
                "metrics": metrics,
                "gate_mean": float(np.mean(gates)) if gates else None,
            }
        )
    return sorted(rows, key=lambda row: -row["score"]["mean"])


def _differences(found: Mapping[str, list[dict[str, Any]]], samples: int) -> list[dict[str, Any]]:
    others = [name for name in found if name != "adaptive"]
    ours = _scores(found["adaptive"])
    return [
        {
            "better": "adaptive",
            "than": other,
            "found": {"score": difference(ours, _scores(found[other]), 1, samples)},
        }
        for other in others
    ]


def _scores(runs: list[dict[str, Any]]) -> np.ndarray:
    """Return the score of every seed and room, NaN for none."""
    rooms = runs[0]["scene_scores"]
    values = [[run["scene_scores"][room] for room in rooms] for run in runs]
    return np.array(values, dtype=np.float64)
