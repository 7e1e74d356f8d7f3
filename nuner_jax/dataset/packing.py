"""Sentences of different lengths into rows of one length: best-fit decreasing, then the arrays of a row. Pure."""

from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from nuner_jax.errors import InputError


class TokenSpans(NamedTuple):
    """A tokenised sentence: token ids with its special tokens, and mentions as (first token, last token, concept)."""

    tokens: "array[int]"  # [T], of type "i"
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


def fill_rows(sentences: Sequence[TokenSpans], rows: Sequence[Sequence[int]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The packed rows, each a list of sentence numbers, without the zeros that pad them; padding is where segment_ids is 0.

    By name the values of all rows, one row after another, and how many of them each row has: tokens, segment_ids (1, 2, ...) and
    positions (from 0 in each segment), one a token; mentions, (first token, last token, concept id) in the order of the text;
    num_mentions, one a row. `tokens` of the sentences are arrays ("i").
    """
    placed = [sentences[i] for row in rows for i in row]  # S sentences
    lengths = np.array([len(s.tokens) for s in placed])
    counts = np.array([len(s.mentions) for s in placed])
    sizes = np.array([len(row) for row in rows])  # [R]
    heads = np.cumsum(sizes) - sizes  # [R] the first sentence of each row
    first = np.repeat(heads, sizes)  # [S] the first sentence of its row
    starts = np.cumsum(lengths) - lengths  # [S] the first token, of all rows' tokens
    per_row, mentions_per_row = np.add.reduceat(lengths, heads), np.add.reduceat(counts, heads)
    spans = chain.from_iterable(chain.from_iterable([s.mentions for s in placed]))
    mentions = np.fromiter(spans, np.int64, 3 * int(counts.sum())).reshape(-1, 3)
    mentions[:, :2] += np.repeat(starts - starts[first], counts)[:, None]
    return {
        "tokens": (np.frombuffer(b"".join([s.tokens for s in placed]), np.intc), per_row),
        "segment_ids": (np.repeat(np.arange(len(placed)) - first + 1, lengths), per_row),
        "positions": (np.arange(lengths.sum()) - np.repeat(starts, lengths), per_row),
        "mentions": (mentions.ravel(), 3 * mentions_per_row),
        "num_mentions": (mentions_per_row, np.ones_like(sizes)),
    }
