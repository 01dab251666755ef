"""What goes wrong on a GPU alone, told as this project tells errors.

torch is imported where it is needed: who asks may have none of it loaded.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from vega3d.pipeline.errors import SceneError, UsageError

T = TypeVar("T")


def tried_with_room(
    step: Callable[[], T], scene_id: str, make_room: Callable[[], None] = lambda: None
) -> T:
    """Return what a step gives; where a GPU's memory is full, make room and try once more.

    Args:
        step: May be called twice.
        scene_id: Whose views it is about.
        make_room: Lets go of what is still held there, before torch's cache is emptied.

    Raises:
        SceneError: It is full again.
    """
    import torch

    try:
        return step()
    except torch.OutOfMemoryError:
        pass  # what its traceback holds must be let go of first
    make_room()
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
        import torch

        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
        reason = (str(causes[-1]).strip() or type(causes[-1]).__name__).splitlines()[0]
        raise UsageError(
            f"the model cannot be compiled for this GPU ({reason}); where a compiler is missing, "
            "install gcc and python3-dev; --no-compile goes without"
        ) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, as a compiler's errors hold it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = getattr(cause, "inner_exception", None) or cause.__cause__


def is_lost(error: BaseException) -> bool:
    """Say whether a GPU or its driver failed: nothing more can be computed in this process."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, getattr(torch, "AcceleratorError", ()))
