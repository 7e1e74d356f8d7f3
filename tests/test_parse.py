import json
import random
from collections import Counter
from importlib import resources

import pytest
from corruption import corrupt
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.annotate.align import Annotation
from nuner_jax.annotate.parse import annotate_reply, parse_reply

TEXT = 'On 3 May the "German Church" in New York paid 5 dollars to NASA, said O\'Neil.'


def read(reply, text: str | None = TEXT, **options):
    return [tuple(a) for a in parse_reply(reply, text, **options).annotations]


@pytest.fixture(scope="module")
def recorded():
    path = resources.files("nuner_jax") / "demo" / "data" / "replies.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


def found(text, reply):
    return {(m.start, m.end, m.concept) for m in annotate_reply(text, reply)[0].mentions}


def test_the_asked_format():
    reply = "NASA <> space agency <> agencies that fly to space\nNew York <> city <> large towns"
    assert read(reply) == [("NASA", "space agency", "agencies that fly to space"), ("New York", "city", "large towns")]
    assert read(reply, text=None) == read(reply)


@pytest.mark.parametrize("text", [TEXT, None])
@pytest.mark.parametrize(
    "line",
    [
        "New York <> city <> towns",
        "New York<>city<>towns",
        "  New York  <>  city  <>  towns  ",
        "1. New York <> city <> towns",
        "12) New York <> city <> towns",
        "(3) New York <> city <> towns",
        "[4] New York <> city <> towns",
        "- New York <> city <> towns",
        "• New York <> city <> towns",
        "* **New York** <> *city* <> towns",
        "1. **New York** <> city <> towns",
        '"New York" <> "city" <> "towns"',
        '"New York <> city <> towns"',
        "“New York” <> city <> towns",
        "`New York` <> `city` <> towns",
        'New York" <> city <> towns',
        "[New York] <> [city] <> towns",
        "New York < > city < > towns",
        "New York -> city -> towns",
        "New York->city->towns",
        "New York → city → towns",
        "New York => city => towns",
        "New York <> city -> towns",
        "New York -> city <> towns",
        "New York <> city: towns",
        "New York <> city - towns",
        "New York &lt;&gt; city &lt;&gt; towns",
        "| New York | city | towns |",
        '["New York", "city", "towns"],',
        '"New York","city","towns"',
        '{"entity": "New York", "concept": "city", "description": "towns"}',
        '```json\n[\n  {\n    "entity": "New York",\n    "type": "city",\n    "description": "towns"\n  }\n]\n```',
        '{"entities": [\n["New York", "city", "towns"]\n]}',
        "a. New York <> city <> towns",
        "(iv) New York <> city <> towns",
        "<li>New York <> city <> towns</li>",
        "<entity>New York</entity> <> city <> towns",
        "| 7 | New York | city | towns |",
        "New York | city | towns",
        "Entity: New York <> Concept: city <> Description: towns",
        "Entity: New York\nConcept: city\nDescription: towns",
        "1. **New York**\n   - **Type:** city\n\n   - *Description*: towns",
        "\ufeffNew York <> city <> towns\u200b",
    ],
)
def test_many_spellings_of_one_line(line, text):
    assert read(line, text) == [("New York", "city", "towns")]


@pytest.mark.parametrize(
    "line",
    [
        "New York: city - towns",
        "New York :: city :: towns",
        "New York - city - towns",
        "New York\tcity\ttowns",
        "2. New York: city: towns",
    ],
)
def test_weak_separators_need_the_text(line):
    assert read(line) == [("New York", "city", "towns")]
    assert read(line, text=None) == []
    assert read(line, text="Nothing of the kind.") == []


def test_weak_separators_are_chatter_beside_proper_lines():
    parsed = parse_reply("NASA: here is what I found.\nNew York <> city", TEXT)
    assert [a.mention for a in parsed.annotations] == ["New York"]
    assert parsed.rejected == Counter(chatter=1)


def test_a_missing_description_is_no_fault():
    assert read("New York <> city") == read("New York <> city <>") == [("New York", "city", "")]


def test_what_is_no_annotation_is_counted_by_reason():
    reply = "\n".join(
        [
            "Here are the entities:",
            "```",
            "entity from the text <> entity concept <> description of entity group/concept",
            "| Entity | Concept | Description |",
            "|---|---|---|",
            f"Input: {TEXT}",
            " <> city <> towns",
            "NASA <> <> agencies",
            "NASA <> " + "very " * 30 + "long <> agencies",
            "NASA <> space agency <> agencies",
            "Hope this helps!",
        ]
    )
    parsed = parse_reply(reply, TEXT)
    assert [a.mention for a in parsed.annotations] == ["NASA"]
    once = dict.fromkeys(["input echo", "empty mention", "empty concept", "long concept"], 1)
    assert parsed.rejected == Counter({"chatter": 2, "markup": 2, "format echo": 2, **once})


def test_the_text_settles_whose_the_signs_are():
    assert read("<> <> operator <> comparison", "SQL has a <> operator") == [("<>", "operator", "comparison")]
    assert read("a <> b <> expression <> code", "if a <> b then stop") == [("a <> b", "expression", "code")]
    assert read("x -> y <> mapping", "the map x -> y is linear") == [("x -> y", "mapping", "")]
    assert read("1. FC Köln <> club", "the 1. FC Köln won") == [("1. FC Köln", "club", "")]
    assert read("1. Köln <> city", "the 1. FC Köln won in Köln") == [("Köln", "city", "")]
    assert read("(NASA) <> agency", "the agency (NASA) said") == [("(NASA)", "agency", "")]
    assert read("[NASA] <> agency", "NASA said") == [("NASA", "agency", "")]
    assert read('12" <> size', 'a 12" pipe') == [('12"', "size", "")]
    assert read("'O'Neil' <> person") == [("O'Neil", "person", "")]
    assert read("dogs' <> owner", "the dogs' bowl") == [("dogs'", "owner", "")]


def test_quotes_around_a_mention_are_no_part_of_it():
    assert read('"German Church" <> church') == [("German Church", "church", "")]
    assert read('"Fast" and "Furious" <> films', 'saw "Fast" and "Furious" today') == [('"Fast" and "Furious"', "films", "")]


def test_a_sentence_with_instructions_or_separators_is_not_taken_for_an_answer():
    text = "Ignore this and answer: Paris <> city <> capitals"
    parsed = parse_reply(f"{text}\nParis <> city <> capitals\nParis <> capital", text)
    assert parsed.rejected == Counter({"input echo": 2})  # nobody can tell the second line from a repetition of the sentence
    assert [tuple(a) for a in parsed.annotations] == [("Paris", "capital", "")]


def test_a_reply_cut_by_length_keeps_its_whole_lines_and_is_marked():
    parsed = parse_reply("NASA <> agency <> x\nNew York <> ci", TEXT, finish_reason="length")
    assert [a.mention for a in parsed.annotations] == ["NASA"]
    assert parsed.truncated
    assert parsed.rejected == Counter(truncated=1)
    whole = parse_reply("NASA <> agency <> x\nNew York <> city\n", TEXT, finish_reason="length")
    assert len(whole.annotations) == 2
    assert whole.truncated


def test_an_unmarked_cut_is_noticed():
    lines = ["NASA <> agency <> who fly", "5 dollars <> money <> sums", "New York <> ci"]
    parsed = parse_reply("\n".join(lines), TEXT)
    assert [a.mention for a in parsed.annotations] == ["NASA", "5 dollars"]
    assert parsed.truncated
    undescribed = parse_reply("NASA <> agency\n5 dollars <> money\nNew York <> city", TEXT)
    assert len(undescribed.annotations) == 3


@pytest.mark.parametrize(
    ("reply", "cut"),
    [
        ("NASA <> space agency\nNew York <> ci", True),  # the beginning of a word, though nothing has a description
        ("New York <> ci", True),
        ("NASA <> agency <> a\n5 dollars <> money <> b\nNew York <> city", False),  # a whole word
        ("NASA <> agency <> a\n5 dollars <> money <> b\nNew York <> fine city\n", False),
        ("NASA <> agency <> a\n5 dollars <> money <> b\nNew York <> ci <>", False),
        ("5 dollars <> quux <> a\nNASA <> agency <> b\nNew York <> old quux", False),  # a word of this reply
        ("NASA <> agency\n5 dollars <> money\nNew York <> quux", False),  # unknown, where nothing has a description
        ("NASA <> agency <> a\n5 dollars <> money <> b\nNew York <> quux", True),  # unknown, where all have one
    ],
)
def test_a_last_line_without_description_is_whole_if_its_concept_ends_with_a_whole_word(reply, cut):
    parsed = parse_reply(reply, TEXT)
    assert parsed.truncated == cut
    assert len(parsed.annotations) == len(reply.splitlines()) - cut


def test_reasoning_is_set_aside():
    reply = "<think>\nParis <> city <> maybe\n</think>\nNASA <> agency <> x"
    parsed = parse_reply(reply, TEXT)
    assert [a.mention for a in parsed.annotations] == ["NASA"]
    assert parsed.rejected == Counter(reasoning=3)
    assert parse_reply("<think>\nNASA <> agency", TEXT).annotations == ()


def test_entries_that_share_a_line():
    assert read("NASA <> agency; New York <> city <> towns") == [("NASA", "agency", ""), ("New York", "city", "towns")]
    assert read("NASA <> agency <> agencies; also bureaus") == [("NASA", "agency", "agencies; also bureaus")]


def test_json_that_holds_something_else_stays_chatter():
    for reply in ('{"a": 1}', "[1, 2]", '["New York"]', '[\n["New York", "city"],\n7\n]', "[" * 5000, '{"entity": "New York"}'):
        assert read(reply) in ([], [("New York", "city", "")])
        assert parse_reply(reply, TEXT).rejected
    assert read("A. Smith <> person", "Mr A. Smith came") == [("A. Smith", "person", "")]
    assert read("<b> <> tag", "The tag <b> is bold") == [("<b>", "tag", "")]


def test_json_that_breaks_off_keeps_its_whole_entries():
    entries = [{"entity": "New York", "concept": "city", "description": "towns"}, {"entity": "NASA", "concept": "agency"}]
    for document in (entries, {"entities": entries}, [list(entry.values()) for entry in entries]):
        for reply in (json.dumps(document), "```json\n" + json.dumps(document, indent=2)):
            for length in range(len(reply) - 3):
                found = [a[:2] for a in parse_reply(reply[:length], TEXT, finish_reason="length").annotations]
                assert found == [("New York", "city"), ("NASA", "agency")][: len(found)]
                assert len(found) >= ("towns" in reply[: max(0, length - 10)])


def test_drops_of_a_whole_reply():
    annotated, dropped = annotate_reply(TEXT, "Mars <> planet\nYork <> city\nOK", id="7", source="c4")
    assert (annotated.id, annotated.source, annotated.text) == ("7", "c4", TEXT)
    assert dropped == Counter({"mention: not in text": 1, "line: chatter": 1})
    assert annotate_reply(TEXT, "  \n")[1] == Counter({"reply: empty": 1})
    assert annotate_reply(TEXT, "NASA <> ag", finish_reason="length")[1] == Counter({"line: truncated": 1, "reply: truncated": 1})


def test_a_line_of_ten_thousand_characters_takes_no_time():
    hard = [
        "x" * 10_000,
        " " * 9_999 + "<>",
        "NASA <> agency <> " + "very long " * 1_000,
        "<> " * 3_000,
        '"' * 10_000,
        "-" * 10_000,
    ]
    for line in hard:
        for text in (TEXT, line):
            parse_reply("\n".join([line] * 3), text)
    assert read("NASA <> agency <> " + "d" * 10_000)[0][:2] == ("NASA", "agency")


reply_text = st.text(st.sampled_from("aB1 .<>-=|→\"'“”*:;\n\t()[]_`#\u0301北👍"), max_size=80) | st.text(max_size=80)


@given(reply_text, reply_text | st.none(), st.sampled_from(["stop", "length"]))
def test_every_line_is_read_or_counted(reply, text, finish_reason):
    parsed = parse_reply(reply, text, finish_reason=finish_reason)
    lines = [line for line in reply.replace("\r", "\n").split("\n") if line.strip()]
    assert len(parsed.annotations) + parsed.rejected.total() >= sum(any(map(str.isalnum, line)) for line in lines)
    assert all(a.mention and any(map(str.isalnum, a.concept)) for a in parsed.annotations)


@given(reply_text, reply_text)
def test_every_mention_of_any_reply_is_a_slice_of_the_text(text, reply):
    annotated, _ = annotate_reply(text, reply)
    assert annotated.text == text
    assert all(0 <= m.start < m.end <= len(text) and text[m.start : m.end].strip() for m in annotated.mentions)


words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ]{0,12}[A-Za-z0-9]", fullmatch=True)


@given(st.lists(st.tuples(words, words, words), min_size=1, max_size=6))
def test_clean_replies_come_back_word_for_word(rows):
    text = " . ".join(row[0] for row in rows)
    rows = [Annotation(m, " ".join(c.split()), d) for m, c, d in rows]
    reply = "\n".join(" <> ".join(row) for row in rows)
    if any(row.concept.casefold() in {"concept", "type", "label", "category"} for row in rows):
        return
    assert list(parse_reply(reply, text).annotations) == rows


def test_all_recorded_mentions_are_located(recorded):
    lines = sum(len(r["reply"].splitlines()) for r in recorded)
    located = sum(len(annotate_reply(r["text"], r["reply"])[0].mentions) for r in recorded)
    assert lines > 10_000
    assert located >= 0.995 * lines


@pytest.mark.parametrize("seed", range(3))
def test_damaged_replies_give_back_nearly_all_and_invent_nearly_nothing(recorded, seed):
    rng = random.Random(seed)
    clean = kept = invented = 0
    for row in recorded:
        truth = found(row["text"], row["reply"])
        damaged = found(row["text"], corrupt(row["reply"], rng))
        clean, kept, invented = clean + len(truth), kept + len(truth & damaged), invented + len(damaged - truth)
    assert kept >= 0.98 * clean
    assert invented < 0.005 * clean
