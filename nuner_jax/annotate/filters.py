"""Which sentences of a corpus are worth an LLM's answer: of a fit length, like language, not seen before, one a document."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from nuner_jax.annotate.align import is_unspaced
from nuner_jax.annotate.corpus import Document
from nuner_jax.annotate.records import Sentence
from nuner_jax.annotate.sentences import Span, split_line, split_lines, split_sentences
from nuner_jax.errors import InputError

MIN_WORDS, MAX_WORDS, MAX_CHARS = 5, 120, 800


def select(
    documents: Iterable[Document],
    counts: Counter[str],
    *,
    split: bool = True,
    filters: bool = True,
    per_document: int = 1,
    limit: int = 0,
    seed: int = 0,
) -> Iterator[Sentence]:
    """The sentences to annotate, in the order of the corpus; each is a literal slice of its document.

    Without `split` every text is one sentence as it stands. With `filters`, what is unfit or has been seen goes, and of each
    document the first `per_document` (0: all) by a hash of their text and `seed` are taken. What was looked at and dropped is
    counted by reason; memory does not grow with the corpus.
    """
    seen = Seen() if filters else None
    taken = 0
    for document in documents:
        counts["document: read"] += 1
        spans = _of_document(document.text, seen, counts, split, per_document if filters else 0, seed)
        if not spans:
            counts["document: no sentence left"] += 1
        for start, end in spans:
            counts["sentence: taken"] += 1
            whole = start == 0 and end == len(document.text)
            yield Sentence(document.text[start:end], document.id if whole else f"{document.id}:{start}", document.source)
            taken += 1
            if taken == limit:
                return


def _of_document(text: str, seen: "Seen | None", counts: Counter[str], split: bool, per_document: int, seed: int) -> list[Span]:
    if not split:
        whole = [(0, len(text))] if text.strip() else []
        return [span for span in whole if seen is None or _is_new(text, seen, counts)]
    if seen is None or not per_document:
        spans = split_sentences(text)
        return [(start, end) for start, end in spans if seen is None or _is_new(text[start:end], seen, counts)]
    return sorted(_sample(text, seen, counts, per_document, seed))


def _sample(text: str, seen: "Seen", counts: Counter[str], wanted: int, seed: int) -> list[Span]:
    """`wanted` sentences by hash. Lines come by a hash weighted with their length, so that every sentence has about the same
    chance, and a line is split only when its turn comes: splitting is what takes the time.
    """
    taken: list[Span] = []
    left: list[Span] = []
    for line in sorted(split_lines(text), key=lambda span: -math.log(_uniform(text[slice(*span)], seed)) / (span[1] - span[0])):
        spans = sorted(split_line(text, line), key=lambda span: (_uniform(text[slice(*span)], seed), span))
        for i, (start, end) in enumerate(spans):
            if _is_new(text[start:end], seen, counts):
                taken.append((start, end))
                left += spans[i + 1 :]
                break  # another line before a second sentence of this one
        if len(taken) == wanted:
            return taken
    for start, end in sorted(left, key=lambda span: (_uniform(text[slice(*span)], seed), span)):
        if len(taken) < wanted and _is_new(text[start:end], seen, counts):
            taken.append((start, end))
    return taken


def _uniform(text: str, seed: int) -> float:
    """A number in (0, 1) that depends on the text and the seed alone."""
    return (_fingerprint(text, seed) + 0.5) / 2**64


def _is_new(sentence: str, seen: "Seen", counts: Counter[str]) -> bool:
    reason = unfit(sentence) or seen.repeats(sentence)
    if reason:
        counts[f"sentence: {reason}"] += 1
    return not reason


# Fit for annotation

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")
_CODE = re.compile(r"[{}]|</?\w+[^<>]*>|\w\(\)|;\s*$|==|&\w+;|\\\w|lorem ipsum|javascript", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://\S+|www\.\S+|\S+@\S+\.\w+")


def unfit(sentence: str) -> str:
    """Why a sentence is not worth annotating, or "". Thresholds are loose: what is left out is no sentence in any language."""
    if len(sentence) > MAX_CHARS:
        return "too long"
    words = _WORD.findall(sentence)
    unspaced = sum(map(is_unspaced, sentence))
    size = len(words) + unspaced / 2  # a Han or kana word has about two characters
    if size < MIN_WORDS:
        return "too short"
    if len(words) > MAX_WORDS:
        return "too long"
    letters = sum(map(str.isalpha, sentence))
    blanks = sentence.count(" ")
    if letters + blanks < 0.75 * len(sentence):
        return "few letters"
    if _CODE.search(sentence) or len(_ADDRESS.findall(sentence)) > 2:
        return "code or markup"
    if unspaced:
        return ""  # the rest is about scripts with blanks and two cases
    if not 2 <= letters / len(words) <= 15:
        return "odd words"
    if sum(map(str.isupper, sentence)) > 0.5 * letters or sum(word[0].isupper() for word in words) > 0.8 * len(words) >= 8:
        return "capitals"
    if len({word.casefold() for word in words}) < 0.4 * len(words):
        return "repetitive"
    return ""


# Seen before

_SHINGLE = 5
_PERMUTATIONS = 64
_BANDS = 8  # of 8 values each: Jaccard similarity 0.9 is found at 99 %, 0.8 at 77 %, 0.5 at 3 %


class Seen:
    """What has been seen, exactly or nearly, in a fixed amount of memory: about the last million sentences."""

    def __init__(self, slots: int = 1 << 23):
        self._minhash = _minhash()
        self._texts = Fingerprints(slots // 8)
        self._bands = Fingerprints(slots)

    def repeats(self, sentence: str) -> str:
        """Says "duplicate", "near duplicate" (most five-letter pieces are those of an earlier one) or "", and remembers it.

        Case, punctuation and digits make no difference.
        """
        plain = _plain(sentence)
        if self._texts.add(_fingerprint(plain)):
            return "duplicate"
        shingles = sorted({plain[i : i + _SHINGLE] for i in range(max(1, len(plain) - _SHINGLE + 1))})
        sketch = self._minhash(num_perm=_PERMUTATIONS, seed=0)
        sketch.update(shingles)
        values = np.asarray(sketch.digest(), "<u4").reshape(_BANDS, -1)
        known = [self._bands.add(_fingerprint(bytes([band]) + row.tobytes())) for band, row in enumerate(values)]
        return "near duplicate" if any(known) else ""


def _minhash() -> Any:
    try:
        import rensa
    except ImportError:
        raise InputError("finding near-duplicates needs rensa: pip install 'nuner-jax[llm]'") from None
    return rensa.RMinHash  # type: ignore[attr-defined]  # a binary module without stubs


def _plain(sentence: str) -> str:
    return re.sub(r"\d", "0", " ".join(_WORD.findall(sentence.casefold())))


def _fingerprint(data: str | bytes, seed: int = 0) -> int:
    """64 bits, never 0, which marks an empty slot."""
    data = data.encode("utf8", "surrogatepass") if isinstance(data, str) else data
    digest = hashlib.blake2b(data, digest_size=8, salt=seed.to_bytes(8, "big", signed=True)).digest()
    return int.from_bytes(digest, "big") or 1


class Fingerprints:
    """A set of 64-bit numbers in a table of fixed size: a full bucket forgets its oldest. It never says known of a new one
    but by a collision of 64 bits.
    """

    _WIDTH = 8

    def __init__(self, slots: int):
        self._buckets = np.zeros((max(1, slots // self._WIDTH), self._WIDTH), np.uint64)

    def add(self, fingerprint: int) -> bool:
        """Whether it was there; it is now."""
        bucket = self._buckets[fingerprint % len(self._buckets)]
        if fingerprint in bucket.tolist():
            return True
        bucket[1:] = bucket[:-1]
        bucket[0] = fingerprint
        return False
