from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.annotate.align import Annotation, align, is_boundary, locate, occurs


def spans(text, *annotations):
    mentions, dropped = align(text, [Annotation(*a) for a in annotations])
    return [(m.start, m.end, m.concept) for m in mentions], dropped


def test_repeated_mentions_take_successive_occurrences():
    text = "Paris, Rome and Paris"
    found, dropped = spans(text, ("Paris", "city"), ("Rome", "city"), ("Paris", "city"))
    assert found == [(0, 5, "city"), (7, 11, "city"), (16, 21, "city")]
    assert not dropped


def test_an_occurrence_before_the_previous_mention_is_taken_when_none_follows():
    found, dropped = spans("Rome before Paris", ("Paris", "a"), ("Rome", "b"))
    assert found == [(0, 4, "b"), (12, 17, "a")]
    assert not dropped


def test_the_occurrence_after_the_previous_mention_comes_first():
    text = "New York University is in New York"
    assert spans(text, ("New York University", "school"), ("New York", "city"))[0] == [(0, 19, "school"), (26, 34, "city")]


def test_overlaps_are_kept():
    text = "the University of New York"
    assert spans(text, ("University of New York", "school"), ("New York", "city"))[0] == [(4, 26, "school"), (18, 26, "city")]


def test_one_span_may_have_two_concepts_but_not_one_twice():
    found, dropped = spans("Paris is old", ("Paris", "city"), ("Paris", "capital"), ("Paris", "city"))
    assert found == [(0, 5, "city"), (0, 5, "capital")]
    assert dropped == Counter(duplicate=1)


def test_matching_is_case_sensitive_and_the_missing_are_counted():
    assert spans("apple pie", ("Apple", "company"), ("banana", "fruit")) == ([], Counter({"not in text": 2}))


def test_inside_a_word_is_not_found():
    assert spans("a category of cats", ("cat", "animal")) == ([], Counter({"not at word boundary": 1}))
    assert spans("a category of cat", ("cat", "animal"))[0] == [(14, 17, "animal")]


@pytest.mark.parametrize(
    ("text", "mention", "found"),
    [
        ("the user_id field", "user", False),
        ("the user_id field", "user_id", True),
        ("the _Paris_ agreement", "Paris", True),  # emphasis
        ("call __init__ first", "__init__", True),
        ("version 2 of v2", "2", True),
        ("born 1984", "198", False),
        ("Paris's mayor", "Paris", True),
        ("a co-op store", "op", True),  # a hyphen divides words
        ("cafe\u0301 noir", "cafe", False),  # the accent belongs to the e
        ("cafe\u0301 noir", "cafe\u0301", True),
        ("naïve art", "na", False),
        ("我在北京大学学习", "北京大学", True),  # Han has no blanks
        ("iPhone手机很好", "iPhone", True),
        ("iPhone15手机", "iPhone", False),
        ("ราคาบ้านในกรุงเทพ", "กรุงเทพ", True),
        ("서울에서 만나요", "서울", True),  # a particle follows the noun
        ("東京タワーへ行く", "東京タワー", True),
        ("זה ספר טוב", "ספר", True),
        ("זה הספר הטוב", "ספר", False),  # Hebrew is written with blanks
        ("می‌خواهم بروم", "خواهم", False),  # joined by a zero-width non-joiner
        ("a 👩‍👩‍👧 family", "👩", False),  # part of one emoji
        ("a 👩‍👩‍👧 family", "👩‍👩‍👧", True),
        ("thumbs 👍🏽 up", "👍", False),  # a skin tone follows
        ("I love🍕and🍺", "🍕", True),
        ("हिन्दी भाषा", "हिन्दी", True),
        ("हिन्दी भाषा", "हिन", False),
    ],
)
def test_word_boundaries(text, mention, found):
    assert occurs(text, mention) is found


def test_typography_is_forgiven_only_where_the_text_lacks_the_literal_form():
    assert locate("the expert’s “view”", "expert's") == [4]
    assert locate("a\u00a0blank new\nline", "new line") == [8]
    assert locate("don't or don’t", "don't") == [0]
    assert locate("1990–1995", "1990-1995") == [0]


def test_blank_mentions_are_nowhere():
    assert spans("a  b", (" ", "blank"), ("", "empty")) == ([], Counter({"not in text": 2}))


letters = st.text(st.sampled_from("ab _-é\u0301北👍\u200d."), max_size=12)


@given(letters, st.lists(st.tuples(letters, st.sampled_from("xyz")), max_size=8))
def test_every_annotation_is_located_or_counted(text, annotations):
    annotations = [Annotation(m, c) for m, c in annotations]
    mentions, dropped = align(text, annotations)
    assert len(mentions) + dropped.total() == len(annotations)
    assert Counter((text[m.start : m.end], m.concept) for m in mentions) <= Counter((m, c) for m, c, _ in annotations)
    assert len({(m.start, m.end, m.concept) for m in mentions}) == len(mentions)
    assert all(is_boundary(text, m.start) and is_boundary(text, m.end) for m in mentions)
    assert [(m.start, -m.end) for m in mentions] == sorted((m.start, -m.end) for m in mentions)


@given(st.lists(st.from_regex(r"[A-Z][a-z]{1,6}", fullmatch=True), min_size=1, max_size=10))
def test_words_listed_in_order_are_found_in_their_places(words):
    text = " ".join(words)
    mentions, dropped = align(text, [Annotation(word, "word") for word in words])
    assert [text[m.start : m.end] for m in mentions] == words
    assert not dropped


def test_a_line_repeated_whole_is_a_slip_unless_a_further_occurrence_follows():
    text = "Rome and Paris, then Rome"
    found, dropped = spans(text, ("Rome", "city"), ("Paris", "city"), ("Rome", "city"), ("Rome", "city"))
    assert found == [(0, 4, "city"), (9, 14, "city"), (21, 25, "city")]
    assert dropped == Counter(duplicate=1)
    found, dropped = spans("Rome fell, Rome rose in Italy", ("Rome", "city"), ("Italy", "country"), ("Rome", "city"))
    assert found == [(0, 4, "city"), (24, 29, "country")]
    assert dropped == Counter(duplicate=1)
