"""Which weights each encoder of a comparison has, and in which words that is told."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vega3d.evaluate.encoders.config import EncodersConfig
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.registry import backbone_names, configured, family, unchanged
from vega3d.pipeline.backbones.small.catalogue import SMALL, small_settings
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.settings import build, settings
from vega3d.pipeline.several import TABLES, check_store_name
from vega3d.pipeline.spelling import read_toml


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """One encoder with its weights."""

    label: str
    """Of its store and its rows."""
    config: BackboneConfig
    weights: str
    """What a reader must know of them."""
    untrained: bool
    """Its weights were drawn from a seed."""
    heavy: bool
    """Has a pass of its own: it may fill a machine's memory."""


def choose(config: EncodersConfig, folder: Path, device: str) -> list[Chosen]:
    """Return the encoders that are compared; small ones are written to `folder` when not there.

    Args:
        config: Which.
        folder: For small networks.
        device: On `cuda`, given models run in bfloat16 as `vega3d-extract run` has them.

    Raises:
        UsageError: No such encoder or setting, or one is said to be two things.
    """
    return [
        _small(name, folder) if given is None else _given(name, given)
        for name, given in _asked_for(config, device).items()
    ]


def told_of(config: EncodersConfig) -> dict[str, str]:
    """Return the weights of each encoder that would be compared, in words; writes nothing."""
    return {
        name: _told_of_small(name) if given is None else _given(name, given).weights
        for name, given in _asked_for(config, "cpu").items()
    }


def _asked_for(config: EncodersConfig, device: str) -> dict[str, BackboneConfig | None]:
    """Return each encoder's settings; None for a small model's."""
    tables = _tables(config.tables) if config.tables else {}
    models = dict(text.split("=", 1) for text in config.models)
    if both := sorted(tables.keys() & models.keys()):
        raise UsageError(f"{', '.join(both)}: asked for by --model and in {config.tables} too")
    known = (*backbone_names(), *tables)
    wanted = config.encoders or tuple(dict.fromkeys(known))
    for name in (*wanted, *models):
        if name not in known:
            raise UsageError(f"encoders must be of {', '.join(dict.fromkeys(known))}, got {name!r}")
    if idle := sorted(models.keys() - set(wanted)):
        raise UsageError(f"--model is given for {', '.join(idle)}, not among the encoders")
    found: dict[str, BackboneConfig | None] = {}
    for name in wanted:
        if name in tables:
            found[name] = _from_table(name, tables[name], device)
        elif name in models:
            found[name] = _suited(configured(name, {"model": models[name]}), device)
        else:
            small = config.weights == "small" and name in SMALL
            found[name] = None if small else _suited(family(name)(), device)
    return found


def _small(name: str, folder: Path) -> Chosen:
    made = small_settings(name, folder)
    return Chosen(
        label=name,
        config=configured(name, made),
        weights=_told_of_small(name),
        untrained=bool(SMALL[name].writer),
        heavy=False,
    )


def _told_of_small(name: str) -> str:
    return "small, random" if SMALL[name].writer else "desk model, trained on rooms"


def _suited(config: BackboneConfig, device: str) -> BackboneConfig:
    """Return a config with the device's own type, as where no type was asked for."""
    if device == "cuda" and getattr(config, "dtype", "") == "float32":
        return replace(config, dtype="bfloat16")  # type: ignore[type-var]
    return config


def _given(label: str, config: BackboneConfig) -> Chosen:
    model = str(getattr(config, "model", ""))
    return Chosen(
        label=label,
        config=config,
        weights=model or "none, a control",
        untrained=False,
        heavy=bool(config.parts),
    )


def _tables(file: str) -> dict[str, Any]:
    held = read_toml(file, but=TABLES)
    if set(held) != {TABLES} or not held[TABLES]:
        raise UsageError(f"{file}: must hold a table [{TABLES}.NAME] an encoder, and nothing else")
    for name in held[TABLES]:
        check_store_name(name)
    return dict(held[TABLES])


def _from_table(label: str, table: Any, device: str) -> BackboneConfig:  # noqa: ANN401 - of TOML
    """Return the config that a file's table describes; raises UsageError naming what is wrong."""
    where = f"[{TABLES}.{label}]"
    if not isinstance(table, Mapping):
        raise UsageError(f"{where} must be a table of settings, got {table!r}")
    held = {key: value for key, value in table.items() if key != "backbone"}
    base = unchanged(str(table.get("backbone", label)), held)
    known = {one.key: one for one in settings(base)}
    if unknown := sorted(held.keys() - known.keys()):
        raise UsageError(f"{where}: {base.name} has no setting {', '.join(unknown)}")
    try:
        values = {key: known[key].parse(known[key].spelled(value)) for key, value in held.items()}
        found = build(base, values)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    assert isinstance(found, BackboneConfig)
    return found if "dtype" in held else _suited(found, device)
