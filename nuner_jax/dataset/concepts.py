"""Concept names: normalised, filtered, numbered by frequency, tokenised once for the whole training set."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nuner_jax.dataset.backend import Backend
from nuner_jax.errors import InputError
from nuner_jax.schema import AnnotatedText, Mention, is_unicode, read_json_lines, write_json_lines

_SPACES = re.compile(r"[\s_]+")
_EDGES = " \t.,;:!?\"'`´‘’“”„«»()[]{}<>*#/\\|-–—"
_ARTICLE = re.compile(r"^(?:a|an|the) (?=\S)")


@lru_cache(maxsize=100_000)
def normalise_concept(name: str) -> str:
    """NFC, lower case, single blanks for white space and underscores, no quotes, brackets or articles at the edges.

    >>> normalise_concept(' "The Movie_Title." ')
    'movie title'
    """
    name = _SPACES.sub(" ", unicodedata.normalize("NFC", name).lower()).strip(_EDGES)
    return _ARTICLE.sub("", name).strip(_EDGES)


def clean(record: AnnotatedText, drop_generic: bool, counts: Counter[str]) -> AnnotatedText | None:
    """The record with normalised concepts; None if it is dropped as a whole. What is dropped is added to `counts`.

    drop_generic is the paper's filter: a sentence with an annotation whose concept is "concept" goes (section 3.1).
    """
    if not record.text.strip():
        counts["sentence: empty text"] += 1
        return None
    if not is_unicode(record.text):
        counts["sentence: not valid Unicode"] += 1
        return None
    mentions: list[Mention] = []
    seen: set[tuple[int, int, str]] = set()
    for m in record.mentions:
        concept = normalise_concept(m.concept)
        span = (m.start, m.end, concept)
        if drop_generic and concept == "concept":
            counts['sentence: has the concept "concept"'] += 1
            return None
        if not concept:
            counts["mention: empty concept"] += 1
        elif not (is_unicode(concept) and is_unicode(m.description)):
            counts["mention: not valid Unicode"] += 1
        elif span in seen:
            counts["mention: duplicate"] += 1
        else:
            seen.add(span)
            mentions.append(m if m.concept == concept else Mention(m.start, m.end, concept, m.description))
    return AnnotatedText(record.text, tuple(mentions), record.id, record.source)


@dataclass(frozen=True, slots=True)
class Concept:
    """A row of the concept table; `tokens` is what the concept encoder reads, special tokens included."""

    id: int
    name: str
    description: str
    frequency: int
    tokens: tuple[int, ...]


def build_table(
    frequency: Mapping[str, int],
    descriptions: Mapping[tuple[str, str], int],
    backend: Backend,
    *,
    max_length: int,
    with_description: bool,
) -> list[Concept]:
    """Concepts numbered from the most to the least frequent (ties by name), each with its most frequent description.

    frequency counts mentions by name, descriptions counts (name, description) pairs.
    """
    best: dict[str, tuple[int, str]] = {}
    for (name, description), count in descriptions.items():
        best[name] = min(best.get(name, (0, "")), (-count, description))
    names = sorted(frequency, key=lambda name: (-frequency[name], name))
    told = [best.get(name, (0, ""))[1] for name in names]
    texts = [f"{name}: {d}" if with_description and d else name for name, d in zip(names, told, strict=True)]
    tokens: list[list[int]] = []
    for i in range(0, len(texts), 10_000):
        tokens.extend(backend.encode(texts[i : i + 10_000], max_length))
    rows = zip(names, told, tokens, strict=True)
    return [Concept(i, name, d, frequency[name], tuple(ids)) for i, (name, d, ids) in enumerate(rows)]


def save_table(path: Path, table: Sequence[Concept]) -> None:
    """One JSON line a concept, in the order of the ids."""
    fields = ("id", "name", "description", "frequency", "tokens")
    write_json_lines(path, ({field: getattr(concept, field) for field in fields} for concept in table))


def load_table(path: Path) -> list[Concept]:
    """Raises InputError if a line is broken or the ids do not run from 0."""
    table: list[Concept] = []
    for number, row in read_json_lines(path):
        try:
            concept = Concept(row["id"], row["name"], row["description"], row["frequency"], tuple(row["tokens"]))
        except (KeyError, TypeError):
            raise InputError(f"{path}, line {number}: not a row of a concept table") from None
        if concept.id != len(table):
            raise InputError(f"{path}, line {number}: concept id {concept.id}, expected {len(table)}")
        table.append(concept)
    return table


def merge_spans(spans: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """(first, last, concept) token spans with those of one concept that overlap united, sorted.

    So no token is twice inside mentions of one concept, and positives can be summed mention by mention.
    """
    spans = sorted(spans)
    if len({concept for _, _, concept in spans}) == len(spans):
        return spans
    merged: list[tuple[int, int, str]] = []
    last_of: dict[str, int] = {}
    for first, last, concept in spans:
        i = last_of.get(concept)
        if i is not None and merged[i][1] >= first:
            merged[i] = (merged[i][0], max(merged[i][1], last), concept)
        else:
            last_of[concept] = len(merged)
            merged.append((first, last, concept))
    return merged
