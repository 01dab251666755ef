"""What is asked of the fused tokens: one file a task, each with its head, its loss, its metrics.

A batch's tokens and geometry in, sums out: knows no store, no loader and no trainer. Open `task.py`
first (what every task offers), then `depth.py`, the task to learn from. Names load on first use.
"""

from typing import TYPE_CHECKING

from vega3d.pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from vega3d.train.tasks.registry import task_class as task_class
    from vega3d.train.tasks.task import Task as Task

__all__ = ["Task", "task_class"]
__getattr__ = lazy_names(__name__, {"Task": "task", "task_class": "registry"})
