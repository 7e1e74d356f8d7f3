"""The records that pass between the stages, and their JSON-lines form.

Character spans (start inclusive, end exclusive) are the only truth; word and token spans are derived. Overlaps are legal.
"""

import bisect
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuner_jax.errors import InputError
from nuner_jax.files import open_raw


@dataclass(frozen=True, slots=True)
class Mention:
    """`text[start:end]` is a mention of `concept`."""

    start: int
    end: int
    concept: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class AnnotatedText:
    """A sentence or passage with its mentions, what the annotate stage writes and the dataset stage reads."""

    text: str
    mentions: tuple[Mention, ...] = ()
    id: str = ""
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON object of architecture.md; empty id, source and description are left out."""
        mentions = []
        for m in self.mentions:
            row: dict[str, Any] = {"start": m.start, "end": m.end, "concept": m.concept}
            if m.description:
                row["description"] = m.description
            mentions.append(row)
        record: dict[str, Any] = {"id": self.id, "text": self.text, "source": self.source, "mentions": mentions}
        return {key: value for key, value in record.items() if value != ""}

    @classmethod
    def from_json(cls, record: Any) -> "AnnotatedText":
        """Raises ValueError that names the field if the object does not have the expected form."""
        if not isinstance(record, dict):
            raise ValueError(f"expected a JSON object, got {type(record).__name__}")
        text = record.get("text")
        if not isinstance(text, str):
            raise ValueError('"text" is missing or not a string')
        rows = record.get("mentions", [])
        if not isinstance(rows, list):
            raise ValueError('"mentions" is not a list')
        mentions = tuple(_mention_from_json(row, len(text)) for row in rows)
        return cls(text, mentions, str(record.get("id") or ""), str(record.get("source") or ""))


def _mention_from_json(row: Any, length: int) -> Mention:
    try:
        start, end, concept = row["start"], row["end"], row["concept"]
    except (TypeError, KeyError) as error:
        raise ValueError(f"a mention needs start, end and concept, got {row!r:.80}") from error
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
        raise ValueError(f"mention span {start!r}..{end!r} is not inside a text of {length} characters")
    if not isinstance(concept, str):
        raise ValueError(f"mention concept {concept!r:.80} is not a string")
    return Mention(start, end, concept, str(row.get("description") or ""))


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """Words with one IOB2 tag each: what few-shot evaluation reads."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class WordSpan:
    """`words[start:end]` is a mention of `type`."""

    start: int
    end: int
    type: str


def spans_from_tags(tags: Sequence[str]) -> list[WordSpan]:
    """Strict IOB2 to spans; an I- that continues nothing of its type opens no span."""
    spans: list[WordSpan] = []
    start, current = 0, ""
    for i, tag in enumerate([*tags, "O"]):
        if current and tag != f"I-{current}":
            spans.append(WordSpan(start, i, current))
            current = ""
        if tag.startswith("B-"):
            start, current = i, tag[2:]
    return spans


def tags_from_spans(spans: Iterable[WordSpan], num_words: int) -> tuple[str, ...]:
    """Spans to IOB2; where spans overlap the first (leftmost, then longest) holds its words."""
    tags = ["O"] * num_words
    for span in sorted(spans, key=lambda s: (s.start, -s.end, s.type)):
        if any(tag != "O" for tag in tags[span.start : span.end]):
            continue
        tags[span.start : span.end] = [f"I-{span.type}"] * (span.end - span.start)
        tags[span.start] = f"B-{span.type}"
    return tuple(tags)


def word_spans(words: Sequence[str], spans: Iterable[tuple[int, int, str]]) -> list[WordSpan]:
    """(start, end, type) in characters of the words joined by blanks, as spans of the words that they touch."""
    ends = list(itertools.accumulate(len(word) + 1 for word in words))  # of each word with the blank after it
    return [WordSpan(bisect.bisect(ends, start), bisect.bisect(ends, end - 1) + 1, kind) for start, end, kind in spans]


def is_unicode(text: str) -> bool:
    """Whether the text has a UTF-8 form: half of a surrogate pair, as JSON may hold by \\ud800, has none, and no tokenizer reads it."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, Any]]:
    """(line number from 1, parsed value) of every non-blank line; a broken line is an InputError with file and number."""
    try:
        with open_raw(path) as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    try:
                        yield number, json.loads(raw)
                    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, nested without end
                        raise InputError(f"{path}, line {number}: not valid JSON ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_annotated(path: str | os.PathLike[str]) -> Iterator[AnnotatedText]:
    """The annotated texts of a JSON-lines file; a malformed one is an InputError with file, line and field."""
    for number, value in read_json_lines(path):
        try:
            yield AnnotatedText.from_json(value)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from None


def write_json_lines(path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> int:
    """Writes the rows to a temporary neighbour, then renames, so that a reader never sees half a file. Returns the count."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    count = 0
    with open(partial, "w", encoding="utf8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    os.replace(partial, target)
    return count
