"""Measured scores beside the figures that a config expects. Pure."""

from collections.abc import Iterable, Mapping

from nuner_jax.errors import InputError
from nuner_jax.evaluate.results import Row
from nuner_jax.evaluate.summary import AVERAGE, Summary
from nuner_jax.evaluate.tables import Cells

METRICS = ("token_macro_f1", "token_micro_f1", "entity_micro_f1", "entity_macro_f1", "partial_f1")


def check(expected: Mapping[str, Mapping[int, float]], metric: str) -> None:
    """Raises InputError for what is no table of points."""
    if metric not in METRICS:
        raise InputError(f"expected_metric {metric!r} is none of {', '.join(METRICS)}")
    for system, points in expected.items():
        if not all(0 <= value <= 100 for value in points.values()):
            raise InputError(f"expected.{system}: figures are points of F1, 0 to 100")


def comparison(rows: Iterable[Row], expected: Mapping[str, Mapping[int, float]], metric: str) -> Cells:
    """Rows of text: system, k, expected, measured (mean of the tasks, in points) and difference; `not run` where there is no score."""
    summary = Summary(rows, metric)
    task = AVERAGE if len(summary.tasks) > 1 else summary.tasks[0]
    cells: Cells = [["system", "k", "expected", "measured", "difference"]]
    for system, points in expected.items():
        labels = [label for label in summary.labels if label == system or label.startswith(f"{system} (")]
        for k, value in points.items():
            found = [(label, score) for label in labels if (score := summary.get(label, task, k))]
            for label, score in found or [(system, None)]:
                measured = [f"{100 * score.mean:.1f}", f"{100 * score.mean - value:+.1f}"] if score else ["not run", ""]
                cells.append([label, str(k), f"{value:.1f}", *measured])
    return cells
