import csv
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.dataset.importers import IMPORTERS, describe, detect, parse_lines, read_any
from nuner_jax.dataset.merge import merge_mentions, merge_texts
from nuner_jax.errors import InputError
from nuner_jax.schema import AnnotatedText, Mention


def write(path, content):
    path.write_text(content if isinstance(content, str) else "".join(json.dumps(r) + "\n" for r in content), encoding="utf8")
    return path


def load(path, **options):
    counts = Counter()
    texts = list(read_any(path, counts, **options))
    return [(t.text, [(t.text[m.start : m.end], m.concept, m.description) for m in t.mentions]) for t in texts], counts


def test_annotated_json_lines(tmp_path):
    record = {"text": "in Paris", "mentions": [{"start": 3, "end": 8, "concept": "city", "description": "towns"}]}
    path = write(tmp_path / "a.jsonl", [record, {"text": "nothing", "mentions": []}])
    assert load(path) == ([("in Paris", [("Paris", "city", "towns")]), ("nothing", [])], Counter())


def test_recorded_replies(tmp_path):
    row = {"text": "in Paris", "reply": "Paris <> city <> towns\nRome <> city <> towns\nThat is all."}
    found, counts = load(write(tmp_path / "r.jsonl", [row]))
    assert found == [("in Paris", [("Paris", "city", "towns")])]
    assert counts == Counter({"mention: not in text": 1, "line: chatter": 1})


def test_a_recorded_reply_that_was_cut_says_so(tmp_path):
    row = {"text": "in Paris", "reply": "Paris <> ci", "finish_reason": "length"}
    found, counts = load(write(tmp_path / "r.jsonl", [row]))
    assert found == [("in Paris", [])]
    assert counts == Counter({"line: truncated": 1, "reply: truncated": 1})


def nuner_csv(path, rows):
    with open(path, "w", encoding="utf8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["input", "output"])
        writer.writerows((text, repr(output) if isinstance(output, list) else output) for text, output in rows)
    return path


def test_nuner_entity_split(tmp_path):
    rows = [('He said "no",\nin Paris', ["Paris <> city", "no <> answer", "Rome <> city"]), ("", ["a <> b"]), ("x", "[broken")]
    found, counts = load(nuner_csv(tmp_path / "entity-00001-of-00001.csv", rows))
    assert found == [('He said "no",\nin Paris', [("no", "answer", ""), ("Paris", "city", "")])]
    assert counts == Counter({"mention: not in text": 1, "text: empty": 1, "text: output is not a list": 1})


def test_nuner_full_split(tmp_path):
    rows = [("it's Paris", ["Paris <> city <> a large town, as in 'capital'", "it's <> pronoun <> words"])]
    found, counts = load(nuner_csv(tmp_path / "full.csv", rows))
    assert found == [("it's Paris", [("it's", "pronoun", "words"), ("Paris", "city", "a large town, as in 'capital'")])]
    assert not counts


def test_nuner_keeps_a_last_line_without_description(tmp_path):
    rows = [("A, B and C", ["A <> x <> d", "B <> y <> d", "C <> z"])]
    assert len(load(nuner_csv(tmp_path / "full.csv", rows))[0][0][1]) == 3


def test_nuner_as_json_lines(tmp_path):
    path = write(tmp_path / "n.jsonl", [{"input": "in Paris", "output": "['Paris <> city']"}])
    assert detect(path) == "nuner"
    assert load(path)[0] == [("in Paris", [("Paris", "city", "")])]


def conversation(text, *pairs):
    turns = [{"from": "human", "value": f"Text: {text}"}, {"from": "gpt", "value": "I've read this text."}]
    for concept, answer in pairs:
        turns.append({"from": "human", "value": f"What describes {concept} in the text?"})
        turns.append({"from": "gpt", "value": answer})
    return {"id": "ner_1", "conversations": turns}


def test_pilener_conversations(tmp_path):
    answers = [("city", '["Paris", "Rome"]'), ("person", '["Ann", "Bob"]'), ("date", "[]"), ("x", "?")]
    record = conversation("Paris and Rome\nby Ann", *answers)
    for name, content in (("p.json", json.dumps([record, record], indent=1)), ("p.jsonl", [record, record])):
        path = write(tmp_path / name, content)
        assert detect(path) == "pilener"
        found, counts = load(path)
        assert found == [("Paris and Rome\nby Ann", [("Paris", "city", ""), ("Rome", "city", ""), ("Ann", "person", "")])] * 2
        assert counts == Counter({"mention: not in text": 2, "answer: not a list of strings": 2})


def test_gliner_ends_are_inclusive(tmp_path):
    record = {"tokenized_text": ["in", "New", "York", "today"], "ner": [[1, 2, "city"], [3, 3, "date"], [3, 4, "x"], [2, 1, "x"]]}
    path = write(tmp_path / "g.json", json.dumps([record]))
    found, counts = load(path)
    assert found == [("in New York today", [("New York", "city", ""), ("today", "date", "")])]
    assert counts == Counter({"mention: span outside the text": 2})


@pytest.mark.parametrize(
    "tags",
    [
        ["B-PER", "I-PER", "B-PER", "O", "B-LOC"],  # IOB2
        ["I-PER", "I-PER", "B-PER", "O", "I-LOC"],  # IOB1
        ["B-PER", "E-PER", "S-PER", "O", "S-LOC"],  # BIOES
        ["B-PER", "L-PER", "U-PER", "O", "U-LOC"],  # BILOU
    ],
)
def test_conll_columns_in_every_scheme(tmp_path, tags):
    rows = [f"{word}\tNN\t{tag}" for word, tag in zip(["Ann", "Lee", "Bob", "saw", "Rome"], tags, strict=True)]
    path = write(tmp_path / "c.conll", "-DOCSTART- -X- O\n\n# id 7\n" + "\n".join(rows) + "\n\n\nend\t.\tO")
    found, _ = load(path)
    assert found == [("Ann Lee Bob saw Rome", [("Ann Lee", "PER", ""), ("Bob", "PER", ""), ("Rome", "LOC", "")]), ("end", [])]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": 3}\n', r'a\.jsonl, line 2: "text" is missing'),
        ("a.jsonl", '{"text": "x"}\n{broken\n', r"a\.jsonl, line 2: not valid JSON"),
        ("r.jsonl", '{"text": "x", "reply": "y"}\n{"text": "x"}\n', r"r\.jsonl, line 2: expected .* \"reply\""),
        ("c.bio", "Ann\tB-PER\nLee\n", r"c\.bio, line 2: expected a word and a tag"),
        ("c.bio", "a\tO\n\n1\tAnn\tB-PER\n2\tsaw\tO\n", r"c\.bio, line 3: the first column counts; the word has to come first"),
        ("c.bio", "Ann\tPERSON\n", r"c\.bio, line 1: .*'Ann\\tPERSON'"),
        ("n.csv", "text,label\na,b\n", r"n\.csv, line 2: expected the columns input and output, got text, label"),
        ("g.json", '[{"tokenized_text": ["a"], "ner": [[0]]}]', r"g\.json, record 1: a span is \[first, last, type\]"),
        ("p.json", '[{"conversations": "no"}]', r'p\.json, record 1: expected "conversations"'),
        ("g.json", '[{"tokenized_text": ["a"], "ner": []}, {', r"g\.json, record 2: not valid JSON"),
        ("x.json", "[1, 2]", r"x\.json: the first record is no JSON object"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        load(write(tmp_path / name, content))


def test_missing_file_and_unknown_format(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv: cannot be read"):
        load(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match=r"nowhere\.jsonl: cannot be read"):
        load(tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match=r"no format 'spacy'; the formats are annotated, "):
        load(write(tmp_path / "a.jsonl", "{}"), format="spacy")
    (tmp_path / "latin.bio").write_bytes("Zo\xeb\tO\n".encode("latin1"))
    with pytest.raises(InputError, match=r"latin\.bio: not UTF-8"):
        load(tmp_path / "latin.bio")


def test_an_empty_file_has_no_texts(tmp_path):
    assert load(write(tmp_path / "a.jsonl", "")) == ([], Counter())


def test_every_importer_names_its_licence(tmp_path):
    assert all(i.licence and i.source for i in IMPORTERS.values())
    path = nuner_csv(tmp_path / "entity.csv", [("a", ["a <> b"])])
    assert describe(path)["licence"] == "MIT"


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=6), st.integers(0, 4))
def test_json_arrays_are_read_in_pieces(tmp_path_factory, records, indent):
    from nuner_jax.dataset.importers import _array_records

    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(records, indent=indent or None, ensure_ascii=False), encoding="utf8")
    with open(path, encoding="utf8") as file:
        assert file.read(1) == "["
        assert [r for _, r in _array_records(path, file, chunk=3)] == records


PARIS, ROME = Mention(0, 5, "city"), Mention(10, 14, "city", "towns")


def test_union_of_two_annotators():
    second = (Mention(0, 5, "City"), Mention(0, 5, "capital"), ROME)
    assert merge_mentions([PARIS], second, "union") == (PARIS, Mention(0, 5, "capital"), ROME)


def test_agreement_of_two_annotators_is_about_spans():
    assert merge_mentions([PARIS], [Mention(0, 5, "capital"), ROME], "agreement") == (PARIS, Mention(0, 5, "capital"))


def test_merging_texts():
    first = [AnnotatedText("Paris and Rome", (PARIS,), "1"), AnnotatedText("only here", (), "2")]
    second = [AnnotatedText("only there", ()), AnnotatedText("Paris and Rome", (ROME,), "9")]
    counts = Counter()
    union = list(merge_texts(first, second, "union", counts))
    assert [t.text for t in union] == ["Paris and Rome", "only here", "only there"]
    assert union[0].mentions == (PARIS, ROME)
    assert not counts
    assert [t.mentions for t in merge_texts(first, second, "agreement", counts)] == [()]
    assert counts == Counter({"text: one annotator only": 2, "mention: one annotator only": 2})


def test_a_byte_order_mark_is_no_part_of_the_first_word_or_column(tmp_path):
    assert load(write(tmp_path / "a.bio", "\ufeffRome\tB-city\n"))[0] == [("Rome", [("Rome", "city", "")])]
    path = write(tmp_path / "a.csv", "\ufeffinput,output\nin Rome,\"['Rome <> city']\"\n")
    assert load(path)[0] == [("in Rome", [("Rome", "city", "")])]


def test_json_that_is_too_deep_is_named_by_its_place(tmp_path):
    deep = "[" * 100_000
    path = write(tmp_path / "deep.json", f'[{{"tokenized_text": ["a"], "ner": []}}, {deep}')
    with pytest.raises(InputError, match=r"deep\.json, record 2: not valid JSON"):
        load(path)
    with pytest.raises(InputError, match=r"deep\.jsonl, line 7: not valid JSON"):
        parse_lines("deep.jsonl", "annotated", 6, [b'{"text": "a"}\n', deep.encode()], Counter())


def test_a_no_break_space_parts_no_columns(tmp_path):
    text = "10\u00a0000 CD B-number\n\u00a0 NN O\n"
    assert load(write(tmp_path / "a.conll", text))[0] == [("10\u00a0000 \u00a0", [("10\u00a0000", "number", "")])]
