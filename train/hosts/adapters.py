"""What is added to a host and trained: the fusion of its prior, and LoRA adapters through peft."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import write_whole
from vega3d.train.hosts.attached import AttachedPrior
from vega3d.train.hosts.config import HostConfig, to_plain

FOLDER = "added"
CARD = "host.json"


class Added(nn.Module):
    """All that trains, under names of its own; nothing of the host."""

    def __init__(self, prior: AttachedPrior | None, adapters: Any | None) -> None:  # noqa: ANN401
        """Take a prior, a peft model, or both."""
        super().__init__()
        self.prior = prior
        self._adapters = [adapters]  # in a list: the host inside of it is no part of this module
        weights = {} if adapters is None else trained_of(adapters)
        # A parameter's name has no dots.
        self.lora = nn.ParameterDict({name.replace(".", "/"): p for name, p in weights.items()})

    def save(self, run_dir: Path, config: HostConfig) -> Path:
        """Write what was added: `prior.safetensors`, and the adapters as peft reads them."""
        folder = run_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        if self.prior is not None:
            self.prior.save(folder)
        (adapters,) = self._adapters
        if adapters is not None:
            adapters.save_pretrained(folder, save_embedding_layers=False)
        card = {key: to_plain(config)[key] for key in ("host", "variant", "views", "view_pixels")}
        write_whole(folder / CARD, (json.dumps(card, indent=1) + "\n").encode())
        return folder


def trained_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a model that train, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def add_adapters(model: nn.Module, config: HostConfig) -> Any | None:  # noqa: ANN401 - peft's
    """Put LoRA adapters into a host in place, float32; None where the rank is 0.

    Raises:
        UsageError: peft is not installed, or no layer has such a name.
    """
    if config.lora_rank == 0:
        return None
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UsageError(f"LoRA needs peft ({error}): pip install 'vega3d[hosts]'") from error
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=config.lora_targets,
        lora_dropout=0.0,  # what is drawn would differ with the number of processes
    )
    try:
        with warnings.catch_warnings():  # peft asks transformers by a name that is going away
            warnings.simplefilter("ignore", FutureWarning)
            adapted = get_peft_model(model, settings)
    except ValueError as error:
        raise UsageError(
            f"lora_targets {config.lora_targets!r} fits no layer of the host: {error}"
        ) from error
    for parameter in trained_of(adapted).values():
        parameter.data = parameter.data.to(torch.float32)
    return adapted
