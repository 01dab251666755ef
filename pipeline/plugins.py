"""Encoders and scene readers that installed packages add, found by their entry points.

    [project.entry-points."vega3d.backbones"]
    dinosaur = "my_package.dinosaur:DinosaurConfig"      # derives from BackboneConfig

    [project.entry-points."vega3d.scenes"]
    fossil = "my_package.fossil:read"                    # read("fossil:...") -> SceneSource

Nothing of such a package is imported before somebody asks for the name. Standard library only.
"""

from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING

from vega3d.pipeline.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BACKBONES, SCENES = "vega3d.backbones", "vega3d.scenes"
"""Groups of entry points."""


@cache
def _found(group: str) -> "tuple[EntryPoint, ...]":
    from importlib.metadata import entry_points  # slow to load, and reads a file a package

    return tuple(entry_points(group=group))


def installed(group: str, ours: Collection[str]) -> "dict[str, EntryPoint]":
    """Return what packages offer under a group, by name.

    Raises:
        UsageError: A name is ours already, or two packages offer it.
    """
    found: dict[str, EntryPoint] = {}
    for point in _found(group):
        other = "vega3d itself" if point.name in ours else _value(found.get(point.name))
        if other and other != point.value:
            raise UsageError(
                f"{group}: {point.name!r} is offered twice, by {other} and by {point.value}; "
                "uninstall one of the two packages"
            )
        found[point.name] = point
    return found


def _value(point: "EntryPoint | None") -> str:
    return point.value if point else ""
