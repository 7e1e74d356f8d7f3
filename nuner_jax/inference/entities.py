"""From scores of single units (words or sub-tokens) to entities of texts. Pure NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """`text` is characters start:end of the text that was given; `score` is a probability."""

    start: int
    end: int
    text: str
    label: str
    score: float


class Candidates(NamedTuple):
    """Units that may belong to an entity of a label; a unit may stand there with several labels."""

    unit: np.ndarray  # [N] number of the unit, over all texts
    label: np.ndarray  # [N] number of the label
    score: np.ndarray  # [N] probability


class Units(NamedTuple):
    """The units of all texts in a row. Those without sub-token are left out: nothing is known of them, they break no entity."""

    text: np.ndarray  # [U] number of the text
    start: np.ndarray  # [U] first character
    end: np.ndarray  # [U] after the last character

    @classmethod
    def of(cls, spans: Sequence[Sequence[tuple[int, int]]]) -> "Units":
        """Units from the character spans of each text."""
        flat = np.array([span for of_text in spans for span in of_text], np.int64).reshape(-1, 2)
        return cls(np.repeat(np.arange(len(spans)), [len(s) for s in spans]), flat[:, 0], flat[:, 1])


def best(scores: np.ndarray, none: np.ndarray | float) -> Candidates:
    """The best label of each unit whose score exceeds that of none; scores [U, L], none [U] or one number for all."""
    if not scores.size:
        return above(scores, 0.0)
    label = scores.argmax(1)
    score = scores[np.arange(len(scores)), label]
    unit = np.flatnonzero(score > none)
    return Candidates(unit, label[unit], score[unit])


def above(scores: np.ndarray, threshold: float) -> Candidates:
    """Every (unit, label) whose score [U, L] is at least the threshold."""
    unit, label = np.nonzero(scores >= threshold)
    return Candidates(unit, label, scores[unit, label])


def entities_of(
    texts: list[str], units: Units, candidates: Candidates, labels: tuple[str, ...] | list[str]
) -> list[list[Entity]]:
    """Runs of neighbouring units of one label within a text; the score is their mean. Each text's from left to right."""
    result: list[list[Entity]] = [[] for _ in texts]
    if not len(candidates.unit):
        return result
    order = np.lexsort((candidates.unit, candidates.label))
    unit, label, score = (part[order] for part in candidates)
    breaks = (np.diff(unit) != 1) | (np.diff(label) != 0) | (np.diff(units.text[unit]) != 0)
    first = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    last = np.concatenate([first[1:], [len(unit)]]) - 1
    means = np.add.reduceat(score.astype(np.float64), first) / (last - first + 1)
    rows = zip(
        units.text[unit[first]].tolist(),
        units.start[unit[first]].tolist(),
        units.end[unit[last]].tolist(),
        label[first].tolist(),
        means.tolist(),
        strict=True,
    )
    for number, start, end, kind, mean in rows:
        text: str = texts[number]
        while start < end and text[start].isspace():  # some tokenizers count the blank before a word to its first piece
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        if start < end:
            result[number].append(Entity(start, end, text[start:end], labels[kind], min(1.0, mean)))
    return [sorted(found, key=lambda e: (e.start, -e.end, e.label)) for found in result]
