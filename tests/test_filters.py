import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.annotate.corpus import Document, read_corpus
from nuner_jax.annotate.filters import Fingerprints, Seen, select, unfit

GOOD = [
    "The council of Ghent approved the new tram line on Tuesday evening.",
    "Her grandmother baked rye bread in a wood-fired oven every Saturday.",
    "Astronomers at the observatory measured the rotation of a distant comet.",
    "Le maire de Lyon a inauguré le musée de la soie hier matin.",
    "Сегодня утром в Киеве открылась выставка старых карт.",
    "北京大学的研究人员昨天发布了一种新的语言模型。",
]


def run(texts, **options):
    counts = Counter()
    documents = [Document(f"d{i}", text, "s") for i, text in enumerate(texts)]
    return list(select(documents, counts, **options)), counts


@pytest.mark.parametrize("sentence", GOOD)
def test_sentences_of_any_language_pass(sentence):
    assert unfit(sentence) == ""


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("Read more here.", "too short"),
        ("点击这里", "too short"),
        ("word " * 400 + "end", "too long"),
        ("a b " * 100 + "c.", "too long"),
        ("12:30 | 45.00 | 99-1 | 23/11 | 7 8 9 10", "few letters"),
        ("if (x == null) return getElementById then go on", "code or markup"),
        ("Lorem ipsum dolor sit amet consectetur adipiscing elit.", "code or markup"),
        ("Please enable JavaScript to view the comments on this page.", "code or markup"),
        ("See <b>the</b> new list of items for sale today", "code or markup"),
        ("BUY NOW AND SAVE ON ALL OF OUR NEW SHOES", "capitals"),
        ("Home About Us Our Team Services Contact Blog Privacy Terms Sitemap", "capitals"),
        ("very good very good very good very good very good very good", "repetitive"),
        ("x y z q w e r t p", "odd words"),
    ],
)
def test_what_is_no_sentence_is_told_why(sentence, reason):
    assert unfit(sentence) == reason


def test_duplicates_go_exact_and_near():
    seen = Seen()
    long = "The quick brown fox of Ghent jumped over the lazy old dog of Bruges while nobody was there to watch it at all"
    assert seen.repeats(long) == ""
    assert seen.repeats(long) == "duplicate"
    assert seen.repeats(long.upper() + "!!") == "duplicate"
    assert seen.repeats(long.replace("watch", "see")) == "near duplicate"
    assert [seen.repeats(sentence) for sentence in GOOD] == [""] * len(GOOD)


def test_boilerplate_with_other_numbers_is_a_duplicate():
    seen = Seen()
    assert seen.repeats("This entry was posted on May 3, 2011 at 10:15 pm.") == ""
    assert seen.repeats("This entry was posted on May 9, 2018 at 07:42 pm.") == "duplicate"


def test_unrelated_sentences_are_hardly_ever_near_duplicates():
    seen, counts = Seen(), Counter()
    assert [seen.repeats(d.text) for d in read_corpus("demo", counts)].count("near duplicate") < 7  # of 1,400


def test_fingerprints_forget_only_when_a_bucket_is_full():
    table = Fingerprints(1 << 12)
    rng = random.Random(0)
    numbers = [rng.getrandbits(64) or 1 for _ in range(500)]
    assert [table.add(n) for n in numbers] == [False] * 500
    assert all(table.add(n) for n in numbers)
    for _ in range(50_000):
        table.add(rng.getrandbits(64) or 1)
    assert sum(table.add(n) for n in numbers) < 10
    assert table._buckets.nbytes == 8 << 12


@given(st.lists(st.integers(1, 2**64 - 1), max_size=40))
def test_fingerprints_are_a_set_while_there_is_room(numbers):
    table, known = Fingerprints(1 << 16), set()
    for n in numbers:
        assert table.add(n) is (n in known)
        known.add(n)


def test_one_sentence_a_document_by_default():
    texts = [" ".join(GOOD[:3]), "\n".join(GOOD[3:])]
    sentences, counts = run(texts)
    assert len(sentences) == 2
    for sentence in sentences:
        number, start = sentence.id.split(":")
        text = texts[int(number[1:])]
        assert text[int(start) : int(start) + len(sentence.text)] == sentence.text
        assert sentence.text in GOOD
    assert counts == Counter({"document: read": 2, "sentence: taken": 2})


def test_the_choice_depends_on_the_seed_and_on_nothing_else():
    text = " ".join(GOOD[:5])
    first = run([text, "Another text stands in front of nothing here."])[0][0]
    assert run([text])[0][0] == first
    assert len({run([text], seed=seed)[0][0].text for seed in range(20)}) > 2


def test_more_sentences_a_document_come_in_its_order():
    text = "\n".join(GOOD)
    assert [s.text for s in run([text], per_document=0)[0]] == GOOD
    three = [s.text for s in run([text], per_document=3)[0]]
    assert len(three) == 3
    assert three == sorted(three, key=GOOD.index)
    assert len(run([" ".join(GOOD[:3])], per_document=2)[0]) == 2


def test_an_unfit_or_repeated_choice_is_replaced_by_another():
    text = "Read more. " + GOOD[0] + " Click here."
    sentences, counts = run([text, text])
    assert [s.text for s in sentences] == [GOOD[0]]
    assert counts["sentence: duplicate"] == 1
    assert counts["document: no sentence left"] == 1


def test_without_split_and_filters_every_text_stands_as_it_is():
    texts = ["Read more.", GOOD[0] + " " + GOOD[1], "Read more.", "  "]
    sentences, counts = run(texts, split=False, filters=False)
    assert [(s.text, s.id, s.source) for s in sentences] == [(text, f"d{i}", "s") for i, text in enumerate(texts[:3])]
    assert counts["document: no sentence left"] == 1
    assert [s.text for s in run(texts, filters=False)[0]] == ["Read more.", *GOOD[:2], "Read more."]
    assert [s.text for s in run(texts, split=False)[0]] == [texts[1]]


def test_limit():
    assert len(run(GOOD, limit=2)[0]) == 2
    assert len(run(["\n".join(GOOD)], limit=2, per_document=0)[0]) == 2


def test_a_line_is_chosen_by_its_length():
    short = "Tap on this to go back up."
    long = " ".join(f"{name} {GOOD[0]} {GOOD[1]} {GOOD[2]}" for name in ("Now", "Then", "Later"))
    chosen = [run([f"{short}\n{long}"], seed=seed)[0][0].text for seed in range(100)]
    assert chosen.count(short) < 20
