"""Annotated text to token ids with mentions as token spans.

Most words of a corpus have been seen before, so words are tokenised once and looked up from then on. That gives exactly what the
tokenizer gives for the whole text wherever it splits at blanks anyway; whatever could be otherwise goes through the tokenizer whole.
"""

import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from nuner_jax.dataset.concepts import merge_spans
from nuner_jax.dataset.packing import TokenSpans
from nuner_jax.schema import AnnotatedText

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKEN = array("i").itemsize
MAX_WORDS = 500_000
"""Words that are remembered; then memory starts anew."""
OPAQUE = ()
"""Stands for the tokens of a word that do not tell those of a text with it: such a text is not taken apart."""
WORDS_AT_ONCE = 500
"""New words that go through the tokenizer as one text, which costs half of what they cost one by one."""

Offsets = Sequence[tuple[int, int]]  # the characters of each token; empty where a token has none


class TextTokenizer:
    """A tokenizer with a memory for words; one a process."""

    def __init__(self, backend: "Tokenizer"):
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        example = backend.encode("a")
        text = [i for i, special in enumerate(example.special_tokens_mask) if not special]
        self.prefix, self.suffix = example.ids[: text[0]], example.ids[text[-1] + 1 :]
        self.by_words = splits_at_blanks(backend)
        added = [re.escape(token.content) for token in backend.get_added_tokens_decoder().values()]
        self.added = re.compile("|".join(added) or r"(?!)").search
        self.forget()

    def __call__(
        self, records: Sequence[AnnotatedText], counts: Counter[str], *, max_length: int, max_mentions: int
    ) -> list[TokenSpans | None]:
        """One TokenSpans a record, special tokens included; None for a text that has no token. Drops are counted by reason.

        A token belongs to a mention if their characters overlap. A text of more than max_length tokens is cut at a word
        boundary; mentions that reach beyond the cut are dropped.
        """
        found: list[TokenSpans | None] = [None] * len(records)
        if self.by_words:
            found = self._joined(records, counts, max_length, max_mentions)
        whole = [i for i, sentence in enumerate(found) if sentence is None]
        encodings = self.backend.encode_batch([records[i].text for i in whole])
        for i, encoding in zip(whole, encodings, strict=True):
            found[i] = tokenize_whole(records[i], encoding, counts, max_length, max_mentions)
        return found

    def _joined(
        self, records: Sequence[AnnotatedText], counts: Counter[str], max_length: int, max_mentions: int
    ) -> list[TokenSpans | None]:
        """The records whose words are all known by themselves and fit; None for the others."""
        if len(self.words) > MAX_WORDS:
            self.forget()
        split = [record.text.split(" ") for record in records]
        found = [list(map(self.words.get, texts)) for texts in split]
        new = [i for i, words in enumerate(found) if None in words]
        self.learn({text for i in new for text, word in zip(split[i], found[i], strict=True) if word is None})
        prefix, suffix = (array("i", ids).tobytes() for ids in (self.prefix, self.suffix))
        longest = TOKEN * max_length - len(prefix) - len(suffix)
        for i in new:
            found[i] = [self.words[text] for text in split[i]]
        result: list[TokenSpans | None] = []
        for record, texts, pieces in zip(records, split, found, strict=True):
            words: Any = pieces
            if OPAQUE in words or not 0 < len(ids := b"".join(words)) <= longest:
                result.append(None)
                continue
            spans = self._spans(record, texts, words, counts) if record.mentions else ()
            result.append(TokenSpans(array("i", prefix + ids + suffix), fit(spans, max_mentions, counts)))
        return result

    def _spans(
        self, record: AnnotatedText, texts: Sequence[str], words: Sequence[bytes], counts: Counter[str]
    ) -> list[tuple[int, int, str]]:
        """The mentions as tokens of the joined words."""
        text, ragged, starts = record.text, self.ragged, None
        ends = list(accumulate(map(len, words), initial=TOKEN * len(self.prefix)))  # of the words before each word, in bytes
        spans: list[tuple[int, int, str]] = []
        for m in record.mentions:
            start, end = m.start, m.end
            first = text.count(" ", 0, start)
            last = first + text.count(" ", start, end)
            if (
                (not start or text[start - 1] == " ")
                and (end == len(text) or text[end] == " ")
                and texts[first] not in ragged
                and texts[last] not in ragged
                and start < end
            ):
                spans.append((ends[first] // TOKEN, ends[last + 1] // TOKEN - 1, m.concept))  # whole words, as most mentions are
                continue
            starts = starts or list(accumulate([len(word) + 1 for word in texts], initial=0))
            offsets = [self.offsets[word] for word in texts]
            where = locate(start, end, offsets, starts, [n // TOKEN for n in ends])
            if where is None:
                counts["mention: no token"] += 1
            else:
                spans.append((*where, m.concept))
        return spans

    def forget(self) -> None:
        """Empties the memory."""
        self.words: dict[str, bytes | tuple[()]] = {"": OPAQUE}  # token ids
        self.offsets: dict[str, Offsets] = {}  # characters within the word
        self.ragged: set[str] = set()  # words of which the first or the last token does not reach the word's end

    def learn(self, words: set[str]) -> None:
        """Remembers the tokens of words that are new."""
        plain = [word for word in words if word.split() == [word] and not self.added(word)]
        self.words.update(dict.fromkeys(words, OPAQUE))
        for first in range(0, len(plain), WORDS_AT_ONCE):
            self._learn(plain[first : first + WORDS_AT_ONCE])

    def _learn(self, words: Sequence[str]) -> None:
        encoding = self.backend.encode(" ".join(words), add_special_tokens=False)
        ids, spans = encoding.ids, encoding.offsets
        token = start = 0
        for word in words:
            first, end = token, start + len(word)
            while token < len(ids) and spans[token][0] < end:
                token += 1
            offsets = [(max(a - start, 0), b - start) for a, b in spans[first:token]]
            self.words[word] = array("i", ids[first:token]).tobytes()
            self.offsets[word] = offsets
            if not offsets or not offsets[0][0] == 0 < offsets[0][1] or not offsets[-1][0] < offsets[-1][1] == len(word):
                self.ragged.add(word)
            start = end + 1


def splits_at_blanks(backend: "Tokenizer") -> bool:
    """Whether a text's tokens are those of its words one by one, where single blanks are between them: true of BERT's tokenizers
    and of byte-level BPE with a leading blank for the first word; of others nothing is claimed."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel

    before, normalizer, model = backend.pre_tokenizer, backend.normalizer, backend.model
    added = backend.get_added_tokens_decoder().values()
    if getattr(model, "dropout", None) or any(token.content.split() != [token.content] for token in added):
        return False
    if isinstance(before, BertPreTokenizer):
        return isinstance(normalizer, BertNormalizer) and not any(token.normalized for token in added)
    byte_level: Any = before
    return isinstance(before, ByteLevel) and normalizer is None and byte_level.add_prefix_space and byte_level.use_regex


def locate(
    start: int, end: int, words: Sequence[Offsets], starts: Sequence[int], tokens: Sequence[int]
) -> tuple[int, int] | None:
    """The first and the last token that share a character with start..end; None if there is none.

    `words` holds the offsets of the tokens of each word, `starts` and `tokens` are its first character and its first token.
    """
    first = _first(start, end, words, starts, tokens)
    last = _last(start, end, words, starts, tokens)
    return None if first is None or last is None else (first, last)


def _first(start: int, end: int, words: Sequence[Offsets], starts: Sequence[int], tokens: Sequence[int]) -> int | None:
    for word in range(bisect_right(starts, start) - 1, len(words)):
        origin = starts[word]
        if origin >= end:
            return None
        for i, (a, b) in enumerate(words[word]):
            if b > a and origin + b > start:
                return tokens[word] + i if origin + a < end else None
    return None


def _last(start: int, end: int, words: Sequence[Offsets], starts: Sequence[int], tokens: Sequence[int]) -> int | None:
    for word in range(min(bisect_left(starts, end), len(words)) - 1, -1, -1):
        origin, offsets = starts[word], words[word]
        for i in range(len(offsets) - 1, -1, -1):
            a, b = offsets[i]
            if b > a and origin + a < end:
                return tokens[word] + i if origin + b > start else None
    return None


def fit(spans: Iterable[tuple[int, int, str]], max_mentions: int, counts: Counter[str]) -> tuple[tuple[int, int, str], ...]:
    """Token spans with overlapping ones of a concept united, and no more than a row holds."""
    spans = list(spans)
    merged = merge_spans(spans)
    if len(merged) < len(spans):
        counts["mention: united with an overlapping one of the same concept"] += len(spans) - len(merged)
    if len(merged) > max_mentions:
        counts["mention: beyond the capacity of a row"] += len(merged) - max_mentions
        merged = merged[:max_mentions]
    return tuple(merged)


def tokenize_whole(
    record: AnnotatedText, encoding: Any, counts: Counter[str], max_length: int, max_mentions: int
) -> TokenSpans | None:
    """The sentence of a text that went through the tokenizer as a whole."""
    ids, special = encoding.ids, encoding.special_tokens_mask
    if all(special):
        counts["sentence: no token"] += 1
        return None
    limit = len(record.text)
    if len(ids) > max_length:
        ids, limit = cut(encoding, max_length)
        counts["sentence: cut to the row length"] += 1
        if limit == 0:
            counts["sentence: one word longer than a row"] += 1
            return None
    offsets = [(0, 0) if skip else span for skip, span in zip(special, encoding.offsets, strict=True)]
    spans: list[tuple[int, int, str]] = []
    for m in record.mentions:
        where = locate(m.start, m.end, [offsets], [0], [0]) if m.end <= limit else None
        if where is not None:
            spans.append((*where, m.concept))
        else:
            counts["mention: beyond the cut" if m.end > limit else "mention: no token"] += 1
    return TokenSpans(array("i", ids), fit(spans, max_mentions, counts))


def cut(encoding: Any, max_length: int) -> tuple[list[int], int]:
    """The first words that fit with the closing special tokens, and the end of their characters (0: none fits)."""
    ids, special = encoding.ids, encoding.special_tokens_mask
    tail = next(i for i, s in enumerate(reversed(special)) if not s)  # special tokens at the end
    keep = max_length - tail
    words = encoding.word_ids
    text_end = len(ids) - tail
    # A word of the text ends where white space or another word of the pre-tokenizer follows.
    while keep > 0 and not special[keep - 1] and keep < text_end and words[keep] == words[keep - 1]:
        keep -= 1
    if keep <= 0 or special[keep - 1]:
        return [], 0
    return [*ids[:keep], *ids[text_end:]], encoding.offsets[keep - 1][1]
