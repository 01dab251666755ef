"""Weighted means of tokens over cells, compiled: only what has a weight is read.

Letters: V views, h w tokens, gh gw cells, C channels.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int64

from vega3d.pipeline.compiled import compiled_with


def pool(
    features: Float32[np.ndarray, "V h w C"],
    rows: Float64[np.ndarray, "gh h"],
    cols: Float64[np.ndarray, "gw w"],
) -> Float32[np.ndarray, "V gh gw C"]:
    """Return rows @ features @ cols of each view and channel, summed in float64, rounded once.

    What no cell looks at is not read: it may hold anything.
    """
    pooled = np.empty((len(features), len(rows), len(cols), features.shape[3]), dtype=np.float32)
    _pool(np.ascontiguousarray(features), rows, _runs(rows), cols, _runs(cols), pooled)
    return pooled


def _runs(weights: Float64[np.ndarray, "g n"]) -> Int64[np.ndarray, "g 2"]:
    """Return the first and past-last token of each cell that has a weight; 0 0 where none has."""
    used = weights != 0
    past = weights.shape[1] - used[:, ::-1].argmax(axis=1)
    return np.where(used.any(axis=1)[:, None], np.stack([used.argmax(axis=1), past], axis=1), 0)


@compiled_with("contract")
def _pool(
    features: Float32[np.ndarray, "V h w C"],
    rows: Float64[np.ndarray, "gh h"],
    row_runs: Int64[np.ndarray, "gh 2"],
    cols: Float64[np.ndarray, "gw w"],
    col_runs: Int64[np.ndarray, "gw 2"],
    pooled: Float32[np.ndarray, "V gh gw C"],
) -> None:
    channels = features.shape[3]
    by_row, total = np.empty((features.shape[2], channels)), np.empty(channels)
    for view in range(features.shape[0]):
        for i in range(rows.shape[0]):
            by_row[:] = 0
            for row in range(row_runs[i, 0], row_runs[i, 1]):
                for col in range(features.shape[2]):
                    _add(features[view, row, col], rows[i, row], by_row[col])
            for j in range(cols.shape[0]):
                total[:] = 0
                for col in range(col_runs[j, 0], col_runs[j, 1]):
                    _add(by_row[col], cols[j, col], total)
                for channel in range(channels):
                    pooled[view, i, j, channel] = total[channel]


@compiled_with("contract")
def _add(
    values: Float64[np.ndarray, " C"], weight: float, total: Float64[np.ndarray, " C"]
) -> None:
    for channel in range(values.shape[0]):
        total[channel] += weight * values[channel]
