"""Support sets of a grid: drawn or stored, one file for every system that is compared on them."""

from collections.abc import Sequence
from pathlib import Path

from nuner_jax.config import EvaluateConfig
from nuner_jax.errors import InputError
from nuner_jax.evaluate.k_shot import samples as sampled
from nuner_jax.evaluate.tasks import Task
from nuner_jax.schema import read_json_lines, write_json_lines

Cell = tuple[int, int]
"""(k, seed)"""
Samples = dict[Cell, list[int]]
"""The train sentences of each support set."""


def read_samples(path: str) -> dict[str, Samples]:
    """Stored samples by task. Raises InputError with file and line."""
    samples: dict[str, Samples] = {}
    for number, row in read_json_lines(path) if path else []:
        try:
            samples.setdefault(row["task"], {})[int(row["k"]), int(row["seed"])] = [int(i) for i in row["indices"]]
        except (KeyError, TypeError, ValueError):
            raise InputError(f'{path}, line {number}: expected {{"task", "k", "seed", "indices"}}') from None
    return samples


def write_samples(path: Path, samples: dict[str, Samples]) -> None:
    """Adds the samples to those of earlier runs in the same directory. Raises InputError if those had others for the same cell."""
    merged = read_samples(str(path)) if path.is_file() else {}
    for task, cells in samples.items():
        there = merged.setdefault(task, {})
        for (k, seed), indices in cells.items():
            if there.setdefault((k, seed), indices) != indices:
                where = f"{path}: task {task}, k={k}, seed={seed}"
                raise InputError(f"{where} is another support set (of other data, sampling or samples); use another --out")
    cells = ((task, k, seed, indices) for task, drawn in merged.items() for (k, seed), indices in sorted(drawn.items()))
    write_json_lines(path, ({"task": t, "k": k, "seed": seed, "indices": indices} for t, k, seed, indices in cells))


def draw(task: Task, config: EvaluateConfig, stored: dict[str, Samples]) -> Samples:
    """The support set of every (k, seed): stored where samples are given, else drawn. Raises InputError."""
    cells = [(k, seed) for k in config.ks for seed in range(config.seeds)]
    if not config.samples:
        return sampled(task.train.counts(config.sampling), cells, config.sampling)
    given = stored.get(task.name, {})
    for k, seed in cells:
        indices, where = given.get((k, seed)), f"{config.samples}: task {task.name}, k={k}, seed={seed}"
        if not indices:
            raise InputError(f"{where}: no sample")
        _check(indices, task, where)
    return {cell: given[cell] for cell in cells}


def _check(indices: Sequence[int], task: Task, where: str) -> None:
    if not 0 <= min(indices) <= max(indices) < len(task.train):
        raise InputError(f"{where}: sentence numbers outside 0..{len(task.train) - 1}")
