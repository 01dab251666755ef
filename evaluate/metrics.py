"""The numbers of one scene as flat names, as they stand in scores.csv and are averaged."""

from vega3d.evaluate.config import ScoreConfig
from vega3d.evaluate.matching import RECALL_COUNTS
from vega3d.evaluate.pairs import above_chance
from vega3d.evaluate.scores import SceneScores

Metrics = dict[str, float | None]


def centimetres(threshold_m: float) -> str:
    """Return a threshold as it stands in names: 0.05 -> 5cm."""
    return f"{100 * threshold_m:g}cm"


def scene_metrics(scores: SceneScores, config: ScoreConfig) -> Metrics:
    """Return every score of a scene; None where it is not defined.

    Names of the raw cosine carry no prefix; other treatments prefix theirs.
    """
    found: Metrics = {}
    for name, treated in scores.treatments.items():
        prefix = "" if name == "raw" else f"{name}_"
        for field in (
            "consistency",
            "consistency_macro",
            "random",
            "above_chance",
            "same_position",
            "position_above_chance",
        ):
            found[prefix + field] = getattr(treated, field)
    for name in config.matching_treatments:
        prefix = "" if name == "raw" else f"{name}_"
        separation = scores.separation.get(name)
        found[f"{prefix}auroc"] = separation.auroc if separation else None
        found |= {prefix + key: value for key, value in _recall(scores, name, config).items()}
    found["noise_floor"] = scores.noise_floor
    found["noise_floor_above_chance"] = above_chance(scores.noise_floor, scores.random)
    return found


def scene_counts(scores: SceneScores) -> dict[str, int]:
    """Return every count of a scene."""
    return {
        name: getattr(scores, name) for name in SceneScores.__slots__ if name.startswith("num_")
    }


def rates(counts: dict[str, float]) -> Metrics:
    """Turn counts of correspondences into recall, mutual recall, mutual precision and chance."""
    possible, mutual = counts["possible"], counts["mutual"]
    return {
        "recall": counts["nearest"] / possible if possible else None,
        "mutual_recall": counts["mutual_right"] / possible if possible else None,
        "mutual_precision": counts["mutual_right"] / mutual if mutual else None,
        "chance_recall": counts["chance"] / possible if possible else None,
    }


def _recall(scores: SceneScores, treatment: str, config: ScoreConfig) -> Metrics:
    found: Metrics = {}
    recall = scores.recall.get(treatment)
    for k, threshold in enumerate(config.recall_m):
        row = recall.overall[k].tolist() if recall else [0.0] * len(RECALL_COUNTS)
        for name, value in rates(dict(zip(RECALL_COUNTS, row, strict=True))).items():
            found[f"{name}_{centimetres(threshold)}"] = value
    return found
