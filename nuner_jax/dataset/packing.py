"""Sentences of different lengths into rows of one length: best-fit decreasing, then the arrays of a row. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nuner_jax.errors import InputError


@dataclass(frozen=True, slots=True)
class TokenSpans:
    """A tokenised sentence: token ids with its special tokens, and mentions as (first token, last token, concept)."""

    tokens: np.ndarray  # [T] int32
    mentions: tuple[tuple[int, int, Any], ...]  # the concept is a name before, an id after the table is made


def pack(lengths: Sequence[int], counts: Sequence[int], row_length: int, max_count: int) -> list[list[int]]:
    """Item numbers row by row: in a row the lengths sum to at most row_length and the counts to at most max_count.

    Best-fit decreasing: longest first (ties by position), each into the fullest row that still holds it. Deterministic.
    Raises InputError if one item alone is too large.
    """
    rows: list[list[int]] = []
    row_counts: list[int] = []
    open_rows: list[list[int]] = [[] for _ in range(row_length + 1)]  # by tokens left; the newest row last
    available = 0  # bit n is set where open_rows[n] is not empty
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length, count = lengths[item], counts[item]
        if length > row_length or count > max_count or length < 1:
            raise InputError(f"item {item} ({length} tokens, {count} mentions) exceeds a row of {row_length}, {max_count}")
        row = -1
        fitting = available >> length
        left = length
        while fitting:
            skip = (fitting & -fitting).bit_length() - 1
            left += skip
            row = next((r for r in reversed(open_rows[left]) if row_counts[r] + count <= max_count), -1)
            if row >= 0:
                break
            fitting >>= skip + 1
            left += 1
        if row >= 0:
            open_rows[left].pop() if open_rows[left][-1] == row else open_rows[left].remove(row)
            if not open_rows[left]:
                available &= ~(1 << left)
        else:
            row, left = len(rows), row_length
            rows.append([])
            row_counts.append(0)
        rows[row].append(item)
        row_counts[row] += count
        left -= length
        open_rows[left].append(row)
        if left:
            available |= 1 << left
    return rows


def fill_row(sentences: Sequence[TokenSpans], row_length: int, mentions_per_row: int) -> dict[str, np.ndarray]:
    """The record of one packed row, padded with zeros; padding is where segment_ids is 0.

    tokens, segment_ids (1, 2, ...), positions (from 0 in each segment): [T] int32, int16, int16.
    mentions: [M, 3] int32 (first token, last token, concept id), sorted; num_mentions: how many of them are real.
    """
    tokens = np.zeros(row_length, np.int32)
    segment_ids = np.zeros(row_length, np.int16)
    positions = np.zeros(row_length, np.int16)
    mentions = np.zeros((mentions_per_row, 3), np.int32)
    start, count = 0, 0
    for segment, sentence in enumerate(sentences, start=1):
        n = len(sentence.tokens)
        tokens[start : start + n] = sentence.tokens
        segment_ids[start : start + n] = segment
        positions[start : start + n] = np.arange(n)
        for first, last, concept in sentence.mentions:
            mentions[count] = (start + first, start + last, concept)
            count += 1
        start += n
    return {
        "tokens": tokens,
        "segment_ids": segment_ids,
        "positions": positions,
        "mentions": mentions,
        "num_mentions": np.int32(count),  # type: ignore[dict-item]
    }
