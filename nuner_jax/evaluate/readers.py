"""Readers of tagged sentences: .bio and CoNLL columns, bracket markup, GLiNER JSON. Errors name file and line."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nuner_jax.errors import InputError
from nuner_jax.schema import TaggedSentence, WordSpan, read_json_lines, tags_from_spans

WORD = re.compile(r"\w+(?:[-_'’]\w+)*|\S")
BLANKS = re.compile(r"[ \t]+")  # a no-break space is part of a word
BRACKET = re.compile(r"\[([^\[\]]*)\]\(([^()\[\]]*)\)")
_OPEN, _INSIDE, _LAST, _SINGLE = frozenset("B"), frozenset("IM"), frozenset("EL"), frozenset("SUW")
_PREFIXES = _OPEN | _INSIDE | _LAST | _SINGLE


def words_of(text: str) -> list[tuple[int, int]]:
    """Character spans of the words of untokenised text (the words rule of the bracket format)."""
    return [match.span() for match in WORD.finditer(text)]


def iob2(tags: Sequence[str], notes: Counter[str]) -> tuple[str, ...]:
    """IOB1, IOB2, IO and BIOES/BILOU tags as strict IOB2.

    An inside tag that continues nothing opens a mention, as in IOB1 and IO; `notes` counts those.
    """
    result: list[str] = []
    previous = ""  # type that the next inside tag would continue
    for tag in tags:
        if tag == "O":
            result.append("O")
            previous = ""
            continue
        prefix, kind = tag[0], tag[2:]
        if prefix in _OPEN or prefix in _SINGLE or previous != kind:
            if prefix not in _OPEN and prefix not in _SINGLE:
                notes["inside tag that opens a mention"] += 1
            result.append(f"B-{kind}")
        else:
            result.append(f"I-{kind}")
        previous = "" if prefix in _LAST or prefix in _SINGLE else kind
    return tuple(result)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip("\r\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _is_tag(tag: str) -> bool:
    return tag == "O" or (len(tag) > 2 and tag[0] in _PREFIXES and tag[1] == "-")


def check_tag(where: str, tag: str, scheme: str = "iob") -> str:
    """The tag, if it is one of the scheme (iob: O, B-type, I-type and their relatives; io: O or a bare type)."""
    if scheme == "io" and tag:
        return tag
    if not _is_tag(tag):
        raise InputError(f"{where}: tag {tag!r:.40} is outside the scheme (O, B-type, I-type)")
    return tag


def sentence_of(where: str, words: Sequence[str], tags: Sequence[str], scheme: str, notes: Counter[str]) -> TaggedSentence:
    """Words and tags of a scheme as a TaggedSentence. Raises InputError that begins with `where`."""
    for tag in dict.fromkeys(tags):
        check_tag(where, tag, scheme)
    if scheme == "io":
        runs = [t if t == "O" else f"{'BI'[i > 0 and tags[i - 1] == t]}-{t}" for i, t in enumerate(tags)]
        return TaggedSentence(tuple(words), tuple(runs))
    return TaggedSentence(tuple(words), iob2(tags, notes))


def separator_of(path: Path) -> str | None:
    """What parts the columns of a file: a tab if its first line of words has one, else blanks."""
    for _, line in _lines(path):
        if line.strip() and not line.startswith(("-DOCSTART-", "#")):
            return "\t" if "\t" in line else None
    return None


def read_columns(
    path: Path,
    notes: Counter[str],
    separator: str | None = "\t",
    word_column: int = 0,
    tag_column: int = -1,
    scheme: str = "iob",
    skip: str = "",
) -> list[TaggedSentence]:
    """`.bio` (token<TAB>tag) or, with separator None, CoNLL columns parted by blanks; the word's and the tag's by their number.

    A blank line ends a sentence; -DOCSTART- lines and those that begin with `skip` are left out. Raises InputError with file and
    line for a missing column or a tag outside the scheme.
    """
    least = max(2, *(column + 1 if column >= 0 else -column for column in (word_column, tag_column)))
    sentences: list[TaggedSentence] = []
    words: list[str] = []
    tags: list[str] = []
    known: set[str] = set()
    for number, line in _lines(path):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if words:
                sentences.append(sentence_of(str(path), words, tags, scheme, notes))
            words, tags = [], []
            continue
        if skip and line.startswith(skip):
            continue
        columns = line.split(separator) if separator else BLANKS.split(line.strip(" \t"))
        if (
            separator is None
            and line.startswith("# ")
            and not words
            and not (len(columns) >= least and _is_tag(columns[tag_column]))
        ):
            continue  # CoNLL-U style comment before a sentence
        if len(columns) < least or not columns[word_column]:
            form = "token<TAB>tag" if separator == "\t" and least == 2 else f"{least} or more columns"
            raise InputError(f"{path}, line {number}: expected {form}, got {line!r:.60}")
        tag = columns[tag_column].strip()
        if tag not in known:
            known.add(check_tag(f"{path}, line {number}", tag, scheme))
        words.append(columns[word_column])
        tags.append(tag)
    if words:
        sentences.append(sentence_of(str(path), words, tags, scheme, notes))
    return sentences


def parse_brackets(line: str) -> tuple[str, list[tuple[int, int, str]]]:
    """Bracket markup to plain text and (start, end, type) character spans. Raises ValueError that says what is wrong."""
    text, spans, end = "", [], 0
    for match in BRACKET.finditer(line):
        text += line[end : match.start()]
        mention, kind = match[1], match[2].strip()
        if not mention.strip() or not kind:
            raise ValueError(f"{match[0]!r:.60} has no {'type' if mention.strip() else 'mention'}")
        spans.append((len(text), len(text) + len(mention), kind))
        text += mention
        end = match.end()
    text += line[end:]
    if "](" in text:
        raise ValueError(f"broken markup at {text[max(0, text.index('](') - 20) :]!r:.60}; expected [mention](type)")
    return text, spans


def tagged_from_characters(text: str, spans: Iterable[tuple[int, int, str]], notes: Counter[str]) -> TaggedSentence:
    """Splits text into words and puts character spans on every word that they touch. Overlaps: the first, then longest, holds."""
    words = words_of(text)
    mentions = []
    for start, end, kind in spans:
        touched = [i for i, (a, b) in enumerate(words) if a < end and start < b]
        if not touched:
            notes["mention without a word"] += 1
            continue
        mentions.append(WordSpan(touched[0], touched[-1] + 1, kind))
    return TaggedSentence(tuple(text[a:b] for a, b in words), flat_tags(mentions, len(words), notes))


def flat_tags(spans: Sequence[WordSpan], num_words: int, notes: Counter[str]) -> tuple[str, ...]:
    """IOB2 tags of spans; those that IOB2 cannot hold because they overlap another are counted."""
    tags = tags_from_spans(spans, num_words)
    kept = sum(tag.startswith("B-") for tag in tags)
    if kept < len(spans):
        notes["overlapping mention left out"] += len(spans) - kept
    return tags


def read_brackets(path: Path, notes: Counter[str]) -> list[TaggedSentence]:
    """`[mention](type)` markup, one sentence a line."""
    sentences = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            text, spans = parse_brackets(line.strip())
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        sentences.append(tagged_from_characters(text, spans, notes))
    return sentences


def read_gliner(path: Path, notes: Counter[str]) -> list[TaggedSentence]:
    """GLiNER's JSON: a list, or JSON lines, of {"tokenized_text": [...], "ner": [[first, last, type], ...]}, ends inclusive."""
    rows: Iterable[tuple[str, Any]]
    if path.suffix == ".jsonl":
        rows = ((f"{path}, line {number}", row) for number, row in read_json_lines(path))
    else:
        try:
            loaded = json.loads("\n".join(line for _, line in _lines(path)))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not valid JSON ({error})") from None
        if not isinstance(loaded, list):
            raise InputError(f"{path}: expected a JSON list, got {type(loaded).__name__}")
        rows = ((f"{path}, item {i}", row) for i, row in enumerate(loaded))
    return [_gliner_sentence(where, row, notes) for where, row in rows]


def _gliner_sentence(where: str, row: Any, notes: Counter[str]) -> TaggedSentence:
    words = row.get("tokenized_text") if isinstance(row, dict) else None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InputError(f'{where}: "tokenized_text" is missing or not a list of strings')
    try:
        "".join(words).encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: half of a surrogate pair, which is not valid Unicode") from None
    if not isinstance(entries := row.get("ner") or [], list):
        raise InputError(f"{where}: ner is not a list: {entries!r:.60}")
    spans = []
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) >= 3 and type(entry[0]) is int and type(entry[1]) is int):
            raise InputError(f"{where}: an entry of ner is not [first, last, type]: {entry!r:.60}")
        if not 0 <= entry[0] <= entry[1] < len(words):
            raise InputError(f"{where}: words {entry[0]}..{entry[1]} are not inside a sentence of {len(words)} words")
        spans.append(WordSpan(entry[0], entry[1] + 1, str(entry[2])))
    return TaggedSentence(tuple(words), flat_tags(sorted(set(spans)), len(words), notes))


def read_tagged(path: Path, notes: Counter[str]) -> list[TaggedSentence]:
    """Reads a file by its ending: .bio, .conll/.tsv/.iob2, .txt (bracket markup), .json/.jsonl (GLiNER). Raises InputError."""
    match path.suffix.lower():
        case ".bio" | ".tsv":
            return read_columns(path, notes)
        case ".conll" | ".iob" | ".iob2" | ".conllu":
            return read_columns(path, notes, separator=None)
        case ".txt":
            return read_brackets(path, notes)
        case ".json" | ".jsonl":
            return read_gliner(path, notes)
    raise InputError(f"{path}: unknown ending {path.suffix!r}; known: .bio .tsv .conll .iob .iob2 .txt .json .jsonl")
