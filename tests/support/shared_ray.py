"""One local Ray for the modules of tests/cluster that need no other."""

from contextlib import ExitStack

import synthetic_unit

from vega3d.pipeline.config import RunConfig


class SharedRay:
    """A local Ray of two CPUs that is started when the first module asks for it."""

    def __init__(self) -> None:
        self._held: ExitStack | None = None
        self.worked = False
        """Whether units were done on it, which its metrics tell for ever."""

    def open(self) -> None:
        """Start it where it is not there, and connect."""
        if self._held is not None:
            return
        from ray import cloudpickle

        from vega3d.cluster.connecting import connection

        with ExitStack() as held:
            cloudpickle.register_pickle_by_value(synthetic_unit)
            held.callback(cloudpickle.unregister_pickle_by_value, synthetic_unit)
            held.enter_context(connection(RunConfig(runner="ray"), num_cpus=2))
            self._held = held.pop_all()

    def close(self) -> None:
        """Take it down, so that another can be started or none is there."""
        if self._held is not None:
            self._held.close()
        self._held, self.worked = None, False
