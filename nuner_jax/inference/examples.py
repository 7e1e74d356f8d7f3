"""Examples in the forms that people have them: tagged words, texts with spans, bracket markup, files, spaCy Docs."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuner_jax.errors import InputError
from nuner_jax.evaluate.readers import parse_brackets, read_tagged
from nuner_jax.inference.words import words_of
from nuner_jax.schema import TaggedSentence, WordSpan, is_unicode, read_json_lines, spans_from_tags, tags_from_spans

Span = tuple[int, int, str]
"""(first character, after the last, type)"""


@dataclass(frozen=True)
class Example:
    """A text with the characters of its words and of its mentions."""

    text: str
    words: tuple[tuple[int, int], ...]
    spans: tuple[Span, ...]

    def labels(self, units: Sequence[tuple[int, int]], types: Mapping[str, int]) -> list[int]:
        """The label of every unit that a mention touches, 0 elsewhere; of overlapping mentions the first, then longest, holds."""
        spans = []
        for start, end, kind in self.spans:
            touched = [i for i, (a, b) in enumerate(units) if a < end and start < b]
            if touched:
                spans.append(WordSpan(touched[0], touched[-1] + 1, kind))
        return [types.get(tag[2:], 0) for tag in tags_from_spans(spans, len(units))]


def from_words(sentence: TaggedSentence) -> Example:
    """Words joined by blanks."""
    words, end = [], 0
    for word in sentence.words:
        words.append((end, end + len(word)))
        end += len(word) + 1
    spans = [(words[s.start][0], words[s.end - 1][1], s.type) for s in spans_from_tags(sentence.tags)]
    return Example(" ".join(sentence.words), tuple(words), tuple(spans))


def from_text(text: str, spans: Iterable[Any], where: str) -> Example:
    """A text with spans, each (start, end, type), an object with start, end and label, or a mapping of these. Raises InputError."""
    if not is_unicode(text):
        raise InputError(f"{where}: half of a surrogate pair, which is not valid Unicode")
    found = tuple(_span(span, text, where) for span in spans)
    return Example(text, tuple(words_of(text)), found)


def _span(span: Any, text: str, where: str) -> Span:
    if isinstance(span, Mapping):
        kind = next((span[key] for key in ("label", "type", "concept") if key in span), None)
        parts = (span.get("start"), span.get("end"), kind)
    elif isinstance(span, (tuple, list)) and len(span) == 3:
        parts = tuple(span)
    else:
        parts = tuple(getattr(span, name, None) for name in ("start", "end", "label"))
    start, end, kind = parts
    if type(start) is not int or type(end) is not int or not isinstance(kind, str) or not kind:
        raise InputError(f"{where}: a span has to be (start, end, type), got {span!r:.80}")
    if not 0 <= start < end <= len(text):
        raise InputError(f"{where}: span {start}..{end} is not inside a text of {len(text)} characters")
    return start, end, kind


def read_examples(examples: Any) -> list[Example]:
    """Examples from any of: a path (.bio, .conll, .txt with bracket markup, .json/.jsonl), or a sequence of TaggedSentence,
    bracket markup, (text, spans), {"text", "entities"} and spaCy Docs.

    Raises InputError that names the example, if one is malformed or none has a mention.
    """
    if isinstance(examples, (str, os.PathLike)):
        found = read_file(Path(examples))
        where = str(examples)
    else:
        if isinstance(examples, (TaggedSentence, Mapping)) or not isinstance(examples, Iterable):
            raise InputError(f"examples: expected a list of examples or the path of a file, got {type(examples).__name__}")
        found = [read_one(example, f"example {n}") for n, example in enumerate(examples, start=1)]
        where = "examples"
    if not any(example.spans for example in found):
        raise InputError(f"{where}: none of {len(found)} examples has a mention")
    return found


def read_one(example: Any, where: str) -> Example:
    """One example of any form. Raises InputError."""
    if isinstance(example, Example):
        return example
    if isinstance(example, TaggedSentence):
        return from_words(example)
    if isinstance(example, str):
        try:
            return from_text(*parse_brackets(example), where)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from None
    if isinstance(example, Mapping):
        spans = next((example[key] for key in ("entities", "mentions", "spans") if key in example), None)
        return _text_and_spans(example.get("text"), spans, where)
    if isinstance(example, (tuple, list)) and len(example) == 2:
        text, spans = example
        return _text_and_spans(text, spans["entities"] if isinstance(spans, Mapping) and "entities" in spans else spans, where)
    document: Any = example
    if hasattr(example, "text") and hasattr(example, "ents"):  # a spaCy Doc
        return from_text(document.text, [(e.start_char, e.end_char, e.label_) for e in document.ents], where)
    raise InputError(f"{where}: expected tagged words, (text, spans), bracket markup or a spaCy Doc, got {example!r:.60}")


def _text_and_spans(text: Any, spans: Any, where: str) -> Example:
    if not isinstance(text, str) or isinstance(spans, (str, Mapping)) or not isinstance(spans, Iterable):
        raise InputError(f"{where}: expected a text and a list of spans, got {text!r:.40} and {spans!r:.40}")
    return from_text(text, spans, where)


def read_file(path: Path) -> list[Example]:
    """A file of tagged sentences (evaluate's readers), or JSON lines of {"text", "entities"}. Raises InputError."""
    if path.suffix.lower() == ".jsonl":
        rows = list(read_json_lines(path))
        if rows and isinstance(rows[0][1], dict) and "text" in rows[0][1]:
            return [read_one(row, f"{path}, line {number}") for number, row in rows]
    if path.suffix.lower() == ".txt":  # as texts, with their own blanks
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from None
        return [read_one(line.strip(), f"{path}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]
    return [from_words(sentence) for sentence in read_tagged(path, Counter())]


def bundled_texts(each: int = 40) -> list[str]:
    """Sentences of the bundled tasks, to try a model on."""
    from nuner_jax.evaluate.tasks import BUNDLED, bundled

    return [example.text for name in BUNDLED for example in read_file(bundled(name)[1])[:each]]
