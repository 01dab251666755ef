"""Bootstrap, correlations and NOS by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from vega3d.evaluate.downstream import overall_scores, parse_results, read_results, relate
from vega3d.evaluate.intervals import bootstrap_means, correlate, estimates, pearson, spearman
from vega3d.pipeline.errors import UsageError


def test_a_constant_column_has_an_interval_of_no_width_and_gaps_are_left_out() -> None:
    values = np.array([[2.0, 1.0], [2.0, np.nan], [2.0, 4.0]])
    same, gaps = estimates(values, 200, 0)
    assert (same.mean, same.low, same.high, same.num_scenes) == (2.0, 2.0, 2.0, 3)
    assert (gaps.mean, gaps.num_scenes) == (2.5, 2)
    assert gaps.low is not None
    assert 1.0 <= gaps.low <= 2.5 <= gaps.high <= 4.0


def test_one_scene_has_no_interval_and_no_scene_no_mean() -> None:
    one = estimates(np.array([[0.3, np.nan]]), 100, 0)
    assert (one[0].mean, one[0].low, one[0].high) == (0.3, None, None)
    assert (one[1].mean, one[1].num_scenes) == (None, 0)
    assert estimates(np.empty((0, 1)), 100, 0)[0].mean is None


def test_columns_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal(20)
    means = bootstrap_means(np.stack([first, first + 1.0], axis=1), 300, 7)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1.0)
    # the deviation of resampled means is that of the values over sqrt(n), within 10 % of 300 draws
    assert means[:, 0].std() == pytest.approx(first.std() / math.sqrt(20), rel=0.15)


def test_correlations_agree_with_scipy_and_ties_share_ranks() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal(12), rng.standard_normal(12)
    y[3] = y[7]
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_a_constant_or_two_points_have_no_correlation() -> None:
    assert pearson(np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0])) is None
    assert pearson(np.array([1.0, 2.0]), np.array([1.0, 2.0])) is None
    nothing = correlate(np.zeros(3), np.arange(3.0), pearson, 10, 0)
    assert (nothing.value, nothing.p_value, nothing.low) == (None, None, None)


def test_the_permutation_p_of_a_perfect_order_counts_both_directions() -> None:
    x = np.arange(4.0)
    found = correlate(x, x**2, spearman, 200, 0)
    assert found.value == 1.0
    assert found.p_value == pytest.approx(2 / 24)
    assert found.num_degenerate > 0  # some resamples hold one or two different points only
    many = correlate(np.arange(30.0), np.arange(30.0), spearman, 50, 0)
    assert many.p_value == pytest.approx(1 / 2000)  # the order itself is one of those tried


TABLE = """# title: two metrics
# source: by hand
model,up,-error
worst,0,10
middle,5,8
best,10,0
"""


def test_overall_score_by_hand() -> None:
    results = parse_results(TABLE, "table.csv")
    # up: 0, 1/2, 1; -error, lower better: 0, 2/10, 1
    overall = overall_scores(results)
    assert overall == pytest.approx({"worst": 0.0, "middle": 0.35, "best": 1.0})
    assert (results.title, results.source) == ("two metrics", "by hand")


def test_a_metric_that_is_the_same_for_all_is_left_out() -> None:
    overall = overall_scores(parse_results(TABLE.replace("-error", "flat").replace(
        ",10\n", ",1\n").replace(",8", ",1").replace(",0\n", ",1\n"), "t"))  # fmt: skip
    assert overall == pytest.approx({"worst": 0.0, "middle": 0.5, "best": 1.0})
    with pytest.raises(ValueError, match="every metric is the same"):
        overall_scores(parse_results("model,a\nx,1\ny,1\n", "t"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,a\nx,1\n", "two models or more"),
        ("name,a\nx,1\ny,2\n", "needs a header with `model`"),
        ("", r"got header \[\] and 0 rows"),
        ("model,a\nx,1\ny\n", "line 3: 1 values for 2 columns"),
        ("model,a\nx,1\nx,2\n", "line 3: a model needs a name of its own, got 'x'"),
        ("model,a\nx,1\ny,much\n", "line 3, a: needs a number, got 'much'"),
        ("model,a\nx,1\ny,nan\n", "line 3, a: needs a number, got 'nan'"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_results(text, "table.csv")


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.csv: cannot be read .*or say `paper`"):
        read_results(str(tmp_path / "none.csv"))


def test_the_paper_table_and_its_arithmetic() -> None:
    paper = read_results("paper")
    assert len(paper.models) == 11
    assert len(paper.metrics) == 9
    # V-JEPA v2 by hand, column by column: (value - min) / (max - min) over all 11 rows
    columns = [
        (61.7 - 58.1) / (63.2 - 58.1), (54.9 - 51.7) / (56.2 - 51.7),
        (60.2 - 58.0) / (60.8 - 58.0), (54.7 - 52.7) / (55.1 - 52.7),
        (79.8 - 79.8) / (83.8 - 79.8), (41.5 - 41.1) / (42.7 - 41.1),
        (106.6 - 102.1) / (107.8 - 102.1), (30.7 - 30.0) / (31.0 - 30.0),
        (61.2 - 58.6) / (61.9 - 58.6),
    ]  # fmt: skip
    overall = overall_scores(paper)
    assert overall["V-JEPA v2"] == pytest.approx(sum(columns) / 9)
    order = sorted(overall, key=lambda model: -overall[model])
    assert order[:2] == ["Wan2.1-VACE", "Wan2.1-T2V"]
    assert order[-1] == "baseline (Video-3D LLM)"
    relation = relate("published", paper.published, overall, 500, 0)
    x = [paper.published[m] for m, _, _ in relation.points]
    y = [overall[m] for m, _, _ in relation.points]
    assert len(x) == 5
    assert relation.pearson.value == pytest.approx(stats.pearsonr(x, y).statistic)
    assert relation.pearson.value == pytest.approx(0.9802, abs=1e-4)
    assert relation.spearman.value == pytest.approx(1.0)
    assert relation.spearman.p_value == pytest.approx(2 / 120)  # as low as five points can go


def test_names_of_a_model() -> None:
    paper = read_results("paper")
    assert paper.find("wan2.1-t2v") == "Wan2.1-T2V"
    assert paper.find("nothing", "facebook/VGGT-1B") == "VGGT"
    assert paper.find("my-model") is None
