"""Concept names are normalised, filtered and numbered; overlapping spans of one concept are united."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.dataset.concepts import clean, merge_spans, normalise_concept
from nuner_jax.schema import AnnotatedText, Mention


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (' "The Movie_Title." ', "movie title"),
        ("Food  item", "food item"),
        ("a", "a"),
        ("An event", "event"),
        ("(person)", "person"),
        ("C++ library", "c++ library"),
        ("Cafe\u0301", "caf\u00e9"),
        ("...", ""),
        ('the "movie"', "movie"),
        ("A (film) title", "film) title"),
    ],
)
def test_normalised(raw, expected):
    assert normalise_concept(raw) == expected


def test_the_papers_filter_drops_the_sentence_and_counts_it():
    record = AnnotatedText("Time flies", (Mention(0, 4, "Concept"), Mention(5, 10, "action")))
    counts = Counter()
    assert clean(record, True, counts) is None
    assert counts == {'sentence: has the concept "concept"': 1}
    assert clean(record, False, counts).mentions[0].concept == "concept"


def test_empty_concepts_and_duplicates_are_counted():
    record = AnnotatedText("Rome", (Mention(0, 4, "City"), Mention(0, 4, "city."), Mention(0, 4, "--"), Mention(0, 4, "place")))
    counts = Counter()
    assert [m.concept for m in clean(record, False, counts).mentions] == ["city", "place"]
    assert counts == {"mention: duplicate": 1, "mention: empty concept": 1}


def test_what_has_no_utf8_form_is_dropped_and_counted():
    counts = Counter()
    assert clean(AnnotatedText("half \ud800 a pair"), False, counts) is None
    bad = (Mention(0, 4, "city \ud800"), Mention(0, 4, "place", "where \udfff"))
    assert clean(AnnotatedText("Rome \u00e9", (*bad, Mention(0, 4, "caf\u00e9"))), False, counts).mentions == (
        Mention(0, 4, "caf\u00e9"),
    )
    assert counts == {"sentence: not valid Unicode": 1, "mention: not valid Unicode": 2}


spans = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5), st.sampled_from("ab")).map(lambda s: (s[0], s[0] + s[1], s[2])))


@given(spans)
def test_merged_spans_cover_the_same_tokens_once(rows):
    merged = merge_spans(rows)
    tokens = [(i, concept) for first, last, concept in merged for i in range(first, last + 1)]
    assert len(tokens) == len(set(tokens))
    assert set(tokens) == {(i, concept) for first, last, concept in rows for i in range(first, last + 1)}
