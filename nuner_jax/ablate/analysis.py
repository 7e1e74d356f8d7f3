"""What an ablation's rows say: means, paired differences and trends with intervals. Pure.

Scores of a point vary with two things that are crossed: the training seed (A of them) and the support set (B). A mean over both has
the variance (MS_A + MS_B - MS_E) / AB of the two-way layout; its degrees of freedom are Satterthwaite's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from nuner_jax.errors import InputError
from nuner_jax.evaluate.summary import Estimate

Matrix = np.ndarray
"""[A, B]: training seeds x support sets; A is 1 for an encoder that is evaluated as it is."""
ALL = "mean"
"""Stands for the mean over all k where a k is named."""


def crossed(values: Matrix) -> Estimate:
    """Mean of [A, B] values with the 95 % interval over both factors; NaN half width for a single value.

    A component of variance that comes out negative counts as none, which leaves the interval on the safe side.
    """
    x = np.atleast_2d(np.asarray(values, float))
    a, b = x.shape
    mean = float(x.mean())
    if a * b < 2:
        return Estimate(mean, 0.0, math.nan, a * b)
    deviation = float(x.std(ddof=1))
    if a == 1 or b == 1:
        return Estimate(mean, deviation, float(stdtrit(a * b - 1, 0.975)) * deviation / (a * b) ** 0.5, a * b)
    rows, columns = x.mean(1), x.mean(0)
    rest = x - rows[:, None] - columns[None, :] + mean
    degrees = (a - 1, b - 1, (a - 1) * (b - 1))
    error = float((rest**2).sum()) / degrees[2]
    parts = [max(b * float(rows.var(ddof=1)), error), max(a * float(columns.var(ddof=1)), error), error]
    total = parts[0] + parts[1] - error
    if total <= 0:
        return Estimate(mean, deviation, 0.0, a * b)
    df = max(
        total**2 / sum(part**2 / d for part, d in zip(parts, degrees, strict=True)), min(degrees)
    )  # no less than one factor's
    return Estimate(mean, deviation, float(stdtrit(df, 0.975)) * (total / (a * b)) ** 0.5, a * b)


@dataclass(frozen=True)
class Trend:
    """score = intercept + slope * log10(x), or * x."""

    intercept: float
    slope: Estimate
    log: bool

    def __call__(self, x: float) -> float:
        """The fitted score at x."""
        return self.intercept + self.slope.mean * (math.log10(x) if self.log else x)


class Scores:
    """Scores of an ablation by (point, k), means over tasks; `title`, `x_label`, `log_x`, `published` as declared."""

    def __init__(self, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], metric: str = "token_macro_f1"):
        """Raises InputError if points have been evaluated on different cells."""
        self.title, self.x_label = str(about["title"]), str(about["x_label"])
        self.log_x, self.published = bool(about["log_x"]), str(about["published"])
        self.x: dict[str, float | None] = {}
        self.tasks = list(dict.fromkeys(str(row["task"]) for row in rows))
        self.ks: list[int] = sorted({int(row["k"]) for row in rows})
        cells: dict[tuple[str, int, int, int], dict[str, float]] = {}  # point, k, training seed, support set -> task -> score
        for row in rows:
            self.x.setdefault(row["point"], row["x"])
            cell = (row["point"], row["k"], row["train_seed"] or 0, row["seed"])
            cells.setdefault(cell, {})[row["task"]] = row[metric]
        self.points = list(self.x)
        trained = {row["point"] for row in rows if row["train_seed"] is not None}
        self.trained = [point for point in self.points if point in trained]
        self.matrices: dict[tuple[str, int | str], Matrix] = {}
        supports = sorted({cell[3] for cell in cells})
        train_seeds = sorted({row["train_seed"] for row in rows if row["train_seed"] is not None})
        for point in self.points:
            seeds = train_seeds if point in trained else [0]
            for k in self.ks:
                found = [[cells.get((point, k, seed, support), {}) for support in supports] for seed in seeds]
                if any(len(scores) != len(self.tasks) for row in found for scores in row):
                    raise InputError(f"point {point}, k={k}: not evaluated on the tasks, support sets and seeds of the others")
                self.matrices[point, k] = np.array([[np.mean([s[t] for t in self.tasks]) for s in row] for row in found])
            self.matrices[point, ALL] = np.mean([self.matrices[point, k] for k in self.ks], axis=0)

    def get(self, point: str, k: int | str) -> Estimate:
        """Mean over tasks, training seeds and support sets."""
        return crossed(self.matrices[point, k])

    def difference(self, point: str, baseline: str, k: int | str) -> Estimate:
        """Paired by support set, and by training seed where both have been trained."""
        return crossed(self.matrices[point, k] - self.matrices[baseline, k])

    def on_axis(self) -> list[tuple[str, float]]:
        """(point, x) of the points that have an x, by x."""
        return sorted(((point, x) for point, x in self.x.items() if x is not None), key=lambda pair: pair[1])

    def trend(self, k: int | str) -> Trend | None:
        """Least squares through the points' means, the slope's interval from the slopes of all (training seed, support set)."""
        points = self.on_axis()
        x = np.array([math.log10(x) if self.log_x else x for _, x in points])
        if len(set(x.tolist())) < 2:
            return None
        weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        stack = np.stack(np.broadcast_arrays(*(self.matrices[point, k] for point, _ in points)))  # [P, A, B]
        slope = crossed(np.tensordot(weights, stack, 1))
        return Trend(float(stack.mean()) - slope.mean * float(x.mean()), slope, self.log_x)

    def effect(self, k: int | str) -> Estimate | None:
        """What is compared with the paper: the trend's slope, or the last trained point against the first."""
        if self.on_axis():
            trend = self.trend(k)
            return trend and trend.slope
        return self.difference(self.trained[-1], self.trained[0], k) if len(self.trained) > 1 else None


def verdict(effect: Estimate | None, direction: str) -> str:
    """agrees, disagrees, or undecided: the published direction (up, down, none) against the effect's interval."""
    if effect is None or math.isnan(effect.half_width):
        return "undecided"
    low, high = effect.mean - effect.half_width, effect.mean + effect.half_width
    if direction == "none":
        return "agrees" if low <= 0 <= high else "disagrees"
    if direction == "down":
        low, high = -high, -low
    return "agrees" if low > 0 else "disagrees" if high < 0 else "undecided"
