"""The head of action: it looks where the instruction says."""

import numpy as np
import pytest
import torch

from vega3d.pipeline.backbones.text import embed_texts
from vega3d.train.config import TrainConfig
from vega3d.train.tasks.action import ActionTask
from vega3d.train.tasks.task import Targets

GRID = (6, 8)
CONFIG = TrainConfig(
    tasks=("action",), hidden_dim=16, heads=2, views_per_sample=2, action_chunk=1, action_dim=2,
    proprio_dim=0,
)  # fmt: skip


def test_a_token_that_is_not_valid_is_not_looked_at() -> None:
    torch.manual_seed(0)
    task = ActionTask(CONFIG, GRID)
    tokens, targets = frames(np.random.default_rng(0), 3)
    valid = targets["valid"].clone()
    valid[:, :, 5] = False
    targets = {**targets, "valid": valid}
    said = task(tokens, targets)
    assert said.shape == (3, 1, 2)
    tokens[:, :, 5] = 1e3
    torch.testing.assert_close(task(tokens, targets), said)


def test_cameras_are_told_apart() -> None:
    torch.manual_seed(0)
    task = ActionTask(CONFIG, GRID)
    tokens, targets = frames(np.random.default_rng(0), 2)
    assert (task(tokens.flip(1), targets) - task(tokens, targets)).abs().max() > 1e-3


@pytest.mark.slow
def test_the_named_square_is_found_between_the_tokens() -> None:
    """Three squares a view, each over parts of some tokens; the action is the place of one."""
    torch.manual_seed(0)
    task, rng = ActionTask(CONFIG, GRID), np.random.default_rng(1)
    tokens, targets = frames(rng, 200)
    before = error(task, tokens, targets)
    optimizer = torch.optim.AdamW(task.parameters(), lr=4e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    for _ in range(500):
        seen, asked = frames(rng, 32)
        loss = task.loss_sum(task(seen, asked), asked) / asked["count"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    assert before > 0.3
    assert error(task, tokens, targets) < 0.1  # a token is 0.33 high and 0.25 wide


def error(task: ActionTask, tokens: torch.Tensor, targets: Targets) -> float:
    with torch.no_grad():
        total, count = task.metric_sums(task(tokens, targets), targets)["l1"]
    return float(total / count)


def frames(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, Targets]:
    """Two views of three coloured squares of a token's size, as the share of each token."""
    names = np.array(["red", "green", "blue"])
    place = rng.uniform(-0.8, 0.8, size=(count, 3, 2))  # row and column
    shares = []
    for axis, cells in enumerate(GRID):
        middle = (2 * np.arange(cells) + 1) / cells - 1
        away = np.abs(place[:, :, axis, None] - middle) * cells / 2  # in tokens
        shares.append(np.clip(1 - away, 0, None))
    colour = np.einsum("bkr,bkc,kd->brcd", *shares, np.eye(3)).reshape(count, -1, 3)
    other = np.zeros_like(colour)  # the second camera sees nothing
    features = np.zeros((count, 2, GRID[0] * GRID[1], 16), np.float32)
    features[..., :3] = np.stack([colour, other], axis=1)
    wanted = rng.integers(3, size=count)
    texts = embed_texts("words", [f"go to the {names[one]} square" for one in wanted])
    return torch.from_numpy(features), {
        "text": torch.from_numpy(texts),
        "proprio": torch.zeros(count, 0),
        "valid": torch.ones(features.shape[:3], dtype=torch.bool),
        "chunk": torch.from_numpy(place[np.arange(count), wanted].astype(np.float32))[:, None],
        "there": torch.ones(count, 1, dtype=torch.bool),
        "count": torch.tensor(2 * count),
    }
