"""Maps over block and timestep (the paper's Fig. 6): score, matching, depth, normals."""

import json
from pathlib import Path
from typing import Any

from vega3d.evaluate.config import ReportConfig, RunConfig, ScoreConfig
from vega3d.evaluate.intervals import Estimate
from vega3d.evaluate.probes.config import ProbeConfig
from vega3d.evaluate.probes.page import write_probe
from vega3d.evaluate.probes.probe import probe
from vega3d.evaluate.report import report
from vega3d.evaluate.sources import tap_numbers
from vega3d.pipeline.backbones.checkpoints import resolve_model
from vega3d.train.paper.config import PaperConfig
from vega3d.train.paper.streams import make_stores, prior_backbone

MEASURES = {
    "above_chance": "consistency above chance",
    "consistency": "raw consistency, as published",
    "centred_recall_20cm": "matching: recall within 20 cm, centred",
    "depth": "depth: R2 that a ridge gains over position",
    "normal": "normals: R2 that a ridge gains over position",
}


def map_blocks(folder: Path, config: PaperConfig) -> dict[str, Any]:
    """Extract every block at every timestep, score and probe each, and say where each is best."""
    scenes = config.scenes(maps=True)
    model = resolve_model(config.prior, ("transformer",))
    layers = json.loads((model / "transformer" / "config.json").read_text())["num_layers"]
    blocks = config.map_blocks or tuple(range(layers))
    backbone = prior_backbone(config.prior, blocks=blocks, timesteps=config.map_timesteps)
    store = make_stores(scenes, {"map": backbone}, folder)["map"]
    scored = report(
        [f"prior={store}"],
        str(folder / "consistency"),
        ReportConfig(score=ScoreConfig(treatments=("raw", "centred")), bootstrap_samples=200),
        RunConfig(scheduler="synchronous", scenes_shown=0),
    )
    found: dict[str, dict[str, Estimate]] = {name: {} for name in MEASURES}
    for row in scored.summary.rows:
        for name in ("above_chance", "consistency", "centred_recall_20cm"):
            found[name][row.tap] = row.estimates[name]
    probed = probe(
        [f"prior={store}"],
        ProbeConfig(mlp_hidden=0, max_tokens=8_000, bootstrap_samples=200),
        labels=scenes,
    )
    write_probe(folder / "probe", probed)
    for line in probed.rows:
        for name in ("depth", "normal"):
            if not line.control:
                found[name][line.tap] = line.scores["gain", name]
    return {
        "scenes": scenes,
        "pages": [str(scored.html), str(folder / "probe" / "probe.html")],
        "blocks": list(blocks),
        "timesteps": list(config.map_timesteps),
        "maps": {name: _map(values) for name, values in found.items()},
    }


def _map(values: dict[str, Estimate]) -> dict[str, Any]:
    known = {tap: value for tap, value in values.items() if value.mean is not None}
    best = max(known, key=lambda tap: known[tap].mean or 0.0)
    return {
        "cells": [
            {
                "block": tap_numbers(tap)[0],
                "timestep": tap_numbers(tap)[1],
                "mean": value.mean,
                "low": value.low,
                "high": value.high,
            }
            for tap, value in known.items()
        ],
        "best": {"block": tap_numbers(best)[0], "timestep": tap_numbers(best)[1]},
    }
