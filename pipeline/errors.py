"""The few errors that someone catches; any other exception is a bug and stops the run."""

import re

_NUMBER = re.compile(r"\[Errno -?\d+\] ")


class UsageError(ValueError):
    """What was asked for cannot be done; the message says what can."""


class SceneError(ValueError):
    """A scene cannot be read or computed; the run records the reason and goes on."""

    def __init__(self, reason: str = "") -> None:
        """Take the reason; numbers of a system's errors in it say nothing to a person."""
        super().__init__(_NUMBER.sub("", reason))


class StoreError(ValueError):
    """A store cannot be used as asked: another config, a damaged or a half-written one."""


class NoStoreError(StoreError):
    """There is no store at a place: not yet, or not there."""

    def __init__(self, url: str) -> None:
        """Take the place."""
        super().__init__(
            f"{url}: there is no vega3d store here; "
            f"`vega3d-extract run SCENES --out {url}` makes one"
        )


class CheckpointError(ValueError):
    """A model folder or hub id does not hold what its backbone needs."""


class TransientError(Exception):
    """A network, a server or a disk did not answer, and was asked again in vain.

    No ValueError, so that nobody takes it for damage: what it kept from being done is left undone,
    and a later run does it.
    """
