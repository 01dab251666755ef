"""The few errors that someone catches; any other exception is a bug and stops the run."""


class UsageError(ValueError):
    """What was asked for cannot be done; the message says what can."""


class SceneError(ValueError):
    """A scene cannot be read or computed; the run records the reason and goes on."""


class StoreError(ValueError):
    """A store cannot be used as asked: another config, a damaged or a half-written one."""


class CheckpointError(ValueError):
    """A model folder or hub id does not hold what its backbone needs."""


class TransientError(Exception):
    """A network, a server or a disk did not answer, and was asked again in vain.

    No ValueError, so that nobody takes it for damage: what it kept from being done is left undone,
    and a later run does it.
    """
