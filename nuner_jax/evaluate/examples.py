"""Test sentences with gold and predicted mentions, kept beside the results for people to look at."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nuner_jax.evaluate import metrics
from nuner_jax.evaluate.results import KEY, Row, key
from nuner_jax.evaluate.tasks import Task
from nuner_jax.schema import read_json_lines, write_json_lines

PER_CELL = 40
SEED = 0
"""The seed whose predictions are kept."""


def chosen(task: Task) -> list[int]:
    """Up to PER_CELL test sentences with a mention, picked by a hash of their words: the same for every system."""
    with_mention = [i for i, spans in enumerate(task.test.spans) if spans]
    return sorted(sorted(with_mention, key=lambda i: _hash(task.test.sentences[i].words))[:PER_CELL])


def _hash(words: tuple[str, ...]) -> bytes:
    return hashlib.sha256(" ".join(words).encode()).digest()


def examples(task: Task, row: Row, codes: np.ndarray) -> list[dict[str, Any]]:
    """The chosen sentences under one row: words, gold and predicted mentions as [start, end, type] in words."""
    spans = metrics.spans_of(codes, metrics.first_words(task.test.offsets))
    result = []
    for i in chosen(task):
        start, end = task.test.offsets[i], task.test.offsets[i + 1]
        inside = np.flatnonzero((spans.start >= start) & (spans.start < end))
        predicted = [[int(spans.start[j] - start), int(spans.end[j] - start), task.types[spans.type[j]]] for j in inside]
        gold = [[span.start, span.end, span.type] for span in task.test.spans[i]]
        identity = {name: row[name] for name in KEY}
        words = list(task.test.sentences[i].words)
        result.append({**identity, "sentence": i, "words": words, "gold": gold, "predicted": predicted})
    return result


def add_examples(path: Path, new: Iterable[dict[str, Any]]) -> None:
    """Adds to those of earlier rows; a row's own are replaced."""
    merged = {(key(e), e["sentence"]): e for e in read_examples(path)}
    merged.update(((key(e), e["sentence"]), e) for e in new)
    write_json_lines(path, merged.values())


def read_examples(path: Path) -> list[dict[str, Any]]:
    """The stored examples; none if there is no file."""
    return [row for _, row in read_json_lines(path)] if path.is_file() else []
