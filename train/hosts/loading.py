"""A host from a hub id or a folder: the model, its tokenizer, its images and its way to chat.

transformers' own processors want torchvision even where no video is decoded; here the same parts
are loaded one by one: the image processor over Pillow, the tokenizer, the chat template.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vega3d.pipeline.errors import UsageError
from vega3d.train.hosts.config import TINY

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What answers, and what turns views and words into its inputs."""

    name: str
    model: Any
    tokenizer: Any
    images: Any
    """Its image processor."""

    template: str
    """How its checkpoint writes a conversation (Jinja)."""

    @property
    def kind(self) -> str:
        """The model type, such as `qwen2_5_vl`."""
        return str(self.model.config.model_type)

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end an answer, the one to learn first."""
        told = self.model.generation_config.eos_token_id
        found = told if isinstance(told, list) else [told]
        usual = self.tokenizer.eos_token_id
        ends = dict.fromkeys(end for end in (usual, *found) if end is not None)
        if not ends:
            raise UsageError(f"{self.name}: no token ends an answer (eos_token_id)")
        return tuple(ends)

    def identity(self) -> dict[str, Any]:
        """Return what the host is known by: its name and the whole of its config."""
        plain = json.loads(self.model.config.to_json_string(use_diff=False))
        for key in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
            plain.pop(key, None)
        return {"name": self.name, "config": plain}


def load_host(name: str, precision: str, folder: Path) -> Host:
    """Load a host onto the CPU.

    Args:
        name: Hub id, folder, or one of TINY.
        precision: Of its weights, `float32` or `bfloat16`.
        folder: Where a tiny host is written.

    Raises:
        UsageError: It cannot be loaded, or is of no class that answers questions about images.
    """
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
    from transformers.processing_utils import ProcessorMixin
    from transformers.utils import logging as chatter

    chatter.disable_progress_bar()
    place = name
    if name in TINY:
        place = str(folder)
        if not folder.exists():
            from vega3d.train.hosts.tiny import write_tiny_host

            write_tiny_host(name, folder)
    try:
        model = AutoModelForImageTextToText.from_pretrained(place, dtype=getattr(torch, precision))
        tokenizer = AutoTokenizer.from_pretrained(place)
        images = AutoImageProcessor.from_pretrained(place, backend="pil")
        told, _ = ProcessorMixin.get_processor_dict(place)
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"the host {name} cannot be loaded: {error}") from error
    template = told.get("chat_template") or tokenizer.chat_template
    if not isinstance(template, str):
        raise UsageError(
            f"the host {name} has no chat template: take one that is tuned to answer (Instruct)"
        )
    host = Host(name=name, model=model, tokenizer=tokenizer, images=images, template=template)
    _log.info("host %s: %s, %d parameters", name, type(model).__name__, model.num_parameters())
    return host
