"""Balanced batches: every row once an epoch, even loads, an order that no process count and no length of the run changes."""

from typing import Any

import numpy as np
import pytest
from helpers import write_mentions
from hypothesis import given, settings
from hypothesis import strategies as st

from nuner_jax.config import DatasetConfig
from nuner_jax.dataset.balance import BalancedOrder, deal, spread
from nuner_jax.dataset.builder import build
from nuner_jax.dataset.loader import Batches, PackedDataset, prefetched


class Rows(PackedDataset):
    """A data set of rows with the given concepts, each once a row."""

    def __init__(self, in_rows: list[list[int]]):
        self.in_rows = in_rows
        self.read = 0

    def num_rows(self, split: str) -> int:
        return len(self.in_rows)

    def order(self, split: str, seed: int, first: int, count: int) -> np.ndarray:
        return np.arange(first, first + count) % len(self.in_rows)

    def rows(self, split, indices) -> dict[str, np.ndarray]:
        self.read += len(indices)
        return as_rows([self.in_rows[i] for i in indices]) | {"number": np.asarray(indices)}


def as_rows(concepts: list[list[int]]) -> dict[str, np.ndarray]:
    mentions = np.zeros((len(concepts), max(1, *map(len, concepts)), 3), np.int32)
    for row, ids in enumerate(concepts):
        mentions[row, : len(ids), 2] = ids
    return {"mentions": mentions, "num_mentions": np.array([len(ids) for ids in concepts])}


def loads(concepts: list[list[int]], batches: np.ndarray, cost: np.ndarray) -> list[int]:
    return [int(cost[sorted({c for row in batch for c in concepts[row]})].sum()) for batch in batches]


def drawn(rng: np.random.Generator, num_rows: int, num_concepts: int) -> list[list[int]]:
    """Long-tailed concepts, some rows without any."""
    chance = 1 / np.arange(1, num_concepts + 1)
    return [rng.choice(num_concepts, rng.integers(0, 6), p=chance / chance.sum()).tolist() for _ in range(num_rows)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 9), st.integers(1, 30))
def test_each_row_is_dealt_once(seed, num_batches, batch_size, num_concepts):
    rng = np.random.default_rng(seed)
    concepts = drawn(rng, num_batches * batch_size, num_concepts)
    rows = as_rows(concepts)
    batches = deal(rows["mentions"], rows["num_mentions"], rng.integers(3, 9, num_concepts), num_batches)
    assert batches.shape == (num_batches, batch_size)
    assert sorted(batches.ravel()) == list(range(num_batches * batch_size))


@pytest.mark.parametrize(("n", "expected"), [(1, [0]), (2, [0, 1]), (5, [0, 4, 2, 1, 3]), (8, [0, 4, 2, 6, 1, 5, 3, 7])])
def test_numbers_are_spread_by_their_reversed_bits(n, expected):
    assert spread(n).tolist() == expected


def test_the_fullest_batch_comes_near_the_average_and_batches_keep_their_concepts():
    rng = np.random.default_rng(0)
    concepts = drawn(rng, 32 * 16, 300)
    cost = rng.integers(3, 9, 300)
    rows = as_rows(concepts)
    before = loads(concepts, np.arange(512).reshape(32, 16), cost)
    after = loads(concepts, deal(rows["mentions"], rows["num_mentions"], cost, 32), cost)
    assert max(before) > 1.25 * np.mean(before)
    assert max(after) < 1.06 * np.mean(after)
    assert abs(np.mean(after) / np.mean(before) - 1) < 0.05  # rows of like concepts are not drawn together


@pytest.mark.parametrize("num_shards", [2, 4, 8])
def test_the_parts_of_a_batch_come_nearer_to_each_other_too(num_shards):
    rng = np.random.default_rng(0)
    concepts = drawn(rng, 16 * 64, 300)
    cost = rng.integers(3, 9, 300)
    rows = as_rows(concepts)
    before = loads(concepts, np.arange(1024).reshape(16 * num_shards, -1), cost)
    after = loads(concepts, deal(rows["mentions"], rows["num_mentions"], cost, 16).reshape(16 * num_shards, -1), cost)
    assert max(after) / np.mean(after) - 1 < 0.75 * (max(before) / np.mean(before) - 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 900))
def test_windows_follow_one_another_and_end_where_an_epoch_does(num_rows, batch_size, window_rows):
    order = BalancedOrder(Rows([[0]] * num_rows), "train", 0, batch_size, window_rows, np.ones(1))
    first = 0
    while first < 60:
        window = order.window(first)
        assert window.start == first
        assert 1 <= len(window) <= max(1, window_rows // batch_size)
        assert all(order.window(step) == window for step in window)
        starts = {step * batch_size // num_rows for step in window}
        assert len(starts) == 1  # all begin in one epoch
        first = window.stop


def test_an_epoch_of_balanced_batches_holds_every_row_once():
    data = Rows(drawn(np.random.default_rng(1), 60, 40))
    order = BalancedOrder(data, "train", 0, 4, 20, np.full(40, 5))
    for epoch in range(2):
        steps = range(epoch * 15, epoch * 15 + 15)
        assert sorted(np.concatenate([order.indices(step) for step in steps])) == list(range(60))
    assert data.read == 2 * 60  # each window is read once
    for step in (29, 3, 17):  # in any sequence, as after a restart
        np.testing.assert_array_equal(BalancedOrder(data, "train", 0, 4, 20, np.full(40, 5)).indices(step), order.indices(step))
        np.testing.assert_array_equal(order.rows(step, slice(1, 3))["number"], order.indices(step)[1:3])


def test_rows_of_fewer_than_two_batches_stay_in_random_order():
    data = Rows(drawn(np.random.default_rng(1), 60, 40))
    for window_rows in (0, 4, 7):
        order = BalancedOrder(data, "train", 0, 4, window_rows, np.full(40, 5))
        np.testing.assert_array_equal(order.indices(2), data.order("train", 0, 8, 4))
        np.testing.assert_array_equal(order.rows(2, slice(2, 4))["number"], [10, 11])


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_encoder):
    folder = tmp_path_factory.mktemp("balance")
    source = str(write_mentions(folder / "a.jsonl"))
    build(
        DatasetConfig(input=(source,), out=str(folder / "data"), tokenizer=str(tiny_encoder), row_length=32, mentions_per_row=12)
    )
    return PackedDataset(folder / "data")


def test_balanced_batches_of_a_data_set_are_the_same_from_any_step_and_thread(data):
    settings: dict[str, Any] = {"batch_size": 4, "seed": 1, "balance_rows": 16}
    batches = Batches(data, "train", num_steps=9, **settings)
    one_by_one = [batches[step] for step in range(9)]
    longer = Batches(data, "train", num_steps=40, capacity=batches.capacity, **settings)
    threaded = [*prefetched(batches, 0, num_threads=4)]
    for step in range(9):
        for name, value in one_by_one[step].items():
            np.testing.assert_array_equal(threaded[step][name], value)
            np.testing.assert_array_equal(longer[step][name], value)
        assert not one_by_one[step]["concepts_left_out"].any()
    random = Batches(data, "train", num_steps=9, batch_size=4, seed=1)
    assert any(not np.array_equal(random[s]["tokens"], batches[s]["tokens"]) for s in range(9))


def test_the_held_out_split_has_room_of_its_own(data):
    batches = Batches(data, "train", batch_size=4, num_steps=1, seed=1, balance_rows=64)
    held_out = batches.of_split("validation", 100)
    assert held_out is not None
    assert not any(held_out[step]["concepts_left_out"].any() for step in range(len(held_out)))
