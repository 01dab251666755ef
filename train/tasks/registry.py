"""A task by its name, loaded when it is asked for."""

from importlib import import_module

from vega3d.train.config import TASKS
from vega3d.train.tasks.task import Task


def task_class(name: str) -> type[Task]:
    """Return the class `DepthTask` of the file `depth.py` for `depth`, one of `config.TASKS`."""
    assert name in TASKS, name
    module = import_module(f"vega3d.train.tasks.{name}")
    found: type[Task] = getattr(module, f"{name.capitalize()}Task")
    return found
