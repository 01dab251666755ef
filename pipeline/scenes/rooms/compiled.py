"""Compile the inner loops of procedural rooms with numba, once per machine."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Return a function of numbers and arrays as machine code, kept beside its module.

    No fast maths: the same picture on every machine, up to its libm. Division by 0 gives inf, as
    rays along an axis need it.
    """
    options = {"cache": True, "nogil": True, "error_model": "numpy"}
    return cast(F, numba.njit(**options)(function))


def inlined(function: F) -> F:
    """Return the same, copied into each compiled function that calls it.

    For what is called once a pixel with many arrays, which cost more to hand over than to use.
    """
    options = {"cache": True, "nogil": True, "error_model": "numpy", "inline": "always"}
    return cast(F, numba.njit(**options)(function))
