"""Published figures beside measured ones."""

import pytest

from nuner_jax.errors import InputError
from nuner_jax.evaluate.expected import check, comparison


def row(system, task, k, seed, value, layers=(-1,)):
    return {"system": system, "task": task, "k": k, "seed": seed, "token_macro_f1": value, "layers": list(layers)}


def test_differences_are_of_the_mean_over_tasks_and_what_was_not_run_is_said():
    rows = [row("ours", task, 4, seed, value) for task, value in (("a", 0.5), ("b", 0.6)) for seed in (0, 1)]
    cells = comparison(rows, {"ours": {4: 54.0, 16: 60}, "other": {4: 1}}, "token_macro_f1")
    assert cells[1:] == [
        ["ours", "4", "54.0", "55.0", "+1.0"],
        ["ours", "16", "60.0", "not run", ""],
        ["other", "4", "1.0", "not run", ""],
    ]


def test_a_system_that_was_run_in_two_ways_has_a_line_for_each():
    rows = [row("ours", "a", 4, 0, 0.5), row("ours", "a", 4, 0, 0.75, (-1, -4))]
    lines = comparison(rows, {"ours": {4: 50.0}}, "token_macro_f1")[1:]
    assert [line[-1] for line in lines] == ["+0.0", "+25.0"]


@pytest.mark.parametrize(
    ("expected", "metric", "message"),
    [({}, "f2", "expected_metric 'f2'"), ({"a": {1: 170.0}}, "partial_f1", "expected.a")],
)
def test_bad_figures_are_refused(expected, metric, message):
    with pytest.raises(InputError, match=message):
        check(expected, metric)
