"""Packing: nothing lost, nothing over capacity, segments and positions as the encoder expects them."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.dataset.packing import TokenSpans, fill_rows, pack
from nuner_jax.errors import InputError

items = st.lists(st.tuples(st.integers(1, 32), st.integers(0, 6)), max_size=80)


@given(items)
def test_every_item_is_in_one_row_within_capacity(pairs):
    lengths, counts = [n for n, _ in pairs], [m for _, m in pairs]
    rows = pack(lengths, counts, 32, 8)
    assert sorted(i for row in rows for i in row) == list(range(len(pairs)))
    for row in rows:
        assert sum(lengths[i] for i in row) <= 32
        assert sum(counts[i] for i in row) <= 8


@given(items)
def test_no_two_rows_could_be_joined_when_only_tokens_bind(pairs):
    lengths = [n for n, _ in pairs]
    sums = sorted(sum(lengths[i] for i in row) for row in pack(lengths, [0] * len(lengths), 32, 0))
    assert len(sums) < 2 or sums[0] + sums[1] > 32


def test_best_fit_fills_a_known_case_exactly():
    assert pack([5, 3, 6, 2, 4, 4], [0] * 6, 8, 0) == [[2, 3], [0, 1], [4, 5]]


@pytest.mark.parametrize(("length", "count"), [(9, 0), (4, 3), (0, 0)])
def test_an_item_that_fits_no_row_is_refused(length, count):
    with pytest.raises(InputError, match="item 0"):
        pack([length], [count], 8, 2)


def test_rows_restart_segments_and_positions_and_move_the_mentions():
    first = TokenSpans(array("i", [11, 12, 13]), ((1, 1, 7),))
    second = TokenSpans(array("i", [21, 22]), ((0, 1, 9), (1, 1, 3)))
    third = TokenSpans(array("i", [31]), ())
    rows = fill_rows([first, second, third], [[2, 1], [0]])
    assert {name: (values.tolist(), counts.tolist()) for name, (values, counts) in rows.items()} == {
        "tokens": ([31, 21, 22, 11, 12, 13], [3, 3]),
        "segment_ids": ([1, 2, 2, 1, 1, 1], [3, 3]),
        "positions": ([0, 0, 1, 0, 1, 2], [3, 3]),
        "mentions": ([1, 2, 9, 2, 2, 3, 1, 1, 7], [6, 3]),
        "num_mentions": ([2, 1], [1, 1]),
    }
