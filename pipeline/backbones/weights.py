"""Loading weights with the class that wrote them: strictly, from safetensors, without chatter.

No diffusers or transformers import at the top: the caller's class says which library it is.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from vega3d.pipeline.errors import CheckpointError

_NOTHING = re.compile(r"(?!)")


def load_strictly(
    cls: Any,  # noqa: ANN401 - a diffusers or transformers model class
    place: Path,
    dtype: torch.dtype,
    *,
    may_miss: re.Pattern[str] = _NOTHING,
    may_skip: re.Pattern[str] = _NOTHING,
    renamed: Mapping[str, str] | None = None,
    **sizes: int,
) -> Any:  # noqa: ANN401
    """Return the model in `place`; any tensor missing, left over or misshapen is an error.

    Args:
        cls: The class, with a `from_pretrained`.
        place: The folder with config.json and .safetensors.
        dtype: Type of the weights in memory.
        may_miss: Tensors that the caller fills in.
        may_skip: Tensors of the file that this class has no use for, as they are named in it.
        renamed: Of a transformers class: pattern in a file's name -> what it is called here.
        sizes: Of a diffusers config that are not the file's: fewer layers, say.
    """
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, **sizes}
    if cls.__module__.startswith("diffusers."):
        options["torch_dtype"] = dtype
    else:
        # An unset trust asks the user, who may type y; and what is "ignored" is in the report,
        # where a shape that does not fit would otherwise raise without naming the tensor.
        options |= {"dtype": dtype, "trust_remote_code": False, "ignore_mismatched_sizes": True}
    if renamed:
        options["key_mapping"] = dict(renamed)
    try:
        with quiet():
            model, info = cls.from_pretrained(str(place), output_loading_info=True, **options)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{place}: cannot load as {cls.__name__}: {error}") from error
    wrong = {
        "missing": [key for key in info["missing_keys"] if not may_miss.fullmatch(key)],
        "unexpected": [key for key in info["unexpected_keys"] if not may_skip.fullmatch(key)],
        "of another shape": list(info["mismatched_keys"]),
        "errors": list(info.get("error_msgs") or ()),
    }
    if any(wrong.values()):
        told = "; ".join(
            f"{kind}: {sorted(map(str, keys))[:5]} ({len(keys)} in all)"
            for kind, keys in wrong.items()
            if keys
        )
        raise CheckpointError(f"{place}: the weights do not fit {cls.__name__}: {told}")
    for parameter in model.parameters():
        # Mapped from the file, tensors lie at any address, and kernels choose by alignment: the
        # same weights in another number of files would give other bits.
        parameter.data = parameter.data.clone()
    return model.requires_grad_(False).eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars and load reports off stderr; we check the keys ourselves."""
    from diffusers.utils import logging as diffusers_chatter
    from transformers.utils import logging as chatter

    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    levels, bars = [one.level for one in loggers], chatter.is_progress_bar_enabled()
    for one in loggers:
        one.setLevel(logging.ERROR)
    chatter.disable_progress_bar()
    diffusers_chatter.disable_progress_bar()
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
        diffusers_chatter.enable_progress_bar()
        if bars:
            chatter.enable_progress_bar()
