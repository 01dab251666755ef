"""The two readers: a closed-form ridge from sums, and a small MLP, believed as far as it is right.

A ridge needs no data but sums of products, so those of several groups of tokens are taken once, and
any union of groups is fitted, or scored, from them. Letters: N tokens, C channels, D numbers asked
for, G groups.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

BATCH = 512
_LR, _WEIGHT_DECAY = 2e-3, 0.05


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over tokens of inputs x and answers y and of their products, float64."""

    count: float
    x: Float64[Tensor, " C"]
    xx: Float64[Tensor, "C C"]
    y: Float64[Tensor, " D"]
    xy: Float64[Tensor, "C D"]
    yy: Float64[Tensor, " D"]

    def __add__(self, other: "Sums") -> "Sums":
        """Return the sums of both."""
        return Sums(
            self.count + other.count, self.x + other.x, self.xx + other.xx,
            self.y + other.y, self.xy + other.xy, self.yy + other.yy,
        )  # fmt: skip

    def of(self, inputs: slice, answers: slice) -> "Sums":
        """Return those of some inputs and answers alone."""
        return Sums(
            self.count, self.x[inputs], self.xx[inputs, inputs],
            self.y[answers], self.xy[inputs, answers], self.yy[answers],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ridge:
    """A linear map, with standardisation folded in."""

    weights: Float64[Tensor, "C D"]
    offset: Float64[Tensor, " D"]

    def __call__(self, x: Float[Tensor, "N C"]) -> Float64[Tensor, "N D"]:
        """Return what is read from tokens."""
        return x.double() @ self.weights + self.offset

    def squared_error(self, sums: Sums) -> Float64[Tensor, " D"]:
        """Return the summed squared error on tokens that only their sums are known of."""
        b, c = self.weights, self.offset
        crossed = (b * sums.xy).sum(0) + c * sums.y
        squared = (b * (sums.xx @ b)).sum(0) + 2 * c * (sums.x @ b) + sums.count * c * c
        return sums.yy - 2 * crossed + squared


def sums_of(x: Float[Tensor, "N C"], y: Float[Tensor, "N D"]) -> Sums:
    """Take the sums of some tokens."""
    a, b = x.double(), y.double()
    return Sums(float(len(a)), a.sum(0), a.T @ a, b.sum(0), a.T @ b, b.square().sum(0))


def total(parts: Sequence[Sums]) -> Sums:
    """Add sums up."""
    found = parts[0]
    for part in parts[1:]:
        found = found + part
    return found


def fit_ridge(sums: Sums, strength: float) -> Ridge:
    """Fit standardised inputs to answers; an input that is constant tells nothing.

    Args:
        sums: Of the tokens to fit.
        strength: Added to each standardised input's variance of 1.
    """
    mean = sums.x / sums.count
    covariance = sums.xx / sums.count - torch.outer(mean, mean)
    variance = covariance.diagonal().clamp(min=0)
    scale = mean.square() + variance
    spread = torch.where(variance > 1e-12 * scale, variance.sqrt(), torch.inf)
    gram = covariance / torch.outer(spread, spread)
    gram.diagonal().add_(strength)
    middle = sums.y / sums.count
    crossed = (sums.xy / sums.count - torch.outer(mean, middle)) / spread[:, None]
    factor = torch.linalg.cholesky(gram)
    weights = torch.cholesky_solve(crossed, factor) / spread[:, None]
    return Ridge(weights, middle - mean @ weights)


def ridge(
    known: Float[Tensor, "N C"],
    answers: Float[Tensor, "N D"],
    asked: Float[Tensor, "M C"],
    strength: float = 1e-4,
) -> Float64[Tensor, "M D"]:
    """Fit on some tokens, and return what is read from others."""
    return fit_ridge(sums_of(known, answers), strength)(asked)


class Standard(nn.Module):
    """Standardise channels by the mean and spread of the tokens that are fitted."""

    def __init__(self, known: Float[Tensor, "N C"]) -> None:
        """Take mean and spread; a constant channel becomes 0."""
        super().__init__()
        spread, mean = torch.std_mean(known, dim=0)
        told = spread > 1e-6 * mean.abs().clamp(min=1e-6)
        self.mean, self.spread = mean, torch.where(told, spread, torch.inf)

    def forward(self, x: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """Return the standardised tokens."""
        found: Tensor = (x - self.mean) / self.spread
        return found


def fit_mlp(
    probe: nn.Module,
    x: Float[Tensor, "N C"],
    wanted: Float[Tensor, "N D"],
    label: Int[Tensor, " N"] | None,
    steps: int,
    moments: int = 1,
    note: Callable[[], None] = lambda: None,
) -> None:
    """Fit a probe whose first D outputs are numbers and whose others are a class's logits.

    Draws from torch's global generator.

    Args:
        probe: From x to D + classes numbers.
        x: Tokens.
        wanted: Answers of about unit spread; NaN where there is none.
        label: Class, -1 for none; None where no class is asked for.
        steps: Of 512 tokens, or of as many as there are; the learning rate falls linearly to 0.
        moments: How often `note` is called, evenly spread over the steps.
        note: Called at each of them, the last one the end.
    """
    optimizer = torch.optim.AdamW(
        probe.parameters(), lr=_LR, weight_decay=_WEIGHT_DECAY, fused=True
    )
    batch = min(BATCH, len(x))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = _LR * (1 - step / steps)
        chosen = torch.randint(len(x), (batch,))
        said = probe(x[chosen])
        numbers = wanted.shape[1]
        loss = 2 * _known_gap(said[:, :numbers], wanted[chosen])
        if label is not None and bool((label[chosen] >= 0).any()):
            loss = loss + 0.5 * nn.functional.cross_entropy(
                said[:, numbers:], label[chosen], ignore_index=-1
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) * moments // steps > step * moments // steps:
            note()


def believed(
    moments: Sequence[Sequence[Tensor]],
    right: tuple[Float[Tensor, "M D"], Int[Tensor, " M"] | None],
    questions: Sequence[slice],
    frequency: Float[Tensor, " classes"],
) -> Float[Tensor, "N D_classes"]:
    """Return what is said of the scored tokens, as far as it proves right on the judged ones.

    Args:
        moments: Of a fit: what is said of the scored tokens, and of the judged ones.
        right: Answers in spreads about the mean, and classes, of the judged ones.
        questions: Columns of the answers.
        frequency: Logarithm of each class's share of the fitted tokens: what the mean would say.
    """
    answers, label = right
    found = torch.zeros_like(moments[0][0])
    for columns in questions:
        truth = answers[:, columns]
        asked = ~truth.isnan().any(dim=1)
        best = truth[asked].square().sum()
        for said, judged in moments:
            guess, true = judged[asked][:, columns], truth[asked]
            share = ((guess * true).sum() / guess.square().sum().clamp(min=1e-9)).clamp(0, 1)
            error = (share * guess - true).square().sum()
            if error < best:
                best, found[:, columns] = error, share * said[:, columns]
    if label is not None:
        logits, asked = slice(answers.shape[1], None), label >= 0
        right_at_best = int((label[asked] == frequency.argmax()).sum())
        found[:, logits] = frequency
        for said, judged in moments:
            count = int((judged[asked][:, logits].argmax(1) == label[asked]).sum())
            if count > right_at_best:
                right_at_best, found[:, logits] = count, said[:, logits]
    return found


def frequency_of(label: Int[Tensor, " K"] | None, classes: int) -> Float[Tensor, " classes"]:
    """Return the logarithm of each class's share."""
    if label is None:
        return torch.zeros(classes)
    counts = torch.bincount(label[label >= 0], minlength=classes).float()
    return ((counts + 1) / (counts + 1).sum()).log()


def _known_gap(said: Float[Tensor, "N D"], wanted: Float[Tensor, "N D"]) -> Tensor:
    """Return the mean squared gap of the answers that are known."""
    known = ~wanted.isnan()
    gap = torch.where(known, said - torch.where(known, wanted, 0.0), 0.0)
    return gap.square().sum() / known.sum().clamp(min=1)
