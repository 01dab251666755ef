"""What goes wrong on a GPU alone, told as this project tells errors.

torch is imported where it is needed: who asks may have none of it loaded.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from vega3d.pipeline.errors import SceneError, UsageError

T = TypeVar("T")


def tried_with_room(step: Callable[[], T], scene_id: str) -> T:
    """Return what a step gives; where a GPU's memory is full, try once more with an emptied cache.

    Raises:
        SceneError: It is full again.
    """
    import torch

    try:
        return step()
    except torch.OutOfMemoryError:
        pass  # what its traceback holds must be let go of first
    torch.cuda.empty_cache()
    try:
        return step()
    except torch.OutOfMemoryError as error:
        raise SceneError(
            f"{scene_id}: its views do not fit the GPU's memory; free the GPU of others and run "
            "with --retry-failed, or make a store with a smaller --batch-size or --resolution"
        ) from error


@contextmanager
def compiler_told() -> Iterator[None]:
    """Turn a compiler's failure into a UsageError that names what it lacks, and the way without."""
    try:
        yield
    except Exception as error:
        # Not imported for this: the compiler is seconds of import.
        raised_by = sys.modules.get("torch._dynamo.exc")
        if raised_by is None or not isinstance(error, raised_by.TorchDynamoException):
            raise
        first_line = str(error).strip().splitlines()[0]
        raise UsageError(
            f"the model cannot be compiled for this GPU ({first_line}); it takes a C compiler and "
            "Python's headers (gcc, python3-dev), or say --no-compile"
        ) from error


def is_lost(error: BaseException) -> bool:
    """Say whether a GPU or its driver failed: nothing more can be computed in this process."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, getattr(torch, "AcceleratorError", ()))
