"""Every fusion on the same split and seeds, in one table: `vega3d-train ablate`.

The question of Table 5, asked without a language model. The table says how sure one can be: mean
and deviation over seeds, a paired test over seeds against one baseline (is the difference more
than the noise of training?), and on how many of the scored scenes the variant is better.
"""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import remove_partial_files
from vega3d.pipeline.settings import FILE, as_toml
from vega3d.train.checkpoint import write_json, write_text
from vega3d.train.config import AblationConfig, RunConfig, TrainConfig
from vega3d.train.fitting import fit
from vega3d.train.processes import is_first_process, join_processes
from vega3d.train.report import write_table_report

_SURE = 0.05


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant of the table."""

    variant: str
    means: dict[str, float]
    """Of every metric and of `score`, over the seeds."""
    deviations: dict[str, float]
    """Sample standard deviations; 0 for one seed."""
    gain: float
    """Mean difference of the score from the baseline's with the same seed."""
    p: float | None
    """Two-sided, paired over seeds; None for the baseline and for fewer than two seeds."""
    sure: bool
    """True where p is below 0.05 after Holm's correction for the number of variants."""
    scenes_better: int
    """Scored scenes whose mean over seeds is above the baseline's."""
    scenes: int


def ablate(
    prior: str | Sequence[str],
    semantic: str | Sequence[str],
    out: str | Path,
    config: TrainConfig,
    run: RunConfig | None = None,
    compared: AblationConfig | None = None,
    *,
    prior_tap: str | None = None,
    semantic_tap: str | None = None,
    labels: str | Sequence[str] | None = None,
    questions: Sequence[str] | None = None,
    actions: Sequence[str] | None = None,
    text_model: str | None = None,
) -> dict[str, Any]:
    """Train all variants with all seeds below `out`, and write their table.

    Repeat the call to resume: runs that are finished are not trained again.

    Raises:
        UsageError: A variant cannot work with the config; and whatever `fit` raises.
    """
    run, compared = run or RunConfig(), compared or AblationConfig()
    configs = plan_ablation(config, compared)
    summaries: dict[str, list[dict[str, Any]]] = {}
    with join_processes(run.device):  # once for all runs
        for (variant, seed), one in configs.items():
            summary = fit(
                prior,
                semantic,
                Path(out) / variant / f"seed{seed}",
                one,
                run,
                prior_tap=prior_tap,
                semantic_tap=semantic_tap,
                labels=labels,
                questions=questions,
                actions=actions,
                text_model=text_model,
            )
            summaries.setdefault(variant, []).append(summary)
            if not summary["finished"]:
                return {"out": str(out), "finished": False}
    if is_first_process():
        told = as_toml(compared, config, run, without=("variant", "seed"))
        write_text(Path(out) / FILE, told)
    rows = compare(summaries, compared.baseline)
    return _write(Path(out), rows, summaries, compared.baseline, len(compared.seeds))


def plan_ablation(
    config: TrainConfig, compared: AblationConfig
) -> dict[tuple[str, int], TrainConfig]:
    """Return the config of every run by variant and seed; pure.

    Raises:
        UsageError: A variant cannot work with the config.
    """
    try:
        return {
            (variant, seed): replace(config, variant=variant, seed=seed)
            for variant in compared.variants
            for seed in compared.seeds
        }
    except ValueError as error:
        raise UsageError(str(error)) from error


def compare(summaries: dict[str, list[dict[str, Any]]], baseline: str) -> list[Row]:
    """Return the rows of the table, best score first."""
    base = summaries[baseline]
    rows = []
    for variant, runs in summaries.items():
        names = sorted(set.intersection(*({*run["metrics"]} for run in runs)))
        values = {name: [run["metrics"][name] for run in runs] for name in names}
        values["score"] = [_number(run["score"]) for run in runs]
        gains = [a - _number(b["score"]) for a, b in zip(values["score"], base, strict=True)]
        better = [a > b for a, b in _scene_pairs(runs, base)]
        rows.append(
            Row(
                variant=variant,
                means={name: statistics.fmean(found) for name, found in values.items()},
                deviations={name: _deviation(found) for name, found in values.items()},
                gain=statistics.fmean(gains),
                p=None if variant == baseline else paired_p(gains),
                sure=False,
                scenes_better=sum(better),
                scenes=len(better),
            )
        )
    return sorted(_with_holm(rows), key=lambda row: -_or_lowest(row.means["score"]))


def paired_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of a paired t-test that the mean difference is zero.

    None for fewer than two differences, and where all are one and the same number: noise that
    cannot be seen cannot be tested against.

    Source: Student's distribution for whole degrees of freedom, Abramowitz and Stegun, 26.7.3-4.
    """
    n = len(differences)
    if n < 2 or not all(math.isfinite(d) for d in differences):
        return None
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    if deviation <= 1e-9 * abs(mean):  # the same but for rounding
        return None
    return 1 - _within(abs(mean) / (deviation / math.sqrt(n)), n - 1)


def _within(t: float, freedom: int) -> float:
    """Return the probability that Student's |T| is at most t."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine2 = math.cos(angle) ** 2
    term = total = 1.0
    odd = freedom % 2
    for k in range(1, (freedom - odd) // 2):
        # 2/3, 4/5 .. for odd degrees of freedom, 1/2, 3/4 .. for even ones.
        term *= cosine2 * ((2 * k) / (2 * k + 1) if odd else (2 * k - 1) / (2 * k))
        total += term
    if not odd:
        return math.sin(angle) * total
    series = math.sin(angle) * math.cos(angle) * total if freedom > 1 else 0.0
    return 2 / math.pi * (angle + series)


def _with_holm(rows: list[Row]) -> list[Row]:
    tested = sorted((row for row in rows if row.p is not None), key=lambda row: row.p or 0.0)
    sure: set[str] = set()
    for rank, row in enumerate(tested):
        if (row.p or 0.0) * (len(tested) - rank) >= _SURE:
            break
        sure.add(row.variant)
    return [replace(row, sure=row.variant in sure) for row in rows]


def _scene_pairs(
    runs: list[dict[str, Any]], base: list[dict[str, Any]]
) -> list[tuple[float, float]]:
    def means(found: list[dict[str, Any]]) -> dict[str, float]:
        scenes = found[0]["scene_scores"]
        return {
            s: statistics.fmean(_number(run["scene_scores"][s]) for run in found) for s in scenes
        }

    ours, theirs = means(runs), means(base)
    pairs = [(ours[scene], theirs[scene]) for scene in ours]
    return [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]


def _write(
    out: Path,
    rows: list[Row],
    summaries: dict[str, list[dict[str, Any]]],
    baseline: str,
    seeds: int,
) -> dict[str, Any]:
    first = summaries[baseline][0]
    streams = ", ".join(f"{name}: {text}" for name, text in first["streams"].items())
    note = (
        f"{streams}. {first['split_note']} {seeds} seeds. p: paired t-test of the score over "
        f"seeds against `{baseline}`, * where it is below 0.05 after Holm's correction. It speaks "
        "of the noise of training, not of other scenes. `scenes` counts the scored scenes on which "
        "a variant is better. `blind` sees no feature: what it can do is position in the image."
    ) + _verdict(rows)
    table = _table(rows, baseline)
    result = {
        "finished": True,
        "out": str(out),
        "baseline": baseline,
        "seeds": seeds,
        "note": note,
        "table": [dict(zip(table[0], line, strict=True)) for line in table[1:]],
        "best": rows[0].variant,
    }
    if is_first_process():
        remove_partial_files(out)
        text = _markdown(table) + "\n\n" + note + "\n"
        write_text(out / "ablation.md", text)
        write_text(out / "ablation.csv", _csv(rows))
        write_json(out / "ablation.json", result)
        write_table_report(out, table, note)
    return result


def _verdict(rows: list[Row]) -> str:
    """Say so where features are worth nothing."""
    blind = next((row for row in rows if row.variant == "blind"), None)
    if blind is None:
        return ""
    above = [row.variant for row in rows if row.means["score"] > blind.means["score"]]
    if not above:
        return (
            " None of the others has a higher mean score than it here: by the score, after so "
            "many steps, these features show nothing that position does not. Where another column "
            "says otherwise, train for longer before it is believed."
        )
    return f" {len(above)} of the {len(rows) - 1} others have a higher mean score than it."


def _table(rows: list[Row], baseline: str) -> list[list[str]]:
    shown = [
        name
        for name in rows[0].means
        if not name.endswith(("/loss", "_guess")) and "_rot" not in name and name != "score"
    ]
    head = ["variant", "score", "gain", "p", "scenes", *shown]
    lines = [head]
    for row in rows:
        p = "" if row.p is None else f"{row.p:.3f}{' *' if row.sure else ''}"
        score, *cells = [
            f"{row.means.get(n, math.nan):.3f} +- {row.deviations.get(n, math.nan):.3f}"
            for n in ("score", *shown)
        ]
        better = f"{row.scenes_better}/{row.scenes}" if row.variant != baseline else ""
        lines.append([row.variant, score, f"{row.gain:+.3f}", p, better, *cells])
    return lines


def _markdown(table: list[list[str]]) -> str:
    head, *lines = table
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def _csv(rows: list[Row]) -> str:
    names = sorted({name for row in rows for name in row.means})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    pairs = [f"{name} {kind}" for name in names for kind in ("mean", "sd")]
    writer.writerow(["variant", *pairs, "gain", "p", "scenes better", "scenes"])
    for row in rows:
        values = [value.get(name, "") for name in names for value in (row.means, row.deviations)]
        writer.writerow([row.variant, *values, row.gain, row.p, row.scenes_better, row.scenes])
    return text.getvalue()


def _deviation(values: Sequence[float]) -> float:
    if not all(math.isfinite(value) for value in values):
        return math.nan
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _or_lowest(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _number(value: float | None) -> float:
    return math.nan if value is None else value
