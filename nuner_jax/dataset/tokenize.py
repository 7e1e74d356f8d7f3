"""Annotated text to token ids with mentions as token spans."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nuner_jax.dataset.concepts import merge_spans
from nuner_jax.dataset.packing import TokenSpans
from nuner_jax.schema import AnnotatedText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def tokenize(
    records: Sequence[AnnotatedText],
    tokenizer: "PreTrainedTokenizerFast",
    counts: Counter[str],
    *,
    max_length: int,
    max_mentions: int,
) -> list[TokenSpans | None]:
    """One TokenSpans a record, special tokens included; None for a text that has no token. Drops are counted by reason.

    A token belongs to a mention if their characters overlap. A text of more than max_length tokens is cut at a word
    boundary; mentions that reach beyond the cut are dropped.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    encodings = backend.encode_batch([record.text for record in records])
    return [_one(record, e, counts, max_length, max_mentions) for record, e in zip(records, encodings, strict=True)]


def _one(record: AnnotatedText, encoding: Any, counts: Counter[str], max_length: int, max_mentions: int) -> TokenSpans | None:
    ids = np.asarray(encoding.ids, np.int32)
    special = encoding.special_tokens_mask
    if all(special):
        counts["sentence: no token"] += 1
        return None
    limit = len(record.text)
    if len(ids) > max_length:
        ids, limit = _cut(ids, encoding, max_length)
        counts["sentence: cut to the row length"] += 1
        if limit == 0:
            counts["sentence: one word longer than a row"] += 1
            return None
    spans: list[tuple[int, int, str]] = []
    for m in record.mentions:
        if m.end > limit:
            counts["mention: beyond the cut"] += 1
            continue
        first, last = encoding.char_to_token(m.start), encoding.char_to_token(m.end - 1)
        if first is None or last is None:  # an edge is a character that the tokenizer drops
            first, last = _overlapping(encoding.offsets, special, m.start, m.end)
        if first is None or last is None:
            counts["mention: no token"] += 1
        else:
            spans.append((first, last, m.concept))
    merged = merge_spans(spans)
    counts["mention: united with an overlapping one of the same concept"] += len(spans) - len(merged)
    if len(merged) > max_mentions:
        counts["mention: beyond the capacity of a row"] += len(merged) - max_mentions
        merged = merged[:max_mentions]
    return TokenSpans(ids, tuple(merged))


def _overlapping(offsets: list[tuple[int, int]], special: list[int], start: int, end: int) -> tuple[int | None, int | None]:
    inside = [i for i, (a, b) in enumerate(offsets) if not special[i] and a < end and b > start and b > a]
    return (inside[0], inside[-1]) if inside else (None, None)


def _cut(ids: np.ndarray, encoding: Any, max_length: int) -> tuple[np.ndarray, int]:
    """The first words that fit with the closing special tokens, and the end of their characters (0: none fits)."""
    special = encoding.special_tokens_mask
    tail = next(i for i, s in enumerate(reversed(special)) if not s)  # special tokens at the end
    keep = max_length - tail
    words = encoding.word_ids
    text_end = len(ids) - tail
    offsets = encoding.offsets
    # A word of the text ends where white space or another word of the pre-tokenizer follows.
    while keep > 0 and not special[keep - 1] and keep < text_end and words[keep] == words[keep - 1]:
        keep -= 1
    if keep <= 0 or special[keep - 1]:
        return ids[:0], 0
    return np.concatenate([ids[:keep], ids[len(ids) - tail :]]), offsets[keep - 1][1]
