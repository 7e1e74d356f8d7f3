"""Scores equal seqeval's and scikit-learn's on random taggings, and hand-computed ones in the hard cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score as sklearn_f1

from nuner_jax.evaluate import metrics
from nuner_jax.evaluate.tasks import word_types
from nuner_jax.schema import spans_from_tags

TYPES = ("a", "b", "c")
TAGS = ["O", *(f"{prefix}-{kind}" for kind in TYPES for prefix in "BI")]
CODES = st.lists(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8), min_size=1, max_size=6)


def strict(sentences):
    """Codes of strict IOB2: an I- that continues nothing becomes O, as in gold data."""
    rows = []
    for codes in sentences:
        tags = [TAGS[c] for c in codes]
        spans = spans_from_tags(tags)
        row = [0] * len(tags)
        for span in spans:
            t = TYPES.index(span.type)
            row[span.start : span.end] = [2 + 2 * t] * (span.end - span.start)
            row[span.start] = 1 + 2 * t
        rows.append(row)
    return rows


def flat(sentences):
    offsets = np.cumsum([0] + [len(s) for s in sentences])
    return np.concatenate([np.asarray(s, int) for s in sentences]), metrics.first_words(offsets)


def tags(sentences):
    return [[TAGS[c] for c in codes] for codes in sentences]


@given(CODES)
def test_scores_equal_seqeval_strict_and_scikit_learn(pairs):
    gold = strict([[g for g, _ in sentence] for sentence in pairs])
    predicted = [[p for _, p in sentence] for sentence in pairs]
    codes, first = flat(gold)
    guess, _ = flat(predicted)
    got = metrics.scores(codes, guess, first, 3)
    strictly = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    assert got["entity_micro_f1"] == pytest.approx(float(seqeval_f1(tags(gold), tags(predicted), average="micro", **strictly)))
    assert got["entity_macro_f1"] == pytest.approx(_seqeval_macro(gold, predicted, strictly))
    labels = {"labels": [1, 2, 3], "zero_division": 0}
    assert got["token_macro_f1"] == pytest.approx(sklearn_f1(word_types(codes), word_types(guess), average="macro", **labels))
    assert got["token_micro_f1"] == pytest.approx(sklearn_f1(word_types(codes), word_types(guess), average="micro", **labels))


def _seqeval_macro(gold, predicted, strictly):
    spans = [spans_from_tags(sentence) for sentence in tags(gold) + tags(predicted)]
    if not any(spans):
        return 0.0  # seqeval averages an empty list here
    return float(seqeval_f1(tags(gold), tags(predicted), average="macro", **strictly))


@given(CODES)
def test_spans_equal_those_of_the_records(pairs):
    sentences = [[p for _, p in sentence] for sentence in pairs]
    codes, first = flat(sentences)
    spans = metrics.spans_of(codes, first)
    expected, offset = [], 0
    for sentence in tags(sentences):
        expected += [(s.start + offset, s.end + offset, TYPES.index(s.type)) for s in spans_from_tags(sentence)]
        offset += len(sentence)
    assert list(zip(*(part.tolist() for part in spans), strict=True)) == expected


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=5))
def test_io_runs_become_one_mention_each(sentences):
    types, first = flat(sentences)
    codes = metrics.io_to_iob2(types, first)
    np.testing.assert_array_equal(word_types(codes), types)
    runs = sum(t != 0 and (first[i] or types[i - 1] != t) for i, t in enumerate(types))
    spans = metrics.spans_of(codes, first)
    assert len(spans.start) == runs
    assert (spans.end - spans.start).sum() == (types > 0).sum()


def scores(gold, predicted):
    codes, first = flat(gold)
    return metrics.scores(codes, flat(predicted)[0], first, 3)


def test_a_stray_inside_tag_is_no_entity_but_its_word_counts_as_token():
    got = scores([[1, 2, 0]], [[2, 2, 0]])
    assert got["entity_micro_f1"] == 0
    assert got["token_micro_f1"] == 1


def test_adjacent_mentions_of_one_type_cannot_be_told_apart_by_io_labels():
    gold, first = flat([[1, 1, 2]])  # B-a B-a I-a: two mentions
    predicted = metrics.io_to_iob2(word_types(gold), first)
    got = metrics.scores(gold, predicted, first, 3)
    assert got["token_micro_f1"] == 1
    assert got["entity_micro_f1"] == 0  # one mention of three words is neither of the two
    assert got["partial_f1"] == pytest.approx(2 * 0.5 / 3)


def test_a_mention_does_not_run_across_sentences():
    codes, first = flat([[1], [2]])
    assert metrics.spans_of(codes, first).end.tolist() == [1]


def test_empty_predictions_score_zero():
    assert set(scores([[1, 2, 0, 3]], [[0, 0, 0, 0]]).values()) == {0.0}


def test_partial_match_by_hand():
    # gold: a at 0-2, b at 3-4, a at 5-8; predicted: a at 0-2 (exact), b at 3-5 (half), c at 5-8 (wrong type)
    got = scores([[1, 2, 0, 3, 0, 1, 2, 2]], [[1, 2, 0, 3, 4, 5, 6, 6]])
    assert got["partial_f1"] == pytest.approx(2 * 1.5 / 6)


def test_partial_match_is_one_to_one():
    # one gold mention of four words, predicted as two of two words: only one half is given
    assert scores([[1, 2, 2, 2]], [[1, 2, 1, 2]])["partial_f1"] == pytest.approx(2 * 0.5 / 3)


@given(CODES)
def test_partial_match_lies_between_entity_f1_and_one(pairs):
    gold = strict([[g for g, _ in s] for s in pairs])
    got = scores(gold, [[p for _, p in s] for s in pairs])
    assert got["entity_micro_f1"] - 1e-9 <= got["partial_f1"] <= 1 + 1e-9


def test_per_type_by_hand():
    codes, first = flat([[1, 2, 0, 1, 3, 0]])
    guess, _ = flat([[1, 2, 0, 0, 3, 1]])
    got = metrics.per_type(codes, guess, first, TYPES)
    assert got["a"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2, "token_f1": pytest.approx(4 / 6)}
    assert got["b"]["f1"] == 1
    assert got["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0, "token_f1": 0}


def test_unseen_share():
    assert metrics.unseen_share([(("a",), "x")], [(("a",), "x"), (("a",), "y"), (("b",), "x"), (("a",), "x")]) == 0.5


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=6), min_size=1, max_size=5))
def test_predicted_tags_made_strict_lose_no_word_and_join_no_two_mentions(sentences):
    codes, first = flat(sentences)
    closed = metrics.close_up(codes, first)
    np.testing.assert_array_equal(word_types(closed), word_types(codes))
    assert ((closed % 2 == 1) >= (codes % 2 == 1)).all()  # every B- stays
    spans = metrics.spans_of(closed, first)
    assert (spans.end - spans.start).sum() == (codes > 0).sum()
