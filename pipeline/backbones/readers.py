"""Which encoders a model is for: said where one is given to another."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vega3d.pipeline.backbones.checkpoints import describe, model_name, read_configs
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.registry import backbone_names, family
from vega3d.pipeline.errors import CheckpointError, UsageError


@contextmanager
def naming_the_encoder(config: BackboneConfig) -> Iterator[None]:
    """Where a model cannot be read, say which other encoder it is for."""
    try:
        yield
    except CheckpointError as error:
        own = family(config.name)()
        if model_name(config) in (model_name(own), *own.published):
            raise  # it is this encoder's own
        if _reads(config, model_name(config)):
            raise  # what is wrong is not which encoder the model is for
        if others := _readers(model_name(config), besides=config.name):
            told = f"it is a model for --backbone {' or '.join(others)}, not for {config.name}"
            raise CheckpointError(f"{error}; {told}") from error
        raise


def _reads(config: BackboneConfig, model: str) -> bool:
    """Say whether an encoder understands the configs of a model's folder."""
    folder = Path(model).expanduser()
    if not config.parts or not folder.is_dir():
        return False
    try:
        describe(config, model, read_configs(folder, config.parts))
    except CheckpointError:
        return False
    except UsageError:
        pass  # it has no such block: it is read all the same
    return True


def _readers(model: str, besides: str) -> list[str]:
    """Name the encoders that a model is for: they know its hub id, or can read its folder."""
    found = []
    for name in backbone_names():
        other = family(name)()
        if name == besides or not other.parts:
            continue
        if model in (model_name(other), *other.published) or _reads(other, model):
            found.append(name)
    return found
