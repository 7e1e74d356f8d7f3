"""The prompts word for word, and what is read out of answers: right, untidy, malformed, declined, cut."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.annotate.align import Annotation
from nuner_jax.evaluate import prompts

ZERO = """You are an expert in named entity recognition (NER).
You are given a paragraph and find the named entities in it.
Each entity has one of these labels: person, place.
A span that one might take for an entity but that is none has the label ==NONE==.

The labels are defined as follows; keep to the definitions:
place: a town or a country

The paragraph below shows the form of an answer, with other labels than yours. Use its form and your labels.
Answer in this form only, with the entities in the order in which they stand in the paragraph.

Q: List the entities of the paragraph, and say for each why it is or is not an entity.

Paragraph: The night ferry to Oban was cancelled after strong winds had damaged its bow door.
Answer:
1. night ferry | True | VEHICLE | is a ship that carries people
2. Oban | True | PLACE | is the town that the ferry goes to
3. strong winds | False | ==NONE== | is weather, no thing with a label
4. bow door | True | PART | is a part of the ferry

Paragraph: Ada lives in Paris .
Answer:
"""

FEW = """You are an expert in named entity recognition (NER).
You are given a paragraph and find the named entities in it.
Each entity has one of these labels: person, place.
A span that one might take for an entity but that is none has the label ==NONE==.

Q: List the entities of the paragraph, and say for each why it is or is not an entity.

Paragraph: Kurt left Vienna .
Answer:
1. Kurt | True | person | is a person
2. Vienna | True | place | is a place

Paragraph: It rains .
Answer:
(no entities)

Paragraph: Ada lives in Paris .
Answer:
"""

UNIVERSALNER = (
    "A virtual assistant answers questions from a user based on the provided text. USER: Text: Ada lives in Paris . ASSISTANT: "
    "I've read this text.</s>USER: What describes person in the text? ASSISTANT:"
)


def test_the_prompts_word_for_word():
    text = "Ada lives in Paris ."
    assert prompts.ner_prompt(text, {"person": "", "place": "a town or a country"}) == ZERO
    examples = [
        prompts.Example("Kurt left Vienna .", [("Kurt", "person"), ("Vienna", "place")]),
        prompts.Example("It rains .", []),
    ]
    assert prompts.ner_prompt(text, {"person": "", "place": ""}, examples) == FEW
    assert prompts.universalner_prompt(text, "person") == UNIVERSALNER


LABELS = ["person", "cooking technique"]


@pytest.mark.parametrize(
    ("reply", "verdict", "found", "notes"),
    [
        ("1. Ada | True | person | is a person", "ok", [("Ada", "person")], {}),
        ("Ada | true | PERSON", "ok", [("Ada", "person")], {}),
        ("- boil | True | cooking_technique | a | b", "ok", [("boil", "cooking technique")], {}),
        ("1. Ada | False | ==NONE== | no\n2. Bo | True | ==NONE== | no", "ok", [], {}),
        (
            "1. Ada | True | dog | is\n2. Bo | True | person | is",
            "ok",
            [("Bo", "person")],
            {"label that the task does not have": 1},
        ),
        ("Here they are:\n1. Bo | True | person | is", "ok", [("Bo", "person")], {"line in another form": 1}),
        ("(no entities)", "ok", [], {}),
        ("There are no named entities in this paragraph.", "ok", [], {}),
        ("  \n", "ok", [], {}),
        ("I'm sorry, but I cannot help with that.", "declined", [], {}),
        ("person: Ada", "malformed", [], {}),
        ('{"entities": ["Ada"]}', "malformed", [], {}),
        ("1. Ada | person", "malformed", [], {}),
    ],
)
def test_answers_to_the_ner_prompt(reply, verdict, found, notes):
    answer = prompts.read_ner(reply, LABELS)
    assert answer == prompts.Answer(verdict, tuple(Annotation(*pair) for pair in found), Counter(notes))


def test_of_a_cut_answer_the_whole_lines_count():
    reply = "1. Ada | True | person | is\n2. Bo | True | person"
    assert prompts.read_ner(reply, LABELS, "length").annotations == (Annotation("Ada", "person"),)
    assert prompts.read_ner(reply, LABELS, "length").verdict == "cut"
    assert prompts.read_universalner('["Ada", "B', "person", "length") == prompts.Answer("cut", (), Counter())
    assert prompts.read_ner("", LABELS, "content_filter").verdict == "filtered"


@pytest.mark.parametrize(
    ("reply", "verdict", "strings"),
    [
        ('["Ada", "Bo"]', "ok", ["Ada", "Bo"]),
        ('Sure: ["Ada [sic]", "Ada [sic]"] and so on', "ok", ["Ada [sic]"]),
        ("[]", "ok", []),
        ("[1, 2]", "malformed", []),
        ("['Ada']", "malformed", []),
        ("", "malformed", []),
        ("none", "malformed", []),
        ("I cannot say", "declined", []),
        ("[" * 5000, "malformed", []),
    ],
)
def test_answers_of_universalner(reply, verdict, strings):
    answer = prompts.read_universalner(reply, "person")
    assert (answer.verdict, [a.mention for a in answer.annotations]) == (verdict, strings)


def test_a_set_of_strings_stands_wherever_the_text_has_them_in_its_own_case():
    spans, notes = prompts.every_occurrence("Ada met ADAM and Ada", [Annotation("ada", "p"), Annotation("Bo", "p")])
    assert spans == [(0, 3, "p"), (17, 20, "p")]
    assert notes == {"not in text": 1}


@given(st.text(max_size=80), st.sampled_from(["stop", "length", "content_filter"]))
def test_no_answer_breaks_the_reader(reply, finish_reason):
    for answer in (prompts.read_ner(reply, LABELS, finish_reason), prompts.read_universalner(reply, "person", finish_reason)):
        assert answer.verdict in ("ok", "cut", "filtered", "declined", "malformed")
        assert all(a.concept in [*LABELS, "person"] for a in answer.annotations)


WORD = st.text("abcé-'1", min_size=1, max_size=5)


@given(st.lists(st.tuples(WORD, st.sampled_from(LABELS)), max_size=5))
def test_what_an_example_shows_is_read_back(mentions):
    shown = prompts.ner_prompt("x", dict.fromkeys(LABELS, ""), [prompts.Example("t", mentions)])
    answer = prompts.read_ner(shown.split("\nAnswer:\n")[1].split("\n\nParagraph")[0], LABELS)
    assert [(a.mention, a.concept) for a in answer.annotations] == mentions
    assert not answer.notes
