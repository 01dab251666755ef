"""Inner loops compiled with numba, once per machine: kept beside their module.

Compiled code runs without Python's lock. Division by 0 gives inf. No fast maths unless a function
asks for it by name: the same result on every machine, up to its libm.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

Freedom = Literal["reassoc", "contract", "nsz"]
"""LLVM's words: sums in any order, products and sums in one step, -0 taken for 0."""

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


def compiled(function: F) -> F:
    """Return a function of numbers and arrays as machine code."""
    return cast(F, numba.njit(**_OPTIONS)(function))


def bare(function: F) -> F:
    """Return the same for a function that makes no arrays, without counting who refers to them.

    The counting costs more than the arithmetic where arrays are handed on for every pixel.
    """
    return cast(F, numba.njit(**_OPTIONS, _nrt=False)(function))


def compiled_with(*freedoms: Freedom) -> Callable[[F], F]:
    """Return what compiles a function in which the processor may round otherwise than is written.

    Args:
        freedoms: What it may do.
    """

    def compile_it(function: F) -> F:
        return cast(F, numba.njit(**_OPTIONS, fastmath=set(freedoms))(function))

    return compile_it


def inlined(function: F) -> F:
    """Return a function copied into each compiled one that calls it.

    For what is called once a pixel or number with many arrays, which cost more to hand over than to
    use.
    """
    return cast(F, numba.njit(**_OPTIONS, inline="always")(function))
