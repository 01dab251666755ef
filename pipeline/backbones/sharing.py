"""What the encoders of one pass work out alike is worked out once: the same VAE on the same pixels.

A generator beside its random twins, its contexts and its VAE alone spends most of a view in one and
the same VAE. Standard library only; nothing is shared outside `sharing()`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

_made: ContextVar[dict[tuple[object, ...], object] | None] = ContextVar("_made", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Keep what is worked out inside, for the other encoders of a scene."""
    token = _made.set({})
    try:
        yield
    finally:
        _made.reset(token)


def is_sharing() -> bool:
    """Return whether a key is worth working out."""
    return _made.get() is not None


def once(key: tuple[object, ...], make: Callable[[], T]) -> T:
    """Return what a key stands for: made, or as another encoder of this scene made it.

    Args:
        key: Names all that decides the value's bytes.
        make: Makes it; the value is handed to several encoders, which must not write to it.
    """
    made = _made.get()
    if made is None:
        return make()
    if key not in made:
        made[key] = make()
    value: T = made[key]  # type: ignore[assignment]
    return value
