"""Documents to sentences, by offsets: every sentence is a literal slice of its document."""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

from nuner_jax.errors import InputError

Span = tuple[int, int]


def split_sentences(text: str) -> Iterator[Span]:
    """(start, end) of every sentence, in order, without the blanks around it; together they hold all that is not blank.

    A line break always ends a sentence: in web text it ends a paragraph, a heading or a list item.
    """
    for line in split_lines(text):
        yield from split_line(text, line)


def split_lines(text: str) -> list[Span]:
    """(start, end) of every line that is not blank."""
    return [(m.start(), m.end()) for m in re.finditer(r"[^\r\n]+", text) if not m[0].isspace()]


def split_line(text: str, line: Span) -> Iterator[Span]:
    """The sentences of text[line]. Each reaches to the next one's first token, as the library may rewrite the tokens between."""
    start, end = line
    content = text[start:end]
    offsets = [sentence[0].offset for paragraph in _splitter()(content) for sentence in paragraph if sentence]
    for first, last in itertools.pairwise([0, *offsets[1:], len(content)]):
        sentence = content[first:last].strip()
        if sentence:
            begin = start + content.index(sentence, first)
            yield begin, begin + len(sentence)


def _splitter() -> Callable[[str], Any]:
    """syntok's `analyze`, which gives offsets (its `process` rewrites contractions)."""
    try:
        from syntok.segmenter import analyze
    except ImportError:
        raise InputError("splitting into sentences needs syntok: pip install 'nuner-jax[llm]'") from None
    return analyze
