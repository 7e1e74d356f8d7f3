"""Where in the text a mention stands: the reply carries no positions, because LLMs count badly (paper, section 3)."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nuner_jax.schema import Mention


class Annotation(NamedTuple):
    """One line of a reply: a string of the text, its concept, what the concept means (may be empty)."""

    mention: str
    concept: str
    description: str = ""


def align(text: str, annotations: Iterable[Annotation]) -> tuple[tuple[Mention, ...], Counter[str]]:
    """Character spans of the annotations in the text, in text order, and how many were dropped by reason.

    Each stands at the first free occurrence after the one before it, else at the first free one anywhere: case-sensitive, at
    word boundaries (`is_boundary`), overlaps kept. An occurrence is free while no other mention has exactly this span; when
    none is, the annotation joins the first span that does not carry its concept yet, so that one mention may have two concepts.
    A line that repeats an earlier one whole is a slip of the model's and no further mention, unless one follows in the text.
    If the text holds the mention nowhere, typographic quotes, dashes and blanks are taken as plain ones on both sides.

    Reasons: `not in text`, `not at word boundary` (only inside words), `duplicate` (repeated, or more often than the text holds it).
    """
    mentions: list[Mention] = []
    dropped: Counter[str] = Counter()
    concepts: dict[tuple[int, int], set[str]] = {}  # span -> its concepts so far
    seen: set[Annotation] = set()
    cursor = 0
    for annotation in annotations:
        mention, concept, description = annotation
        starts = locate(text, mention)
        if not starts:
            found = mention.strip() and (mention in text or _plain(mention) in _plain(text))
            dropped["not at word boundary" if found else "not in text"] += 1
            continue
        free = [s for s in starts if (s, s + len(mention)) not in concepts]
        other = [s for s in starts if concept not in concepts.get((s, s + len(mention)), set())]
        candidates = free or other
        if annotation in seen:
            candidates = [s for s in free if s >= cursor]
        seen.add(annotation)
        if not candidates:
            dropped["duplicate"] += 1
            continue
        start = next((s for s in candidates if s >= cursor), candidates[0])
        cursor = start + len(mention)
        concepts.setdefault((start, cursor), set()).add(concept)
        mentions.append(Mention(start, cursor, concept, description))
    mentions.sort(key=lambda m: (m.start, -m.end))
    return tuple(mentions), dropped


def locate(text: str, mention: str) -> list[int]:
    """Every start of the mention in the text at word boundaries; by plain typography if the text does not hold it literally."""
    starts = list(_occurrences(text, mention))
    if not starts and mention.strip() and mention not in text:
        starts = list(_occurrences(_plain(text), _plain(mention)))  # _plain keeps lengths, so the offsets hold
    return starts


def occurs(text: str, mention: str) -> bool:
    """Whether the text holds the mention literally, at word boundaries."""
    return next(_occurrences(text, mention), None) is not None


def _occurrences(text: str, mention: str) -> Iterator[int]:
    start = text.find(mention) if mention.strip() else -1
    while start >= 0:
        end = start + len(mention)
        if is_boundary(text, start) and is_boundary(text, end) and not (mention[-1] in "'’" and text[end : end + 1].isalnum()):
            yield start  # the apostrophe of "Ann's" is not the end of a word
        start = text.find(mention, start + 1)


def is_boundary(text: str, i: int) -> bool:
    """Whether a mention may begin or end between text[i-1] and text[i].

    Not inside a character as a reader sees it (before a combining mark, beside a zero-width joiner), and not between two word
    characters. Letters of scripts that are written without blanks (Han, kana, Thai, ...) and of Hangul, where particles join
    the noun, are no word characters here. An underscore is one where it joins two words (snake_case), not as emphasis.
    """
    if not 0 < i < len(text):
        return True
    left, right = text[i - 1], text[i]
    if left == " " or right == " ":  # most boundaries by far
        return True
    if right in _EXTENDERS or left in _JOINERS or unicodedata.category(right)[0] == "M":
        return False
    return not (_is_word(text, i - 1, -1) and _is_word(text, i, 1))


_JOINERS = "\u200c\u200d"  # zero-width non-joiner and joiner: both stand inside words (Persian, Indic) and emoji
_EXTENDERS = _JOINERS + "".join(map(chr, range(0x1F3FB, 0x1F400)))  # and skin tones

# Scripts written without blanks between words, and Hangul.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x109F),  # Tibetan, Myanmar
    (0x1100, 0x11FF),  # Hangul Jamo
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x31FF),  # Han radicals, kana, Bopomofo, Hangul compatibility
    (0x3400, 0x9FFF),  # Han
    (0xA960, 0xA97F),  # Hangul Jamo
    (0xAC00, 0xD7FF),  # Hangul
    (0xF900, 0xFAFF),  # Han compatibility
    (0xFF66, 0xFFDC),  # half-width kana and Hangul
    (0x20000, 0x3FFFF),  # Han extensions
)


def _is_word(text: str, i: int, outwards: int) -> bool:
    """Whether text[i] is part of a spaced word, seen from a boundary; `outwards` points away from it."""
    while 0 <= i < len(text) and text[i] == "_":
        i += outwards
    if not 0 <= i < len(text):
        return False
    char = text[i]
    if char.isascii():
        return char.isalnum()
    if not char.isalnum() and unicodedata.category(char)[0] != "M":
        return False
    return not is_unspaced(char)


def is_unspaced(char: str) -> bool:
    """Whether a character is of a script that is written without blanks between words, or Hangul."""
    code = ord(char)
    return code >= 0xE00 and any(first <= code <= last for first, last in _UNSPACED)


_PLAIN = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′`´", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **dict.fromkeys("\t\n\r\v\f\u00a0\u2002\u2003\u2007\u2009\u200a\u202f\u3000", " "),
    }
)


def _plain(text: str) -> str:
    """Typographic quotes, dashes and blanks as their ASCII forms, character for character."""
    return text.translate(_PLAIN)
