import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.annotate.sentences import split_lines, split_sentences


def split(text):
    return [text[start:end] for start, end in split_sentences(text)]


def test_sentences_of_english_prose():
    text = 'Mr. Smith paid $3.50 to Acme Inc. in Washington.  It wasn\'t much… "Really?" asked Dr. Jones at 5 p.m. on Friday.'
    assert split(text)[0] == "Mr. Smith paid $3.50 to Acme Inc. in Washington."
    assert " ".join(split(text)) == " ".join(text.split())


def test_contractions_are_not_rewritten():
    assert split("He wasn't there. She can't come.") == ["He wasn't there.", "She can't come."]


def test_a_line_break_ends_a_sentence():
    assert split("A heading\nThe text begins.\r\n- an item\n\n") == ["A heading", "The text begins.", "- an item"]


@pytest.mark.parametrize("text", ["", " \n\t ", "\r\n"])
def test_blank_text_has_no_sentence(text):
    assert split(text) == []


pieces = "Dr.|Smith|wasn't|e.g.|3.5|U.S.|“Yes.”|(see|p.|7)|北京。|مرحبا؟|a\u0301|👍🏽|…|Why?!|The|end.|it's|don’t.|--|1.|http://a.b/c.d?e.|''"
blanks = ["\n", "\n\n", "\u2028", "\xa0", "\t", "\u200b"]
prose = st.lists(st.sampled_from([*pieces.split("|"), *blanks]), max_size=30).map(" ".join)


@given(prose | st.text(max_size=200))
def test_sentences_are_slices_that_hold_all_but_blanks(text):
    spans = list(split_sentences(text))
    ends = [0, *(end for _, end in spans)]
    assert all(end <= start for end, (start, _) in zip(ends, spans, strict=False))
    assert all(text[start:end] and text[start:end] == text[start:end].strip() for start, end in spans)
    assert "".join("".join(text[start:end].split()) for start, end in spans) == "".join(text.split())
    assert [s for line in split_lines(text) for s in spans if line[0] <= s[0] and s[1] <= line[1]] == spans
