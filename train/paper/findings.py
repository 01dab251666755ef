"""What was confirmed and what was not, in sentences made from the numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vega3d.train.paper.compared import BOTH, PRIOR, RANDOM, SEMANTIC, SEMANTIC_RANDOM
from vega3d.train.paper.comparing import GAIN, LOSS
from vega3d.train.paper.fusions import ON_RANDOM
from vega3d.train.paper.questions import QUESTIONS

CONFIRMED, PARTLY, NOT = "confirmed", "in part", "not confirmed"
_CLAIMS = (
    (PRIOR, RANDOM, "What the generator learned, not its architecture, makes its features good."),
    (BOTH, SEMANTIC, "The prior adds to semantic features."),
    (BOTH, PRIOR, "Semantic features add to the prior."),
    (BOTH, SEMANTIC_RANDOM, "It is the training of the prior that adds to semantic features."),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim and what the numbers say of it."""

    claim: str
    verdict: str
    """confirmed, in part, not confirmed."""
    told: str


def find(parts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return every claim with its verdict, from the parts of a desk paper."""
    found = [
        *_of_streams(parts["streams"]),
        *_of_fusions(parts["fusions"]),
        *_of_maps(parts["maps"]),
        *_of_contexts(parts["streams"]),
        *_of_relations(parts["relations"]),
    ]
    return [asdict(one) for one in found]


def _of_streams(streams: Mapping[str, Any]) -> Iterator[Finding]:
    for a, b, claim in _CLAIMS:
        yield _judged(claim, a, b, _between(streams["differences"], a, b))


def _of_contexts(streams: Mapping[str, Any]) -> Iterator[Finding]:
    for line in streams["differences"]:
        if line["better"].startswith("prior, "):
            name = line["better"].removeprefix("prior, ")
            claim = f"Views that go through the generator together ({name}) are read better."
            yield _judged(claim, line["better"], "one by one", line["found"])


def _of_fusions(fusions: Mapping[str, Any]) -> Iterator[Finding]:
    for other, claim in (
        ("semantic", "The adaptive gate is better than semantic features alone."),
        ("generative", "The adaptive gate is better than the prior alone."),
        (ON_RANDOM, "The adaptive gate gains from what the prior learned."),
        ("blind", "What the fusion knows is more than position in the image."),
    ):
        found = _between(fusions["differences"], "adaptive", other)
        yield _judged(claim, "adaptive", other, found)
    rows = [row for row in fusions["rows"] if row["variant"] != ON_RANDOM]
    rank = [row["variant"] for row in rows]
    yield Finding(
        "The adaptive gate is the best fusion.",
        CONFIRMED if rank[0] == "adaptive" else NOT,
        f"By the mean of its tasks {rank[0]} is first ({rows[0]['score']['mean']:.3f}); the "
        f"adaptive gate is number {rank.index('adaptive') + 1} of {len(rank)}.",
    )


def _of_maps(maps: Mapping[str, Any]) -> Iterator[Finding]:
    blocks, steps = maps["blocks"], maps["timesteps"]
    inner = [
        name
        for name, one in maps["maps"].items()
        if min(blocks) < one["best"]["block"] < max(blocks)
    ]
    yield Finding(
        "A middle block is best.",
        _share(len(inner), len(maps["maps"])),
        "; ".join(f"{n}: block {m['best']['block']}" for n, m in maps["maps"].items())
        + f" (of {min(blocks)} to {max(blocks)}).",
    )
    noisy = [
        name
        for name, one in maps["maps"].items()
        if min(steps) < one["best"]["timestep"] < max(steps)
    ]
    yield Finding(
        "A middle timestep is best.",
        _share(len(noisy), len(maps["maps"])),
        "; ".join(f"{n}: k {m['best']['timestep']}" for n, m in maps["maps"].items())
        + f" (of {', '.join(map(str, steps))}).",
    )


def _of_relations(relations: Mapping[str, Any]) -> Iterator[Finding]:
    for one in relations["relations"]:
        value, low, high = (one["pearson"][name] for name in ("value", "low", "high"))
        if value is None:
            continue
        sure = low is not None and low > 0
        yield Finding(
            f"The more consistent the features ({one['score']}), the more they help.",
            CONFIRMED if sure else NOT,
            f"Over {one['pearson']['num_points']} kinds of features the correlation is {value:.2f} "
            f"({_ends(low, high)}; p {one['pearson']['p_value']:.2f} by permutation).",
        )


def _judged(claim: str, a: str, b: str, found: Mapping[str, Any]) -> Finding:
    gains = [q for q, one in found.items() if one["verdict"] == GAIN]
    told = [
        f"{QUESTIONS[q][0] if q in QUESTIONS else q} {one['mean']:+.3f} "
        f"({_ends(one['low'], one['high'])}), {one['verdict']}"
        for q, one in found.items()
    ]
    losses = any(one["verdict"] == LOSS for one in found.values())
    verdict = _share(len(gains), len(found))
    if verdict == CONFIRMED and losses:
        verdict = PARTLY
    return Finding(claim, verdict, f"{a}, compared with {b}: {'; '.join(told)}.")


def _between(differences: list[Mapping[str, Any]], a: str, b: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(
        line["found"] for line in differences if (line["better"], line["than"]) == (a, b)
    )
    return found


def _share(yes: int, of: int) -> str:
    if yes == of:
        return CONFIRMED
    return PARTLY if yes else NOT


def _ends(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
