"""Records: nothing lost between object, JSON line and file; broken input named by file, line and field; IOB2 <-> spans."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.errors import InputError
from nuner_jax.schema import (
    AnnotatedText,
    Mention,
    WordSpan,
    read_annotated,
    read_json_lines,
    spans_from_tags,
    tags_from_spans,
    write_json_lines,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)  # no lone surrogates: not UTF-8


@st.composite
def annotated(draw):
    text = draw(TEXT)
    mentions = []
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text) - 1))
        mentions.append(Mention(start, draw(st.integers(start + 1, len(text))), draw(TEXT), draw(st.just("") | TEXT)))
    return AnnotatedText(text, tuple(mentions), draw(st.just("") | TEXT), draw(st.just("") | TEXT))


@given(annotated())
def test_json_round_trip(record):
    line = json.dumps(record.to_json(), ensure_ascii=False)
    assert AnnotatedText.from_json(json.loads(line)) == record
    assert all(value != "" for value in record.to_json().values())


@given(st.lists(annotated(), max_size=5))
def test_file_round_trip_keeps_any_text_on_its_line(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("schema") / "deep" / "a.jsonl"
    assert write_json_lines(path, (r.to_json() for r in records)) == len(records)
    assert list(read_annotated(path)) == records
    assert [number for number, _ in read_json_lines(path)] == list(range(1, len(records) + 1))
    assert [p.name for p in path.parent.iterdir()] == ["a.jsonl"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl"
    write_json_lines(path, [{"n": 1}])

    def rows():
        yield {"n": 2}
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_json_lines(path, rows())
    assert path.read_text() == '{"n": 1}\n'


GOOD = '{"text": "a b", "mentions": [{"start": 0, "end": 1, "concept": "x"}]}'
BROKEN = [
    ('{"text": "a b"', "not valid JSON"),
    (b'{"text": "\xff"}', "not valid JSON"),
    ("[1]", "expected a JSON object, got list"),
    ('{"mentions": []}', '"text" is missing or not a string'),
    ('{"text": 3}', '"text" is missing or not a string'),
    ('{"text": "a", "mentions": {}}', '"mentions" is not a list'),
    ('{"text": "a", "mentions": [{"start": 0, "end": 1}]}', "a mention needs start, end and concept"),
    ('{"text": "a", "mentions": ["x"]}', "a mention needs start, end and concept"),
    ('{"text": "a", "mentions": [{"start": 0, "end": 2, "concept": "x"}]}', "0..2 is not inside a text of 1 characters"),
    ('{"text": "a", "mentions": [{"start": -1, "end": 1, "concept": "x"}]}', "-1..1 is not inside"),
    ('{"text": "a", "mentions": [{"start": 1, "end": 1, "concept": "x"}]}', "1..1 is not inside"),
    ('{"text": "a", "mentions": [{"start": 0.0, "end": 1, "concept": "x"}]}', "0.0..1 is not inside"),
    ('{"text": "a", "mentions": [{"start": false, "end": true, "concept": "x"}]}', "False..True is not inside"),
    ('{"text": "a", "mentions": [{"start": 0, "end": 1, "concept": null}]}', "concept None is not a string"),
]


@pytest.mark.parametrize(("line", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_a_broken_line_is_named_by_file_and_number(line, reason, tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_bytes(b"\n".join([GOOD.encode(), b"", b"  ", line.encode() if isinstance(line, str) else line, GOOD.encode()]))
    with pytest.raises(InputError) as error:
        list(read_annotated(path))
    assert str(error.value).startswith(f"{path}, line 4: ")
    assert reason in str(error.value)
    assert error.value.exit_status == 2


def test_windows_line_ends_and_a_byte_order_mark_are_no_harm(tmp_path):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n" + GOOD.encode() + b"\r\n")
    assert [r.text for r in read_annotated(path)] == ["a b", "a b"]


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(name, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        list(read_json_lines(tmp_path / name))


TYPES = st.sampled_from(["person", "place", "B-52", "I-"])


@st.composite
def disjoint_spans(draw):
    spans, position = [], 0
    for _ in range(draw(st.integers(0, 5))):
        start = position + draw(st.integers(0, 2))
        position = start + draw(st.integers(1, 3))
        spans.append(WordSpan(start, position, draw(TYPES)))
    return spans, position + draw(st.integers(0, 2))


@given(disjoint_spans())
def test_spans_to_tags_to_spans(example):
    spans, length = example
    tags = tags_from_spans(reversed(spans), length)
    assert len(tags) == length
    assert spans_from_tags(tags) == spans


@given(st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"]), max_size=12))
def test_any_tags_give_disjoint_spans_that_open_at_a_b(tags):
    spans = spans_from_tags(tags)
    assert [span.start for span in spans] == [i for i, tag in enumerate(tags) if tag.startswith("B-")]
    for span, after in zip(spans, [*spans[1:], None], strict=False):
        assert tags[span.start] == f"B-{span.type}"
        assert set(tags[span.start + 1 : span.end]) <= {f"I-{span.type}"}
        assert after is None or span.end <= after.start
        assert span.end == len(tags) or tags[span.end] != f"I-{span.type}"
    strict = tags_from_spans(spans, len(tags))
    assert spans_from_tags(strict) == spans
    assert sum(tag == "O" for tag in strict) >= sum(tag == "O" for tag in tags)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 4), TYPES), max_size=8))
def test_where_spans_overlap_the_leftmost_then_longest_holds_its_words(triples):
    spans = [WordSpan(start, start + length, kind) for start, length, kind in triples]
    kept = spans_from_tags(tags_from_spans(spans, 12))
    assert set(kept) <= set(spans)
    for span in spans:
        rivals = [k for k in kept if k.start < span.end and span.start < k.end]
        assert rivals
        assert min((k.start, -k.end) for k in rivals) <= (span.start, -span.end)


def test_json_nested_without_end_is_one_line(tmp_path):
    (tmp_path / "deep.jsonl").write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"deep\.jsonl, line 1: not valid JSON"):
        list(read_json_lines(tmp_path / "deep.jsonl"))
