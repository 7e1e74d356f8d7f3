import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.annotate.prompt import PROMPT, last_section, render, render_several, sentences_of, split_reply, version


def test_prompt_is_the_papers_word_for_word():
    # SHA-256 of the prompt as printed in arXiv 2402.15343, blanks and line ends as single blanks.
    words = " ".join(PROMPT.split())
    assert words.startswith("The goal is to create a dataset for entity recognition. Label as many entities, concepts, and")
    assert words.endswith("entity from the text <> entity concept <> description of entity group/concept Input: [INPUT SENTENCE]")
    assert hashlib.sha256(words.encode()).hexdigest()[:16] == "7828798a24bc4b5f"


def test_version_tells_the_two_prompts_apart():
    assert version() != version(8)
    assert version(2) == version(8)


@given(st.text())
def test_a_sentence_comes_back_from_its_request(sentence):
    assert sentences_of(render(sentence)) == [sentence]


@given(st.lists(st.text() | st.sampled_from(["### 1", "a\n### 2\nb", "#### 2", "\n", ""]), min_size=2, max_size=6))
def test_several_sentences_come_back_from_their_request(sentences):
    assert sentences_of(render_several(sentences)) == sentences


def test_a_foreign_request_is_refused():
    with pytest.raises(ValueError, match="prompt of this version"):
        sentences_of("Translate this sentence.")


def test_reply_sections_are_told_apart():
    reply = "### 1\nParis <> city <> towns\n### 2\nRome <> city <> towns\nPo <> river <> waters\n### 3\n"
    assert split_reply(reply, 3) == ["Paris <> city <> towns\n", "Rome <> city <> towns\nPo <> river <> waters\n", ""]


@pytest.mark.parametrize("mark", ["**### {}**", "## {}:", "### Text {}", "#### {} ####", "- ### {}"])
def test_decorated_section_lines_count(mark):
    reply = f"Sure!\n{mark.format(1)}\nParis <> city\n{mark.format(2)}\nRome <> city"
    assert split_reply(reply, 2) == ["Paris <> city\n", "Rome <> city"]


def test_missing_and_out_of_range_sections():
    assert split_reply("### 2\nRome <> city", 3) == [None, "Rome <> city", None]
    assert split_reply("Paris <> city\n### 2\nRome <> city", 2) == ["Paris <> city\n", "Rome <> city"]
    assert split_reply("### 7\nRome <> city", 2) == [None, None]  # nobody can say whose entities these are
    assert split_reply("### 1\nA <> b\n### 2\nC <> d\n### 1\nE <> f", 2) == ["A <> b\n\nE <> f", "C <> d\n"]
    assert split_reply("", 2) == [None, None]


def test_one_sentence_owns_the_whole_reply():
    assert split_reply("### 1\nParis <> city", 1) == ["### 1\nParis <> city"]


def test_last_section_is_the_one_a_cut_hurts():
    assert last_section("### 1\nParis <> city\n### 2\nRo", 3) == 1
    assert last_section("Paris <> ci", 3) == 0


@given(st.text(), st.integers(2, 5))
def test_any_reply_can_be_split(reply, count):
    assert len(split_reply(reply, count)) == count
    assert 0 <= last_section(reply, count) < count
