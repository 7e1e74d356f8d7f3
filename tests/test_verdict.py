"""Which replies are kept and which are asked for once more: recorded ones are kept, damaged ones are not."""

import random

import pytest
from llm_serving import demo_rows

from nuner_jax.annotate.verdict import judge
from nuner_jax.demo.llm_server import spoil

TEXT = "Marie Curie won the Nobel Prize in Paris in 1911."


def verdict(reply, finish_reason="stop", tokens: int | None = 10, texts=(TEXT,), max_tokens=1024):
    found = judge(texts, reply, finish_reason, tokens, max_tokens)
    return found.name, found.final


def test_recorded_replies_are_kept_and_damaged_ones_are_not():
    rng = random.Random(0)
    kept, damaged = 0, 0
    rows = demo_rows(300)
    for row in rows:
        kept += verdict(row["reply"], texts=(row["text"],)) == ("ok", True)
        for kind in ("garbled", "huge", "empty", "cut"):
            reply, finish_reason = spoil(kind, row["reply"], rng.random())
            damaged += verdict(reply, finish_reason, texts=(row["text"],)) == (kind, False)
        other = rng.choice([r for r in rows if r is not row])
        shuffled = "".join(rng.sample(row["reply"], len(row["reply"])))
        for reply in (other["reply"], row["reply"][::-1], shuffled, row["reply"] + "\ufffd", (row["reply"] + "\n") * 9):
            damaged += verdict(reply, texts=(row["text"],)) == ("garbled", False)
    assert kept == 300
    assert damaged >= 0.99 * 9 * 300


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Marie Curie <> person", ("ok", True)),
        ("Here are the entities:\n1. Marie Curie <> person <> x\n2. radium <> element <> x", ("ok", True)),
        ("There are no meaningful entities in the input text.", ("ok", True)),
        ("I'm sorry, but I cannot help with that.", ("ok", True)),
        ("None", ("ok", True)),
        ("I like trains.", ("garbled", False)),
        ("radium <> element\npolonium <> element\nMarie Curie <> person", ("garbled", False)),
        ("   \n\n", ("empty", False)),
        ("Marie \x07Curie <> person", ("garbled", False)),
    ],
)
def test_what_a_reply_of_a_kind_is_worth(reply, expected):
    assert verdict(reply) == expected


def test_a_cut_is_final_only_where_the_reply_used_up_its_tokens():
    long = "Marie Curie <> person <> people\n" * 20
    assert verdict(long, "length", tokens=128, max_tokens=128) == ("cut", True)
    assert verdict(long, "length", tokens=60, max_tokens=128) == ("cut", False)
    assert verdict(long, "length", tokens=None, max_tokens=128) == ("cut", False)
    assert verdict("Marie", "length", tokens=128, max_tokens=128) == ("cut", False)
    assert verdict("", "content_filter") == ("filtered", True)


def test_a_reply_about_several_sentences_must_have_a_section_for_each():
    texts = (TEXT, "Berlin lies on the Spree.")
    assert verdict("### 1\nMarie Curie <> person\n### 2\nBerlin <> city", texts=texts) == ("ok", True)
    assert verdict("### 1\nMarie Curie <> person", texts=texts) == ("partial", False)
    odd = (TEXT, "Berl\ufffdn lies on the Spree.")  # as text that is not UTF-8 is read
    assert verdict("### 1\nMarie Curie <> person\n### 2\nBerl\ufffdn <> city", texts=odd) == ("ok", True)
