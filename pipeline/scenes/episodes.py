"""What the readers of robot data share: an episode is a scene, its views are `<camera>/<frame>`."""

from collections.abc import Mapping

Group = tuple[tuple[str, ...], tuple[str, ...]]
"""What the scene's id ends with, and the cameras whose frames are its views."""


def camera_groups(sizes: Mapping[str, tuple[int, ...]]) -> tuple[Group, ...]:
    """Return the cameras that make one scene: all, or each by itself where their sizes differ.

    A scene has one image size.
    """
    if len(set(sizes.values())) == 1:
        return (((), tuple(sizes)),)
    return tuple(((name,), (name,)) for name in sizes)


def view_id(camera: str, frame: int) -> str:
    """Return the name of a camera's frame."""
    return f"{camera}/{frame:06d}"


def camera_and_frame(view: str) -> tuple[str, int] | None:
    """Return what a view's name says; None where it is no frame of an episode."""
    camera, _, frame = view.rpartition("/")
    return (camera, int(frame)) if camera and frame.isdecimal() else None
