"""What an ablation's table says: intervals over two crossed factors, paired differences, trends, and the comparison with the paper."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from nuner_jax.ablate.analysis import ALL, Scores, crossed, verdict
from nuner_jax.ablate.report import latex, markdown, sentence, table
from nuner_jax.errors import InputError
from nuner_jax.evaluate.summary import Estimate

ABOUT = {"title": "Data size", "x_label": "sentences", "log_x": True, "published": "data_size"}


def make_rows(value, xs=((("10"), 10.0), ("100", 100.0), ("1000", 1000.0)), seeds=(0, 1), supports=(0, 1, 2), ks=(1, 4)):
    """value(x, k, training seed, support set, task number) -> a row for each cell."""
    return [
        {
            "point": point,
            "x": x,
            "k": k,
            "train_seed": a,
            "seed": b,
            "task": task,
            "token_macro_f1": value(x or len(point), k, a, b, t),
        }
        for point, x in xs
        for a in seeds
        for b in supports
        for k in ks
        for t, task in enumerate(("one", "two"))
    ]


def noise(*key):
    return float(np.random.default_rng(abs(hash(key)) % 2**32).normal())


def test_one_row_or_column_is_a_students_t_interval():
    x = [0.1, 0.2, 0.4, 0.3]
    wanted = float(stdtrit(3, 0.975)) * np.std(x, ddof=1) / 2
    for values in (np.array([x]), np.array([x]).T):
        assert crossed(values).half_width == pytest.approx(wanted)
    assert math.isnan(crossed(np.array([[0.5]])).half_width)


def test_the_interval_covers_the_truth_where_both_factors_vary():
    rng = np.random.default_rng(0)
    covered = {"crossed": 0, "as if independent": 0}
    trials = 600
    for _ in range(trials):
        x = rng.normal(0, 1, (3, 1)) + rng.normal(0, 1, (1, 10)) + rng.normal(0, 0.5, (3, 10))
        covered["crossed"] += abs(x.mean()) <= crossed(x).half_width
        covered["as if independent"] += abs(x.mean()) <= crossed(x.reshape(1, -1)).half_width
    assert covered["crossed"] / trials > 0.93
    assert covered["as if independent"] / trials < 0.7  # why the two factors are kept apart


@given(st.integers(1, 4), st.integers(1, 4), st.floats(-5, 5), st.floats(0.1, 10), st.integers(0, 1000))
def test_intervals_move_and_scale_with_the_scores(a, b, shift, scale, seed):
    x = np.random.default_rng(seed).normal(size=(a, b))
    one, two = crossed(x), crossed(scale * x + shift)
    assert two.mean == pytest.approx(scale * one.mean + shift, abs=1e-9)
    assert two.half_width == pytest.approx(scale * one.half_width, nan_ok=True)
    assert one.half_width >= 0 or a * b == 1


def test_differences_are_paired_and_tasks_averaged():
    hard = {b: 0.1 * b for b in range(3)}  # support sets differ much more than points
    rows = make_rows(lambda x, k, a, b, t: 0.5 + hard[b] + 0.03 * math.log10(x) + 0.2 * t + 1e-4 * noise(x, k, a, b))
    scores = Scores(ABOUT, rows)
    assert scores.get("10", 1).mean == pytest.approx(0.5 + 0.1 + 0.03 + 0.1, abs=1e-3)
    assert scores.get("10", 1).half_width > 0.1
    difference = scores.difference("1000", "10", 4)
    assert difference.mean == pytest.approx(0.06, abs=1e-3)
    assert difference.half_width < 0.003


def test_the_trend_is_least_squares_on_the_log_axis():
    rows = make_rows(lambda x, k, a, b, t: 0.2 + 0.05 * math.log10(x) + 0.01 * noise(x, k, a, b, t))
    scores = Scores(ABOUT, rows)
    trend = scores.trend(4)
    means = [scores.get(point, 4).mean for point in scores.points]
    slope, intercept = np.polyfit([1, 2, 3], means, 1)
    assert (trend.slope.mean, trend.intercept) == (pytest.approx(slope), pytest.approx(intercept))
    assert abs(trend.slope.mean - 0.05) < trend.slope.half_width
    assert trend(100.0) == pytest.approx(np.mean(means))


def test_an_untrained_point_is_paired_with_every_training_seed_and_has_no_part_in_the_trend():
    rows = make_rows(lambda x, k, a, b, t: 0.4 + 0.1 * math.log10(x) + 0.01 * b)
    plain = make_rows(lambda x, k, a, b, t: 0.3 + 0.01 * b, xs=[("plain", None)], seeds=(None,))
    scores = Scores(ABOUT, rows + plain)
    assert scores.difference("10", "plain", 1).mean == pytest.approx(0.2)
    assert scores.trend(1).slope.mean == pytest.approx(0.1)
    assert [point for point, _ in scores.on_axis()] == ["10", "100", "1000"]


def test_points_of_different_cells_are_refused():
    rows = make_rows(lambda *_: 0.5)
    with pytest.raises(InputError, match="point 1000, k=4"):
        Scores(ABOUT, rows[:-1])


def test_points_with_other_training_seeds_are_not_compared_as_if_paired():
    rows = make_rows(lambda *key: 0.5)
    with pytest.raises(InputError, match="point 100, k=1: not evaluated on the tasks, support sets and seeds of the others"):
        Scores(ABOUT, [row for row in rows if (row["point"], row["train_seed"]) != ("100", 1)])
    for row in rows:
        row["train_seed"] += 5 * (row["point"] == "1000")
    with pytest.raises(InputError, match="not evaluated on the tasks, support sets and seeds of the others"):
        Scores(ABOUT, rows)


@pytest.mark.parametrize(
    ("mean", "half_width", "direction", "word"),
    [
        (2, 1, "up", "agrees"),
        (-2, 1, "up", "disagrees"),
        (1, 2, "up", "undecided"),
        (-2, 1, "down", "agrees"),
        (2, 1, "down", "disagrees"),
        (1, 2, "none", "agrees"),
        (2, 1, "none", "disagrees"),
        (2, math.nan, "up", "undecided"),
    ],
)
def test_the_verdict_needs_the_whole_interval_on_one_side(mean, half_width, direction, word):
    assert verdict(Estimate(mean, 0.0, half_width, 2), direction) == word


def test_the_report_tells_scores_differences_slope_and_direction():
    rows = make_rows(lambda x, k, a, b, t: 0.5 + 0.02 * math.log10(x) + 0.001 * noise(x, k, a, b, t))
    scores = Scores(ABOUT, rows)
    cells = table(scores)
    assert cells[0] == ["", "k=1", "k=4", "mean"]
    assert [row[0] for row in cells[1:]] == ["10", "100", "1000", "100 - 10", "1000 - 10", "slope a decade"]
    assert "This agrees with the published direction" in sentence(scores)
    assert "a decade" in sentence(scores)
    assert sentence(Scores(ABOUT | {"published": "none"}, rows)) == ""
    text = markdown(scores)
    assert "2 training seeds x 3 support sets" in text
    assert "x log10(sentences)" in text
    assert latex([["a_b", "50 ± 1"], ["x & y", "1"]]).splitlines()[2] == r"a\_b & 50 $\pm$ 1 \\"
    assert scores.get("10", ALL).mean == pytest.approx(0.52, abs=0.001)


def test_categories_are_compared_from_the_first_to_the_last():
    def value(x, k, a, b, t):
        return 0.5 + 0.05 * noise(x, k, a, b, t)

    rows = make_rows(value, xs=[("C4", None), ("Wikipedia", None)])
    untouched = [row | {"train_seed": None} for row in make_rows(value, xs=[("not pre-trained", None)], seeds=(0,))]
    scores = Scores(ABOUT | {"x_label": "", "published": "text_source"}, rows + untouched)
    assert scores.points[-1] == "not pre-trained"  # stands beside the others; the paper's comparison is not about it
    assert scores.effect(1) == scores.difference("Wikipedia", "C4", 1)
    assert scores.trend(1) is None
    assert "Wikipedia against C4" in sentence(scores)
