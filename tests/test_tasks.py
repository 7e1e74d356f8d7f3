"""Readers give the words and strict IOB2 tags of each format; what is wrong is named by file and line."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.errors import InputError
from nuner_jax.evaluate import readers
from nuner_jax.evaluate.tasks import BUNDLED, load_task, word_types
from nuner_jax.schema import spans_from_tags


def write(path, text):
    path.write_text(text, encoding="utf8")
    return path


def read(path, text):
    notes = Counter()
    return readers.read_tagged(write(path, text), notes), notes


def test_bio(tmp_path):
    sentences, notes = read(tmp_path / "a.bio", "New\tB-loc\nYork\tI-loc\n.\tO\n\n\nAda\tB-per\n")
    assert [s.words for s in sentences] == [("New", "York", "."), ("Ada",)]
    assert [s.tags for s in sentences] == [("B-loc", "I-loc", "O"), ("B-per",)]
    assert not notes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("York", "line 3: expected token<TAB>tag, got 'York'"),
        ("York I-loc", "line 3: expected token<TAB>tag"),
        ("York\tX-loc", "line 3: tag 'X-loc' is outside the scheme"),
        ("York\tB-", "line 3: tag 'B-' is outside the scheme"),
        ("York\tloc", "line 3: tag 'loc' is outside"),
        ("\tO", "line 3: expected token<TAB>tag"),
    ],
)
def test_bio_errors_name_file_and_line(tmp_path, line, message):
    with pytest.raises(InputError) as error:
        read(tmp_path / "bad.bio", f"in\tO\nNew\tB-loc\n{line}\n")
    assert message in str(error.value)
    assert "bad.bio" in str(error.value)


def test_bytes_that_are_not_utf8_and_missing_files_are_named(tmp_path):
    (tmp_path / "a.bio").write_bytes(b"caf\xe9\tO\n")
    with pytest.raises(InputError, match="not UTF-8"):
        readers.read_tagged(tmp_path / "a.bio", Counter())
    with pytest.raises(InputError, match="cannot be read"):
        readers.read_tagged(tmp_path / "none.bio", Counter())
    with pytest.raises(InputError, match="unknown ending"):
        readers.read_tagged(write(tmp_path / "a.xyz", ""), Counter())


def test_conll_columns(tmp_path):
    text = "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\nGerman JJ I-NP I-MISC\nUK NNP I-NP B-MISC\n"
    sentences, notes = read(tmp_path / "a.conll", text)
    assert sentences[0].words == ("EU", "rejects", "German", "UK")
    assert sentences[0].tags == ("B-ORG", "O", "B-MISC", "B-MISC")
    assert notes == {"inside tag that opens a mention": 2}
    sentences, _ = read(tmp_path / "c.conll", "# sent_id = 1\n# SYM O\n1 CD B-RANK\n")
    assert sentences[0].words == ("#", "1")
    sentences, _ = read(tmp_path / "b.conll", "10\u00a0000 CD B-NUM\n \u00a0 NN \t O \n")
    assert (sentences[0].words, sentences[0].tags) == (("10\u00a0000", "\u00a0"), ("B-NUM", "O"))


def test_bioes_becomes_iob2():
    assert readers.iob2(["S-a", "B-a", "I-a", "E-a", "I-a", "U-b", "L-b"], Counter()) == (
        *("B-a", "B-a", "I-a", "I-a", "B-a"),
        *("B-b", "B-b"),
    )


def test_brackets(tmp_path):
    sentences, _ = read(tmp_path / "a.txt", "Beat [2 egg-whites](ingredient), don't stop!\n\n[So](x)[what](y) [z] (w)\n")
    assert sentences[0].words == ("Beat", "2", "egg-whites", ",", "don't", "stop", "!")
    assert sentences[0].tags == ("O", "B-ingredient", "I-ingredient", *"OOOO")
    assert sentences[1].words == ("Sowhat", "[", "z", "]", "(", "w", ")")  # one word by the rule: the first mention holds it
    assert sentences[1].tags[0] == "B-x"


@pytest.mark.parametrize("line", ["[](x) a", "[ab]() c", "a [b [c](d)](e)", "[a](b(c)"])
def test_broken_brackets_name_the_line(tmp_path, line):
    with pytest.raises(InputError, match="line 2"):
        read(tmp_path / "a.txt", f"fine\n{line}\n")


PIECE = st.text("abc é'-.,1", min_size=1, max_size=6).filter(str.strip)


@given(st.lists(st.tuples(PIECE, st.sampled_from(["", "t", "u v"])), min_size=1, max_size=8))
def test_brackets_round_trip(pieces):
    line = " ".join(f"[{text}]({kind})" if kind else text for text, kind in pieces)
    text, spans = readers.parse_brackets(line)
    assert text == " ".join(text for text, _ in pieces)
    assert [(text[a:b], kind) for a, b, kind in spans] == [(t, kind) for t, kind in pieces if kind]
    sentence = readers.tagged_from_characters(text, spans, Counter())
    assert "".join(sentence.words) == text.replace(" ", "")
    assert len(spans_from_tags(sentence.tags)) == len(spans)


def test_gliner_json(tmp_path):
    row = {"tokenized_text": ["New", "York", "Times", "x"], "ner": [[0, 2, "paper"], [0, 1, "place"], [3, 3, "y"]]}
    for name, text in (("a.json", json.dumps([row])), ("a.jsonl", json.dumps(row) + "\n")):
        sentences, notes = read(tmp_path / name, text)
        assert sentences[0].tags == ("B-paper", "I-paper", "I-paper", "B-y")
        assert notes == {"overlapping mention left out": 1}
    with pytest.raises(InputError, match=r"line 1: words 0\.\.4 are not inside"):
        read(tmp_path / "b.jsonl", json.dumps({**row, "ner": [[0, 4, "a"]]}))
    with pytest.raises(InputError, match='item 0: "tokenized_text"'):
        read(tmp_path / "b.json", "[{}]")
    with pytest.raises(InputError, match="item 0: ner is not a list: 3"):
        read(tmp_path / "c.json", json.dumps([{**row, "ner": 3}]))
    with pytest.raises(InputError, match="item 0: half of a surrogate pair"):
        read(tmp_path / "d.json", json.dumps([{**row, "tokenized_text": ["a", "b", "c", "\ud800"]}]))
    with pytest.raises(InputError, match=r"e\.json: not valid JSON"):
        read(tmp_path / "e.json", "[" * 100_000)


def test_a_task_joins_the_types_of_both_splits_and_reports_repeats(tmp_path):
    train = write(tmp_path / "train.bio", "a\tB-x\nb\tI-x\n\nc\tB-z\n")
    test = write(tmp_path / "test.bio", "a\tB-y\nb\tO\n\nd\tB-z\n")
    task = load_task(f"toy={train},{test}")
    assert task.types == ("x", "y", "z")
    assert task.train.codes.tolist() == [1, 2, 5]
    assert word_types(task.train.codes).tolist() == [1, 1, 3]
    assert task.type_counts() == {"x": 1, "y": 0, "z": 1}
    assert task.repeated == 1
    assert task.test.take([1]).codes.tolist() == [5]
    other = load_task(f"toy={test},{train}")
    assert other.fingerprint != task.fingerprint


@pytest.mark.parametrize(("train", "test", "message"), [("", "a\tB-x\n", "train file"), ("a\tB-x\n", "a\tO\n", "no mention")])
def test_empty_files_are_refused(tmp_path, train, test, message):
    files = write(tmp_path / "train.bio", train), write(tmp_path / "test.bio", test)
    with pytest.raises(InputError, match=message):
        load_task(f"toy={files[0]},{files[1]}")


@pytest.mark.parametrize("spec", ["nothing", "=a,b", "x=a", "x=a,b,c", "x="])
def test_bad_specs_are_refused(spec):
    with pytest.raises(InputError, match="expected NAME=TRAIN,TEST"):
        load_task(spec)


def test_bundled_tasks_can_give_sixteen_mentions_of_each_type():
    for name in BUNDLED:
        task = load_task(name)
        assert min(task.type_counts().values()) >= 16
        assert not task.notes
        assert len(task.test) >= 100
