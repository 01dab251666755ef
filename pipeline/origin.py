"""One installation of vega3d, not a mixture of two.

`vega3d` is a namespace without an `__init__.py`, so a stale installation beside a new one would
merge with it silently.
"""

from importlib.util import find_spec
from pathlib import Path

from vega3d.pipeline.errors import UsageError

_PACKAGES = ("pipeline", "evaluate", "train", "cluster")


def check_one_origin() -> None:
    """Raise UsageError where the packages of `vega3d` come from different places."""
    homes = {}
    for name in _PACKAGES:
        spec = find_spec(f"vega3d.{name}")
        if spec is not None and spec.origin is not None:
            homes[f"vega3d.{name}"] = Path(spec.origin).resolve().parents[1]
    if len(set(homes.values())) > 1:
        raise UsageError(
            f"two installations of vega3d are mixed: {homes}; uninstall all with "
            "`pip uninstall vega3d` (repeat until there is none) and install again"
        )
