"""Sentences of different lengths into rows of one length: best-fit decreasing, then the arrays of a row. Pure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from nuner_jax.errors import InputError


class TokenSpans(NamedTuple):
    """A tokenised sentence: token ids with its special tokens, and mentions as (first token, last token, concept)."""

    tokens: Sequence[int]  # [T]; an array("i") where there are many of them
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


def fill_row(sentences: Sequence[TokenSpans], row_length: int, mentions_per_row: int) -> dict[str, list[int]]:
    """The record of one packed row, padded with zeros; padding is where segment_ids is 0.

    tokens, segment_ids (1, 2, ...), positions (from 0 in each segment): [T].
    mentions: [M * 3] (first token, last token, concept id), in the order of the text; num_mentions: [1], how many of them are real.
    """
    tokens: list[int] = []
    segment_ids: list[int] = []
    positions: list[int] = []
    mentions: list[int] = []
    for segment, sentence in enumerate(sentences, start=1):
        start, n = len(tokens), len(sentence.tokens)
        tokens += sentence.tokens
        segment_ids += [segment] * n
        positions += range(n)
        for first, last, concept in sentence.mentions:
            mentions += (start + first, start + last, concept)
    padding = [0] * (row_length - len(tokens))
    return {
        "tokens": tokens + padding,
        "segment_ids": segment_ids + padding,
        "positions": positions + padding,
        "mentions": mentions + [0] * (3 * mentions_per_row - len(mentions)),
        "num_mentions": [len(mentions) // 3],
    }
