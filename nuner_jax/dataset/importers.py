"""Annotated texts from files of many kinds, each with the licence that its data comes under."""

import ast
import csv
import itertools
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nuner_jax.annotate.align import Annotation, align
from nuner_jax.annotate.parse import annotate_reply
from nuner_jax.demo import REPLIES
from nuner_jax.errors import InputError
from nuner_jax.files import open_text
from nuner_jax.schema import AnnotatedText, Mention, read_json_lines, spans_from_tags

Reader = Callable[[str, Counter[str]], Iterator[AnnotatedText]]


class Importer(NamedTuple):
    """How to read one kind of file, and what its users must know."""

    read: Reader
    licence: str
    source: str


def read_any(path: str | os.PathLike[str], counts: Counter[str], format: str = "auto") -> Iterator[AnnotatedText]:
    """The annotated texts of a file, one at a time. What is dropped is counted in `counts` ("mention: not in text").

    `format` is a key of IMPORTERS, or "auto". A malformed file is an InputError with file and line (or record).
    """
    return _importer(path, format).read(os.fspath(path), counts)


def describe(path: str | os.PathLike[str], format: str = "auto") -> dict[str, str]:
    """Format, licence and source of a file, for the manifest."""
    kind = detect(path) if format == "auto" else format
    importer = _importer(path, kind)
    if Path(path) == REPLIES:
        importer = importer._replace(licence="Apache-2.0", source="bundled corpus of nuner_jax, synthetic (DATA_CARD.md)")
    return {"path": os.path.basename(path), "format": kind, "licence": importer.licence, "source": importer.source}


def _importer(path: str | os.PathLike[str], format: str) -> Importer:
    kind = detect(path) if format == "auto" else format
    if kind not in IMPORTERS:
        raise InputError(f"{path}: there is no format {kind!r}; the formats are {', '.join(IMPORTERS)}")
    return IMPORTERS[kind]


def detect(path: str | os.PathLike[str]) -> str:
    """The format of a file: by its name for CSV and CoNLL columns, else by the keys of its first JSON record."""
    suffix = Path(path).suffix.lower()
    if suffix == ".csv":
        return "nuner"
    if suffix in (".bio", ".conll", ".iob", ".iob2", ".tsv"):
        return "conll"
    _, record = next(_json_records(path), ("", {}))
    if not isinstance(record, dict):
        raise InputError(f"{path}: the first record is no JSON object but {type(record).__name__}")
    for key, kind in (
        ("conversations", "pilener"),
        ("tokenized_text", "gliner"),
        ("mentions", "annotated"),
        ("reply", "replies"),
    ):
        if key in record:
            return kind
    return "nuner" if "input" in record and "output" in record else "annotated"


def parse_lines(path: str, kind: str, first: int, lines: Iterable[bytes], counts: Counter[str]) -> list[AnnotatedText]:
    """The texts of some lines of a file of one of LINE_FORMATS; `first` is the number of the first of them. As read_any."""
    parse = LINE_FORMATS[kind]
    found = []
    for number, line in enumerate(lines, start=first):
        if not line.isspace():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number}: not valid JSON ({error})") from None
            found.append(parse(value, f"{path}, line {number}", counts))
    return found


def _read_lines(kind: str) -> Reader:
    def read(path: str, counts: Counter[str]) -> Iterator[AnnotatedText]:
        for number, value in read_json_lines(path):
            yield LINE_FORMATS[kind](value, f"{path}, line {number}", counts)

    return read


def _parse_annotated(value: Any, place: str, counts: Counter[str]) -> AnnotatedText:
    del counts  # drops nothing
    try:
        return AnnotatedText.from_json(value)
    except ValueError as error:
        raise InputError(f"{place}: {error}") from None


def _parse_reply(record: Any, place: str, counts: Counter[str]) -> AnnotatedText:
    if not isinstance(record, dict) or not isinstance(record.get("text"), str) or not isinstance(record.get("reply"), str):
        raise InputError(f'{place}: expected an object with the strings "text" and "reply"')
    annotated, dropped = annotate_reply(
        record["text"],
        record["reply"],
        finish_reason=str(record.get("finish_reason") or "stop"),
        id=str(record.get("id") or ""),
        source=str(record.get("source") or record.get("url") or ""),
    )
    counts.update(dropped)
    return annotated


LINE_FORMATS: dict[str, Callable[[Any, str, Counter[str]], AnnotatedText]] = {
    "annotated": _parse_annotated,
    "replies": _parse_reply,
}
"""Formats in which every line is a text of its own, and what parses the JSON value of one."""


def _read_nuner(path: str, counts: Counter[str]) -> Iterator[AnnotatedText]:
    """Both splits: `output` is a Python list literal of "mention <> concept" (entity) or with a description (full)."""
    for place, row in _csv_records(path) if path.lower().endswith(".csv") else _json_records(path):
        if not isinstance(row, dict) or "input" not in row or "output" not in row:
            raise InputError(f"{path}, {place}: expected the columns input and output, got {_keys(row)}")
        text, output = row["input"], row["output"]
        if not text or not isinstance(text, str):
            counts["text: empty"] += 1
            continue
        try:
            lines = ast.literal_eval(output) if isinstance(output, str) else output
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            lines = None
        if not isinstance(lines, list):
            counts["text: output is not a list"] += 1
            continue
        annotated, dropped = annotate_reply(text, "".join(f"{line}\n" for line in lines))
        counts.update(dropped)
        yield annotated


_QUESTION = re.compile(r"What describes (.+) in the text\?", re.DOTALL)


def _read_pilener(path: str, counts: Counter[str]) -> Iterator[AnnotatedText]:
    """Universal-NER's conversations: the text, then a question a type, each answered by a JSON list of strings."""
    for place, record in _json_records(path):
        turns = record.get("conversations") if isinstance(record, dict) else None
        if not isinstance(turns, list) or not all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in turns):
            raise InputError(f'{path}, {place}: expected "conversations", a list of {{"from", "value"}}')
        if not turns or not turns[0]["value"].startswith("Text: "):
            counts["text: no text in the conversation"] += 1
            continue
        text = turns[0]["value"].removeprefix("Text: ")
        annotations = []
        for question, answer in itertools.pairwise(turns):
            asked = _QUESTION.fullmatch(question["value"].strip())
            if asked is None or question.get("from") != "human":
                continue
            found = _list_of_strings(answer["value"])
            if found is None:
                counts["answer: not a list of strings"] += 1
            else:
                annotations.extend(Annotation(mention, asked[1]) for mention in found)
        mentions, dropped = align(text, annotations)
        counts.update({f"mention: {reason}": n for reason, n in dropped.items()})
        yield AnnotatedText(text, mentions, id=str(record.get("id") or ""))


def _read_gliner(path: str, counts: Counter[str]) -> Iterator[AnnotatedText]:
    """GLiNER's JSON: words, and spans of words with the last one included; the text is the words joined by blanks."""
    for place, record in _json_records(path):
        words = record.get("tokenized_text") if isinstance(record, dict) else None
        spans = record.get("ner", []) if isinstance(record, dict) else None
        if not isinstance(words, list) or not all(isinstance(w, str) for w in words) or not isinstance(spans, list):
            raise InputError(f'{path}, {place}: expected the lists "tokenized_text" and "ner"')
        found: list[tuple[int, int, str]] = []
        for span in spans:
            if not isinstance(span, list) or len(span) != 3 or not isinstance(span[2], str):
                raise InputError(f"{path}, {place}: a span is [first, last, type], got {span!r:.80}")
            if type(span[0]) is int and type(span[1]) is int and 0 <= span[0] <= span[1] < len(words):
                found.append((span[0], span[1] + 1, span[2]))
            else:
                counts["mention: span outside the text"] += 1
        yield _from_words(words, found, counts, id=str(record.get("id") or ""))


def _read_conll(path: str, counts: Counter[str]) -> Iterator[AnnotatedText]:
    """Columns with the word first and its IOB2 tag last; a blank line ends a sentence. IOB1 and BIOES are turned into IOB2."""
    words: list[str] = []
    tags: list[str] = []
    many = True  # columns in each line of the sentence
    try:
        with open_text(path) as file:
            for number, line in enumerate(itertools.chain(_without_mark(file), [""]), start=1):
                columns = line.rstrip("\r\n").split("\t") if "\t" in line else _BLANKS.split(line.strip(" \r\n"))
                if not "".join(columns).strip():
                    if len(words) > 1 and many and words == [str(n) for n in range(1, len(words) + 1)]:
                        raise InputError(
                            f"{path}, line {number - len(words)}: the first column counts; the word has to come first"
                        )
                    if words:
                        yield _from_words(words, [(s.start, s.end, s.type) for s in spans_from_tags(_iob2(tags))], counts)
                    words, tags, many = [], [], True
                elif len(columns) > 1 and _TAG.fullmatch(columns[-1].strip()):
                    if columns[0] != "-DOCSTART-":
                        words.append(columns[0])
                        many = many and len(columns) > 2
                        tags.append(columns[-1].strip())
                elif not line.startswith("# "):  # else a comment
                    raise InputError(
                        f"{path}, line {number}: expected a word and a tag (O, B-type or I-type), got {line.strip()!r:.80}"
                    )
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None


_BLANKS = re.compile(" +")  # a no-break space is part of a word
_TAG = re.compile(r"O|[BIESLU]-\S.*")


def _iob2(tags: list[str]) -> list[str]:
    """IOB1, BIOES and BILOU as IOB2: a mention begins with B-, whatever its scheme calls that."""
    plain: list[str] = []
    inside = ""  # the type that the next word may continue
    for tag in tags:
        mark, _, type_ = tag.partition("-")
        begins = mark in "BSU" or type_ != inside
        plain.append("O" if tag == "O" else f"B-{type_}" if begins else f"I-{type_}")
        inside = type_ if mark in "BI" else ""
    return plain


def _from_words(words: list[str], spans: Iterable[tuple[int, int, str]], counts: Counter[str], id: str = "") -> AnnotatedText:
    """Words joined by blanks, spans of words as spans of characters."""
    starts, length = [], 0
    for word in words:
        starts.append(length)
        length += len(word) + 1
    mentions = []
    for first, end, concept in spans:
        start, stop = starts[first], starts[end - 1] + len(words[end - 1])
        if start < stop:
            mentions.append(Mention(start, stop, concept))
        else:
            counts["mention: empty word"] += 1
    return AnnotatedText(" ".join(words), tuple(mentions), id)


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a file without the byte-order mark that some programs put before the first."""
    for number, line in enumerate(lines):
        yield line if number else line.removeprefix("\ufeff")


def _csv_records(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(sys.maxsize)
    try:
        with open_text(path, newline="") as file:
            rows = csv.DictReader(_without_mark(file))
            for row in rows:
                yield f"line {rows.line_num}", row
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error})") from None


def _json_records(path: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """(place, record) of a JSON array or of JSON lines, whichever the file is; one record at a time in memory."""
    try:
        with open_text(path) as file:
            start = file.read(1)
            while start.isspace() or start == "\ufeff":
                start = file.read(1)
            if start == "[":
                yield from _array_records(path, file)
                return
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    for number, record in read_json_lines(path):
        yield f"line {number}", record


def _array_records(path: str | os.PathLike[str], file: Any, chunk: int = 1 << 20) -> Iterator[tuple[str, Any]]:
    """The elements of a JSON array whose opening bracket has been read."""
    decoder, buffer, at, number = json.JSONDecoder(), "", 0, 0
    while True:
        at = _BETWEEN.match(buffer, at).end()  # type: ignore[union-attr]  # it matches the empty string, too
        if buffer.startswith("]", at):
            return
        try:
            record, at = decoder.raw_decode(buffer, at)
        except RecursionError as error:
            raise InputError(f"{path}, record {number + 1}: not valid JSON ({error})") from None
        except ValueError as error:
            more = file.read(max(chunk, len(buffer) - at))  # a record longer than this doubles it, and so stays cheap
            if not more:
                raise InputError(f"{path}, record {number + 1}: not valid JSON ({error})") from None
            buffer, at = buffer[at:] + more, 0
            continue
        number += 1
        yield f"record {number}", record


_BETWEEN = re.compile(r"[ \t\r\n,]*")


def _list_of_strings(value: str) -> list[str] | None:
    for load in (json.loads, ast.literal_eval):
        try:
            found = load(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, list) and all(isinstance(f, str) for f in found):
            return found
    return None


def _keys(row: Any) -> str:
    return ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__


IMPORTERS: dict[str, Importer] = {
    "annotated": Importer(_read_lines("annotated"), "that of the text and its annotator", "JSON lines of text and mentions"),
    "replies": Importer(_read_lines("replies"), "that of the text and its annotator", "JSON lines of text and an LLM's reply"),
    "nuner": Importer(_read_nuner, "MIT", "huggingface.co/datasets/numind/NuNER (C4 text: ODC-BY)"),
    "pilener": Importer(_read_pilener, "CC BY-NC 4.0", "huggingface.co/datasets/Universal-NER/Pile-NER-type"),
    "gliner": Importer(_read_gliner, "that of the data set", "GLiNER's JSON form"),
    "conll": Importer(_read_conll, "that of the data set", "CoNLL columns"),
}
