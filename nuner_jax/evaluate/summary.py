"""Result rows brought together: mean, deviation and 95 % interval over seeds, and paired differences. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from nuner_jax.evaluate.results import Row

VARIANTS = ("protocol", "layers", "head", "labels", "sampling")
PAIRED = ("sample_hash", "data_hash", "test_sentences")
"""What two rows have in common where their difference is that of the systems."""
AVERAGE = "average"
"""Stands for the mean over tasks where a task is named."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    deviation: float  # of the seeds, N - 1; 0 for one seed
    half_width: float  # of the 95 % interval of the mean (Student's t); NaN for one seed
    count: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, deviation and interval of values."""
    x = np.asarray(values, float)
    if len(x) < 2:
        return Estimate(float(x.mean()), 0.0, float("nan"), len(x))
    deviation = float(x.std(ddof=1))
    return Estimate(float(x.mean()), deviation, float(stdtrit(len(x) - 1, 0.975)) * deviation / len(x) ** 0.5, len(x))


def labelled(rows: Iterable[Row]) -> list[tuple[str, Row]]:
    """(label, row): the system's name, with protocol, layers, head or sampling where one system has been run with several."""
    rows = list(rows)
    seen: dict[str, dict[str, set[str]]] = {field: {} for field in VARIANTS}
    for row in rows:
        for field in VARIANTS:
            seen[field].setdefault(row["system"], set()).add(str(row.get(field)))
    several = [field for field in VARIANTS if any(len(values) > 1 for values in seen[field].values())]

    def label(row: Row) -> str:
        parts = [",".join(map(str, v)) if isinstance(v := row.get(field), list) else str(v) for field in several]
        return row["system"] + (f" ({'; '.join(parts)})" if parts else "")

    return [(label(row), row) for row in rows]


class Summary:
    """Scores by (label, task, k), each a mapping seed -> value; task AVERAGE where a seed has all tasks of the summary."""

    def __init__(self, rows: Iterable[Row], metric: str):
        self.cells: dict[tuple[str, str, int], dict[int, float]] = {}
        self.same: dict[tuple[str, str, int], dict[int, tuple[Any, ...]]] = {}  # what pairs must have in common
        for label, row in labelled(rows):
            if metric in row:
                cell, seed = (label, row["task"], row["k"]), row["seed"]
                self.cells.setdefault(cell, {})[seed] = row[metric]
                self.same.setdefault(cell, {})[seed] = tuple(row.get(name) for name in PAIRED)
        self.labels = list(dict.fromkeys(label for label, _, _ in self.cells))
        self.tasks = list(dict.fromkeys(task for _, task, _ in self.cells))
        self.ks = sorted({k for _, _, k in self.cells})
        if len(self.tasks) > 1:
            for label in self.labels:
                for k in self.ks:
                    per_task = [self.cells.get((label, task, k), {}) for task in self.tasks]
                    seeds = sorted(set.intersection(*(set(values) for values in per_task)))
                    if seeds:
                        self.cells[label, AVERAGE, k] = {s: float(np.mean([v[s] for v in per_task])) for s in seeds}
                        same = [self.same[label, task, k] for task in self.tasks]
                        self.same[label, AVERAGE, k] = {s: tuple(part[s] for part in same) for s in seeds}

    def get(self, label: str, task: str, k: int) -> Estimate | None:
        """The estimate of a cell, if it has been run."""
        values = self.cells.get((label, task, k))
        return estimate(list(values.values())) if values else None

    def difference(self, label: str, baseline: str, task: str, k: int) -> Estimate | None:
        """Mean paired difference label - baseline over the seeds at which both have the same support and test sentences."""
        a, b = self.cells.get((label, task, k), {}), self.cells.get((baseline, task, k), {})
        same = self.same.get((label, task, k), {}), self.same.get((baseline, task, k), {})
        seeds = sorted(seed for seed in a.keys() & b.keys() if same[0][seed] == same[1][seed])
        return estimate([a[s] - b[s] for s in seeds]) if seeds else None
