"""Values of options that are taken as they come, so that typer loads no pydantic to find that out.

Ours are texts and flags, which the configs check; pydantic would be a third of `--help`'s time.
"""

from collections.abc import Iterable
from typing import Any

_PLAIN = (str, bool, int, float)


def take_as_given(parameters: Iterable[Any]) -> None:
    """Have typer's parameters take what needs no conversion; anything else goes typer's own way.

    A typer that does not ask for `_runtime_param` goes its own way with all of them.
    """
    for parameter in parameters:
        descriptor = getattr(parameter, "type_descriptor", None)
        if descriptor is not None and getattr(parameter, "_runtime_param", 0) is None:
            parameter._runtime_param = _AsGiven(descriptor.annotation)


class _AsGiven:
    """What converts the values of one parameter."""

    def __init__(self, annotation: object) -> None:
        self._annotation = annotation

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401 - as typer calls it
        """Return a value as the command takes it."""
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        if several and self._annotation == list[str] and _are_texts(value):
            return list(value)
        if not several and self._annotation is str and type(value) is str:
            return value
        if type(value) in _PLAIN and type(value) is type(param.default) and value == param.default:
            return value
        param._runtime_param = None
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def _are_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(type(one) is str for one in value)
