"""Scores of predicted tags against gold tags: token F1, strict entity F1, partial match, per type. Pure NumPy.

Tags are codes as in tasks.Split (0 is O, 1 + 2t is B-t, 2 + 2t is I-t); `first` marks the words that begin a sentence.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from nuner_jax.evaluate.tasks import word_types


class Spans(NamedTuple):
    """Mentions as arrays, left to right: word start, word end (exclusive), type."""

    start: np.ndarray
    end: np.ndarray
    type: np.ndarray


class Counts(NamedTuple):
    """True positives, false positives and false negatives of each type, [T] each."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray


def first_words(offsets: np.ndarray) -> np.ndarray:
    """[W] bool, true where a sentence begins."""
    first = np.zeros(offsets[-1] + 1, bool)
    first[offsets] = True
    return first[:-1]


def io_to_iob2(types: np.ndarray, first: np.ndarray) -> np.ndarray:
    """IO labels (0 is O, 1 + t is type t) to codes: a run of one type within a sentence becomes one mention."""
    goes_on = np.zeros(len(types), bool)
    goes_on[1:] = (types[1:] == types[:-1]) & ~first[1:]
    return np.where(types == 0, 0, 2 * types - 1 + goes_on)


def close_up(codes: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Predicted IOB2 codes made strict: an I- that continues nothing of its type opens a mention."""
    types = word_types(codes)
    goes_on = np.zeros(len(codes), bool)
    goes_on[1:] = (codes[1:] % 2 == 0) & (types[1:] == types[:-1]) & ~first[1:]
    return np.where(types == 0, 0, 2 * types - 1 + goes_on)


def spans_of(codes: np.ndarray, first: np.ndarray) -> Spans:
    """Mentions by strict IOB2: they begin at B- only; an I- that continues nothing of its type belongs to none."""
    types = word_types(codes)
    goes_on = np.zeros(len(codes) + 1, bool)
    goes_on[1:-1] = (codes[1:] > 0) & (codes[1:] % 2 == 0) & (types[1:] == types[:-1]) & ~first[1:]
    start = np.flatnonzero(codes % 2 == 1)
    breaks = np.flatnonzero(~goes_on)  # the last entry is the end of the text
    end = breaks[np.searchsorted(breaks, start, side="right")]
    return Spans(start, end, types[start] - 1)


def token_counts(gold: np.ndarray, predicted: np.ndarray, num_types: int) -> Counts:
    """Words right and wrong by type, B- and I- not told apart."""
    g, p = word_types(gold), word_types(predicted)
    size = num_types + 1
    tp = np.bincount(g[g == p], minlength=size)[1:]
    return Counts(tp, np.bincount(p, minlength=size)[1:] - tp, np.bincount(g, minlength=size)[1:] - tp)


def _keys(spans: Spans, num_words: int, num_types: int) -> np.ndarray:
    return (spans.start.astype(np.int64) * (num_words + 1) + spans.end) * num_types + spans.type


def entity_counts(gold: Spans, predicted: Spans, num_words: int, num_types: int) -> Counts:
    """Mentions right (both ends and the type) and wrong by type."""
    right = np.isin(_keys(predicted, num_words, num_types), _keys(gold, num_words, num_types), assume_unique=True)
    tp = np.bincount(predicted.type[right], minlength=num_types)
    of = [np.bincount(spans.type, minlength=num_types) for spans in (predicted, gold)]
    return Counts(tp, of[0] - tp, of[1] - tp)


def partial_match(gold: Spans, predicted: Spans, num_words: int, num_types: int) -> float:
    """F1 in which a mention of the right type that only overlaps its gold mention counts one half.

    One to one: exact matches first, then each left-over prediction, left to right, takes the first free gold mention of its type
    that it overlaps (MUC-5's partial score, with types).
    """
    if not len(gold.start) or not len(predicted.start):
        return 0.0
    gold_keys, predicted_keys = _keys(gold, num_words, num_types), _keys(predicted, num_words, num_types)
    free = ~np.isin(gold_keys, predicted_keys, assume_unique=True)
    left = np.flatnonzero(~np.isin(predicted_keys, gold_keys, assume_unique=True))
    exact = len(predicted_keys) - len(left)
    low = np.searchsorted(gold.end, predicted.start[left], side="right")
    high = np.searchsorted(gold.start, predicted.end[left], side="left")
    halves = 0
    for p, a, b in zip(left, low, high, strict=True):
        for g in range(a, b):
            if free[g] and gold.type[g] == predicted.type[p]:
                free[g] = False
                halves += 1
                break
    return 2 * (exact + halves / 2) / (len(gold_keys) + len(predicted_keys))


def f1(counts: Counts) -> np.ndarray:
    """F1 of each type; 0 where nothing is right."""
    return 2 * counts.tp / np.maximum(1, 2 * counts.tp + counts.fp + counts.fn)


def micro_f1(counts: Counts) -> float:
    """F1 over all types pooled."""
    return float(f1(Counts(*(part.sum() for part in counts))))


def scores(gold: np.ndarray, predicted: np.ndarray, first: np.ndarray, num_types: int) -> dict[str, float]:
    """All scores in 0..1. Token means word.

    token_macro_f1 averages over all types of the task (the paper's score); entity_macro_f1 over the types that occur in gold or
    prediction, as seqeval does in strict IOB2 mode.
    """
    tokens = token_counts(gold, predicted, num_types)
    gold_spans, predicted_spans = spans_of(gold, first), spans_of(predicted, first)
    entities = entity_counts(gold_spans, predicted_spans, len(gold), num_types)
    occurs = (entities.tp + entities.fp + entities.fn) > 0
    return {
        "token_macro_f1": float(f1(tokens).mean()),
        "token_micro_f1": micro_f1(tokens),
        "entity_micro_f1": micro_f1(entities),
        "entity_macro_f1": float(f1(entities)[occurs].mean()) if occurs.any() else 0.0,
        "partial_f1": partial_match(gold_spans, predicted_spans, len(gold), num_types),
    }


def per_type(gold: np.ndarray, predicted: np.ndarray, first: np.ndarray, types: Sequence[str]) -> dict[str, dict[str, float]]:
    """Type -> strict entity precision, recall, F1 and support, and token F1."""
    tokens = f1(token_counts(gold, predicted, len(types)))
    counts = entity_counts(spans_of(gold, first), spans_of(predicted, first), len(gold), len(types))
    entities = f1(counts)
    return {
        kind: {
            "precision": float(counts.tp[t] / max(1, counts.tp[t] + counts.fp[t])),
            "recall": float(counts.tp[t] / max(1, counts.tp[t] + counts.fn[t])),
            "f1": float(entities[t]),
            "support": int(counts.tp[t] + counts.fn[t]),
            "token_f1": float(tokens[t]),
        }
        for t, kind in enumerate(types)
    }


def unseen_share(support: Iterable[Hashable], test: Sequence[Hashable]) -> float:
    """Share of the test mentions (surface, type) that no mention of the support set equals."""
    known = set(support)
    return sum(mention not in known for mention in test) / max(1, len(test))
