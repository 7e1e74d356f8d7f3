"""Annotated texts from files of many kinds, each with the licence that its data comes under."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from nuner_jax.annotate.parse import annotate_reply
from nuner_jax.errors import InputError
from nuner_jax.schema import AnnotatedText, read_annotated, read_json_lines

Reader = Callable[[str, Counter[str]], Iterator[AnnotatedText]]


class Importer(NamedTuple):
    """How to read one kind of file, and what its users must know."""

    read: Reader
    licence: str
    source: str


def read_any(path: str | os.PathLike[str], counts: Counter[str], format: str = "auto") -> Iterator[AnnotatedText]:
    """The annotated texts of a file. What is dropped is counted in `counts` by reason (`line/...`, `mention/...`, `text/...`).

    `format` is a key of IMPORTERS or "auto". A malformed file is an InputError with file and line.
    """
    kind = detect(path) if format == "auto" else format
    if kind not in IMPORTERS:
        raise InputError(f"{path}: there is no format {kind!r}; the formats are {', '.join(IMPORTERS)}")
    return IMPORTERS[kind].read(os.fspath(path), counts)


def detect(path: str | os.PathLike[str]) -> str:
    """The format of a file, from its first record."""
    for _, record in read_json_lines(path):
        return "replies" if isinstance(record, dict) and "reply" in record and "mentions" not in record else "annotated"
    return "annotated"


def _read_annotated(path: str, counts: Counter[str]) -> Iterator[AnnotatedText]:
    del counts  # drops nothing
    return read_annotated(path)


def _read_replies(path: str, counts: Counter[str]) -> Iterator[AnnotatedText]:
    for number, record in read_json_lines(path):
        if not isinstance(record, dict) or not isinstance(record.get("text"), str) or not isinstance(record.get("reply"), str):
            raise InputError(f'{path}, line {number}: expected an object with the strings "text" and "reply"')
        annotated, dropped = annotate_reply(
            record["text"],
            record["reply"],
            finish_reason=str(record.get("finish_reason") or "stop"),
            id=str(record.get("id") or ""),
            source=str(record.get("source") or record.get("url") or ""),
        )
        counts.update(dropped)
        yield annotated


IMPORTERS: dict[str, Importer] = {
    "annotated": Importer(_read_annotated, "as its maker says", "nuner_jax annotate"),
    "replies": Importer(_read_replies, "as its maker says", 'recorded replies, {"text", "reply"} a line'),
}
