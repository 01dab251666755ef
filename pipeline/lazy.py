"""Public names of a package that load on first use (PEP 562): importing it costs nothing."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_names(package: str, homes: dict[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`.

    Args:
        package: The package's `__name__`.
        homes: Public name -> the module that defines it, within the package.
    """

    def get(name: str) -> Any:  # noqa: ANN401 - whatever the module defines
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return get
