"""Actions, states and task texts of LeRobot v3 datasets, read with pyarrow alone.

`data/` has a row a frame: `action`, `observation.state`, `episode_index`, `frame_index` and
`task_index`; `meta/tasks.parquet` the tasks' texts. Files hold many episodes, and an episode may
lie in any of them.

Source: huggingface/lerobot @ 7427f31, src/lerobot/datasets/ (io_utils.py, dataset_writer.py),
codebase version v3.0.
"""

import json
from glob import escape, glob
from typing import Any

import numpy as np

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.files import MAX_TABLE_BYTES, read_text
from vega3d.train.demonstrations.episode import Episode, as_table

_ACTION, _STATE = "action", "observation.state"
_KEYS = ("episode_index", "frame_index", "task_index")
_MAX_FRAMES = 100_000_000


class LeRobotActions:
    """The numbers of a dataset."""

    def __init__(self, root: str) -> None:
        """Read them all.

        Raises:
            UsageError: pyarrow is missing, or the tables are not as version 3 has them.
        """
        self.root = root
        try:
            info = json.loads(read_text(f"{root}/meta/info.json"))
            features = info["features"]
            self.names = _names(features[_ACTION])
            self._texts = _texts(root)
            self._columns = _columns(root, has_state=_STATE in features)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(
                f"{root}: its LeRobot actions cannot be understood ({type(error).__name__}: "
                f"{error})"
            ) from error

    def episode(self, index: int, scene_id: str) -> Episode:
        """Return what was done in an episode; raises UsageError where its frames have gaps."""
        rows = np.flatnonzero(self._columns["episode_index"] == index)
        frames = self._columns["frame_index"][rows]
        rows = rows[np.argsort(frames, kind="stable")]
        if not len(rows) or not np.array_equal(np.sort(frames), np.arange(len(frames))):
            raise UsageError(
                f"{scene_id}: {self.root}/data must have a row for each frame of the episode, got "
                f"{len(rows)}"
            )
        task = int(self._columns["task_index"][rows[0]])
        return Episode(
            scene_id=scene_id,
            text=self._texts.get(task, ""),
            actions=self._columns[_ACTION][rows],
            proprio=self._columns[_STATE][rows],
            action_names=self.names,
        )


def _columns(root: str, *, has_state: bool) -> dict[str, np.ndarray]:
    parquet = _parquet(root)
    wanted = [*_KEYS, _ACTION, *([_STATE] if has_state else [])]
    paths = sorted(glob(f"{escape(root)}/data/**/*.parquet", recursive=True))
    if not paths:
        raise UsageError(f"{root}: has no data/chunk-000/file-000.parquet, which has the actions")
    found: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for path in paths:
        _check_size(path, parquet.read_metadata(path))
        table = parquet.read_table(path, columns=wanted)
        for name in wanted:
            found[name].append(_numbers(table[name], f"{path}: {name}"))
    columns = {name: np.concatenate(parts) for name, parts in found.items()}
    columns.setdefault(_STATE, np.zeros((len(columns[_ACTION]), 0), np.float32))
    return columns


def _numbers(column: Any, where: str) -> np.ndarray:  # noqa: ANN401 - pyarrow's, without types
    if column.null_count:
        raise UsageError(f"{where} has rows without a value")
    if where.endswith("_index"):
        return np.asarray(column.to_numpy(), dtype=np.int64)
    values = column.combine_chunks()
    if not hasattr(values, "flatten") or not hasattr(values.type, "value_type"):
        return as_table(np.asarray(column.to_numpy()), where)
    flat = np.asarray(values.flatten())
    if len(values) == 0 or len(flat) % len(values):
        raise UsageError(f"{where} must have as many numbers in every row")
    return as_table(flat.reshape(len(values), -1), where)


def _texts(root: str) -> dict[int, str]:
    """Return the tasks' texts; the text is the index of the table that pandas wrote."""
    path = f"{root}/meta/tasks.parquet"
    parquet = _parquet(root)
    _check_size(path, parquet.read_metadata(path))
    table = parquet.read_table(path)
    name = next((name for name in table.column_names if name != "task_index"), None)
    if name is None or "task_index" not in table.column_names:
        raise UsageError(f"{path}: must have `task_index` and the tasks' texts")
    texts = [str(text) for text in table[name].to_pylist()]
    return dict(zip((int(i) for i in table["task_index"].to_pylist()), texts, strict=True))


def _names(feature: dict[str, Any]) -> tuple[str, ...]:
    names = feature.get("names")
    names = next(iter(names.values()), None) if isinstance(names, dict) else names
    count = int(feature["shape"][0])
    if isinstance(names, list) and len(names) == count:
        return tuple(str(name).removesuffix(".pos") for name in names)
    return tuple(str(number) for number in range(count))


def _check_size(path: str, metadata: Any) -> None:  # noqa: ANN401 - pyarrow's, without types
    groups = range(metadata.num_row_groups)
    size_bytes = sum(metadata.row_group(index).total_byte_size for index in groups)
    if metadata.num_rows > _MAX_FRAMES or size_bytes > 4 * MAX_TABLE_BYTES:
        raise UsageError(
            f"{path} has {metadata.num_rows} rows and {size_bytes} bytes, over the limit of "
            f"{_MAX_FRAMES} and {4 * MAX_TABLE_BYTES}"
        )


def _parquet(root: str) -> Any:  # noqa: ANN401 - pyarrow's, without types
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(
            f"{root}: LeRobot datasets need pyarrow; pip install 'vega3d[lerobot]'"
        ) from error
    return parquet
