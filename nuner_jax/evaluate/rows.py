"""What every result row says, whatever system it is about: where its numbers come from, and the scores."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nuner_jax import __version__
from nuner_jax.config import EvaluateConfig
from nuner_jax.evaluate import metrics
from nuner_jax.evaluate.examples import SEED, add_examples, examples
from nuner_jax.evaluate.results import Results, Row
from nuner_jax.evaluate.samples import Cell
from nuner_jax.evaluate.tasks import Task


def cell_base(config: EvaluateConfig, task: Task, cell: Cell, indices: Sequence[int]) -> Row:
    """The part of a row's identity and origin that all systems share."""
    return {
        "task": task.name,
        "sampling": "stored" if config.samples else config.sampling,
        "k": cell[0],
        "seed": cell[1],
        "data_hash": task.fingerprint,
        "sample_hash": hashlib.sha256(json.dumps(list(indices)).encode()).hexdigest()[:16],
        "test_sentences": len(task.test),
        "version": __version__,
    }


def scored(task: Task, indices: Sequence[int], codes: np.ndarray) -> Row:
    """Every score of predicted strict IOB2 codes on the test set, and facts about the support set."""
    first = metrics.first_words(task.test.offsets)
    support = task.train.take(indices)
    counts = Counter(span.type for spans in support.spans for span in spans)
    return {
        **{name: round(value, 6) for name, value in metrics.scores(task.test.codes, codes, first, len(task.types)).items()},
        "unseen_share": round(metrics.unseen_share(support.surfaces, task.test.surfaces), 6),
        "support_sentences": len(indices),
        "support_mentions": {kind: counts[kind] for kind in task.types},
        "per_type": metrics.per_type(task.test.codes, codes, first, task.types),
    }


def store(config: EvaluateConfig, results: Results, task: Task, new: Sequence[tuple[Row, np.ndarray]]) -> None:
    """Keeps rows of one task, and beside them example sentences of one seed, from the codes that the rows score."""
    results.add(row for row, _ in new)
    shown = [example for row, codes in new if row["seed"] == SEED for example in examples(task, row, codes)]
    add_examples(Path(config.out) / "examples.jsonl", shown)
