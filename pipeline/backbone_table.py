"""Every encoder in one table: what computes it, from which weights, and what a view takes.

Standard library only: nothing is loaded, and no network is asked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vega3d.pipeline.backbones.checkpoints import model_name, planned_facts
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.registry import backbone_names, family
from vega3d.pipeline.estimate import view_costs
from vega3d.pipeline.settings import settings

_HEAD = (
    "`--backbone`", "class", "default checkpoint", "licence", "tap", "tokens", "channels",
    "parameters", "TFLOP a view", "kB a view",
)  # fmt: skip


def backbone_rows() -> list[dict[str, Any]]:
    """Return what there is to know of each encoder, ours first, of an image of 640x480."""
    return [_row(family(name)()) for name in backbone_names()]


def backbone_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rows as the lines of a table, as the README has it."""
    cells = [_HEAD, ("---",) * len(_HEAD), *(_cells(row) for row in rows)]
    return [f"| {' | '.join(line)} |" for line in cells]


def _row(config: BackboneConfig) -> dict[str, Any]:
    offline = not config.parts or model_name(config) in config.published
    costs = view_costs(config, planned_facts(config)) if offline else {}
    return {
        "name": config.name,
        "about": (type(config).__doc__ or "").partition("\n")[0],
        "model": model_name(config),
        "licence": config.licence,
        "classes": config.classes,
        **costs,
        "draws_noise": config.draws_noise,
        "options": [item.flag for item in settings(config)],
    }


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    first = (f"`{row['name']}`", row["classes"], row["model"], row["licence"])
    if "taps" not in row:
        return (*first, *[""] * (len(_HEAD) - len(first)))
    rows, cols = row["tokens"]
    return (
        *first,
        ", ".join(f"`{tap}`" for tap in row["taps"]),
        f"{rows} x {cols}",
        str(row["channels"]),
        f"{row['parameters'] / 1e6:.0f} M" if row["parameters"] else "",
        f"{row['flops_per_view'] / 1e12:.3g}" if row["parameters"] else "",
        f"{row['bytes_per_view'] / 1e3:.0f}",
    )
