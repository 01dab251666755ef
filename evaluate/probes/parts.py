"""Questions that are asked of the same tokens, and the sums of what is read.

Letters: N tokens (or pairs of views), n of them asked, D numbers, S scenes, K sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from vega3d.evaluate.probes.measures import ERRORS, class_sums, number_sums

SceneSums = dict[tuple[str, str], Float64[np.ndarray, "S K"]]
"""(reader, question) -> sums a scene; readers are those of `crossfit` and `mlp`."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Questions with answers for the same tokens; `class` is asked alone, its answers one-hot."""

    names: tuple[str, ...]
    answers: Sequence[Float[np.ndarray, "N _"]]
    rows: Bool[np.ndarray, " N"]
    """Tokens that are asked."""

    @property
    def y(self) -> Float64[Tensor, "N D"]:
        """All answers side by side."""
        return torch.from_numpy(np.concatenate(self.answers, axis=1).astype(np.float64))

    @property
    def held(self) -> Bool[Tensor, "N 1"]:
        """`rows` as a column."""
        return torch.from_numpy(self.rows)[:, None]

    def columns(self) -> list[slice]:
        """Return the columns of each question."""
        ends = np.cumsum([0, *(answer.shape[1] for answer in self.answers)]).tolist()
        return [slice(a, b) for a, b in pairwise(ends)]

    def sums(
        self,
        reader: str,
        said: Float[Tensor, "n D"],
        scene: Int[np.ndarray, " N"],
        num_scenes: int,
    ) -> SceneSums:
        """Sum what was read, question by question; a reading of NaN is of no fold scored here."""
        values = said.double().numpy()
        read = np.isfinite(values).all(axis=1)
        rows = np.flatnonzero(self.rows)[read]
        found: SceneSums = {}
        for name, answer, columns in zip(self.names, self.answers, self.columns(), strict=True):
            mine, true, of = values[read][:, columns], answer[rows], scene[rows]
            if name == "class":
                found[reader, name] = class_sums(mine.argmax(1), true.argmax(1), of, num_scenes)
            else:
                found[reader, name] = number_sums(mine, true, of, num_scenes, ERRORS[name])
        return found


def in_two_folds(fold: Int[Tensor, " n"]) -> bool:
    """Say whether there is something to fit on and something else to score."""
    return len(set(fold.tolist())) > 1
