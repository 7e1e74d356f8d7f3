"""Packed rows from disk to batches with their concepts, in an order that depends on the seed and the step alone.

A batch is a pure function of (data, seed, step): resuming needs no iterator state but the step, on any number of processes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grain
import numpy as np

from nuner_jax.dataset import concepts, records
from nuner_jax.dataset.balance import BalancedOrder
from nuner_jax.dataset.packing import pack
from nuner_jax.errors import InputError

if TYPE_CHECKING:
    from nuner_jax.dataset.mixture import Mixture

Batch = dict[str, np.ndarray]
CAPACITY_PROBES = 64  # shards of batches looked at, at least, to size the concept arrays
CAPACITY_ROWS = 8192  # more of them while they have no more rows in all
CAPACITY_MARGIN = 1.05  # for those not looked at
CONCEPT_ROW_LENGTH = 16
CONCEPT_ARRAYS = ("concept_tokens", "concept_segment_ids", "concept_positions", "concept_slots")


class PackedDataset:
    """A data set of the dataset stage: manifest, concept table and random access to rows."""

    def __init__(self, data_dir: str | Path):
        """Raises InputError if the folder does not hold a data set, or one of another format."""
        self.name = str(data_dir)
        self.folder = records.dataset_folder(data_dir)
        try:
            self.manifest: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf8"))
        except OSError:
            raise InputError(f"{data_dir}: no data set here (expected {self.folder / 'manifest.json'})") from None
        except ValueError as error:
            raise InputError(f"{self.folder / 'manifest.json'}: not valid JSON ({error})") from None
        self._readers: dict[str, records.RowReader] = {}
        if self.manifest.get("format") != 1:
            raise InputError(f"{self.folder}: data set format {self.manifest.get('format')}, this version reads format 1")

    @cached_property
    def concepts(self) -> list[concepts.Concept]:
        """The concept table, in the order of the ids."""
        return concepts.load_table(self.folder / "concepts.jsonl")

    def num_rows(self, split: str) -> int:
        """Rows of a split; 0 if there is no such split."""
        return self.manifest["rows"].get(split, 0)

    def open(self, split: str) -> records.RowReader:
        """Random access to the rows of a split. Raises InputError if a shard is missing or cut."""
        reader = records.RowReader(self.folder, split)
        if len(reader) != self.num_rows(split):
            raise InputError(f"{self.folder}: split {split} has {len(reader)} rows, its manifest says {self.num_rows(split)}")
        return reader

    def order(self, split: str, seed: int, first: int, count: int) -> np.ndarray:
        """Positions first..first+count of an endless stream of rows: see `shuffled`."""
        return shuffled(self.num_rows(split), seed, first, count)

    def rows(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The rows at `indices`, stacked (records.deserialize)."""
        if split not in self._readers:
            self._readers[split] = self.open(split)
        return records.deserialize(self._readers[split].read(np.asarray(indices)))


@dataclass(frozen=True)
class ConceptCapacity:
    """Fixed shapes for the concepts of one shard of the batch: `groups` of `concepts` slots, each packed in `rows` rows."""

    concepts: int
    rows: int
    row_length: int
    groups: int = 1


def shuffled(num_rows: int, seed: int, first: int, count: int) -> np.ndarray:
    """Positions first..first+count of an endless stream of rows: a new permutation an epoch, none lost between epochs."""
    parts = []
    while count:
        epoch, offset = divmod(first, num_rows)
        take = min(count, num_rows - offset)
        parts.append(permutation(num_rows, seed, epoch)[offset : offset + take])
        first, count = first + take, count - take
    return np.concatenate(parts).astype(np.int64)


@lru_cache(maxsize=3)  # the epoch under way, its neighbour, and the validation split's
def permutation(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the rows in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(num_rows).astype(np.uint32)


class ConceptTokens:
    """The tokens of all concepts in one flat array, for fast gathering, and what their positive pairs count."""

    def __init__(self, table: Sequence[concepts.Concept], frequency_exponent: float = 0.0):
        """Weights are frequency**-frequency_exponent, scaled to a mean of 1 over the mentions."""
        frequency = np.array([concept.frequency for concept in table], np.float64)
        weights = np.maximum(frequency, 1) ** -frequency_exponent
        self.weights = (weights * frequency.sum() / max(1e-9, weights @ frequency)).astype(np.float32)
        self.lengths = np.array([len(concept.tokens) for concept in table], np.int32)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)
        self.flat = np.array([token for concept in table for token in concept.tokens], np.int32)

    def pack(self, ids: np.ndarray, capacity: ConceptCapacity) -> Batch:
        """Concepts packed into rows.

        concept_ids [K * C] int32 (-1: empty slot), concept_weights [K * C] float32; concept_tokens, concept_segment_ids,
        concept_positions, concept_slots [K, R, T] int32: a token's slot is the index of its concept among the C of its group, and
        C for padding; concepts_left_out [1] int32: how many of `ids` found no place.
        """
        K, C, R, T = capacity.groups, capacity.concepts, capacity.rows, capacity.row_length
        batch: Batch = {name: np.zeros((K, R * T), np.int32) for name in CONCEPT_ARRAYS}
        batch["concept_slots"][:] = C
        batch["concept_ids"] = np.full(K * C, -1, np.int32)
        batch["concept_weights"] = np.zeros(K * C, np.float32)
        placed = 0
        for k in range(K):
            members = ids[k::K][:C]
            lengths = self.lengths[members]
            rows = pack(lengths.tolist(), [0] * len(members), T, 0)[:R]
            order = np.fromiter(chain.from_iterable(rows), np.int64)  # [N] items, row by row
            if not len(order):
                continue
            members, lengths = members[order], lengths[order]
            in_row = np.array([len(row) for row in rows])
            row, first = (
                np.repeat(np.arange(len(rows)), in_row),
                np.repeat(np.cumsum(in_row) - in_row, in_row),
            )  # first: of its row
            begin = np.cumsum(lengths) - lengths  # in tokens, as if rows had no end
            position = np.arange(lengths.sum()) - np.repeat(begin, lengths)
            place = np.repeat(row * T + begin - begin[first], lengths) + position
            slot = np.arange(len(order))
            batch["concept_tokens"][k, place] = self.flat[np.repeat(self.starts[members], lengths) + position]
            batch["concept_segment_ids"][k, place] = np.repeat(slot - first + 1, lengths)
            batch["concept_positions"][k, place] = position
            batch["concept_slots"][k, place] = np.repeat(slot, lengths)
            batch["concept_ids"][k * C + slot] = members
            batch["concept_weights"][k * C + slot] = self.weights[members]
            placed += len(order)
        batch["concepts_left_out"] = np.array([len(ids) - placed], np.int32)
        return batch | {name: batch[name].reshape(K, R, T) for name in CONCEPT_ARRAYS}

    def capacity(self, samples: Sequence[np.ndarray], group: int, limit: int, margin: float = 1.0) -> ConceptCapacity:
        """What holds each of the samples of concept ids and `margin` times as much, in groups of at most `group`, `limit` (0: none)
        in all."""
        longest = int(self.lengths.max(initial=1))
        row_length = max(CONCEPT_ROW_LENGTH, longest)
        most = -(-max(1, int(max((len(ids) for ids in samples), default=1) * margin)) // 8) * 8
        most = min(most, limit or most)
        groups = -(-most // group)
        concepts_per_group = -(-most // groups)
        lengths = [self.lengths[ids[: limit or None][k::groups]].tolist() for ids in samples for k in range(groups)]
        rows = max((len(pack(n, [0] * len(n), row_length, 0)) for n in lengths), default=1)
        return ConceptCapacity(concepts_per_group, max(1, int(np.ceil(rows * margin))), row_length, groups)


def concept_ids_of(mentions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The distinct concept ids of rows [B, M, 3] with counts [B], ascending (the most frequent concepts first)."""
    real = np.arange(mentions.shape[1]) < counts[:, None]
    return np.unique(mentions[..., 2][real])


class Batches:
    """Random access to batches by step: what Grain prefetches in threads."""

    def __init__(
        self,
        data: "PackedDataset | Mixture",
        split: str,
        *,
        batch_size: int,
        num_steps: int,
        seed: int,
        concept_group: int = 256,
        max_concepts: int = 0,
        balance_rows: int = 0,
        frequency_exponent: float = 0.0,
        capacity: ConceptCapacity | None = None,
        num_shards: int = 1,
        shards: Sequence[int] | None = None,
    ):
        """`shards` of the `num_shards` equal parts of each batch are read. Without capacity it is sized from the data, up to
        max_concepts (0: no limit) a shard, in groups of concept_group. For balance_rows see BalancedOrder.

        Raises InputError if batch_size is not divisible by num_shards, or the split is empty.
        """
        if batch_size % num_shards:
            raise InputError(f"batch_size {batch_size} is not divisible by {num_shards} data shards")
        if not data.num_rows(split):
            raise InputError(f"{data.name}: split {split} has no rows")
        self.data, self.batch_size, self.num_steps = data, batch_size, num_steps
        self.rows_per_shard, self.shards = batch_size // num_shards, list(shards if shards is not None else range(num_shards))
        special = data.manifest["special_token_ids"]
        self.is_special = np.zeros(max(special, default=0) + 1, bool)
        self.is_special[special] = True
        self.concept_tokens = ConceptTokens(data.concepts, frequency_exponent)
        self.balance_rows = balance_rows
        self.order = BalancedOrder(data, split, seed, batch_size, balance_rows, self.concept_tokens.lengths)
        self.group, self.limit = concept_group, max_concepts
        self.capacity = capacity or self.sized()

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> Batch:
        """tokens, segment_ids, positions, text_mask [B, T]; mentions [B, M, 3] with concept id -1 where there is none; and the
        arrays of ConceptTokens.pack, the shards' one after another. text_mask is True at tokens of the text (not special)."""
        parts = [self.shard(step, number) for number in self.shards]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def shard(self, step: int, number: int) -> Batch:
        """One of the equal parts of a batch, with the concepts of its own mentions."""
        rows = self.order.rows(step, slice(number * self.rows_per_shard, (number + 1) * self.rows_per_shard))
        ids = concept_ids_of(rows["mentions"], rows["num_mentions"])
        batch = self.concept_tokens.pack(ids, self.capacity)
        real = np.arange(rows["mentions"].shape[1]) < rows["num_mentions"][:, None]
        batch["mentions"] = rows["mentions"].copy()  # the window keeps its own
        batch["mentions"][..., 2] = np.where(real, rows["mentions"][..., 2], -1)
        batch["tokens"] = rows["tokens"]
        batch["segment_ids"] = rows["segment_ids"].astype(np.int32)
        batch["positions"] = rows["positions"].astype(np.int32)
        special = self.is_special[np.minimum(rows["tokens"], len(self.is_special) - 1)] & (rows["tokens"] < len(self.is_special))
        batch["text_mask"] = (rows["segment_ids"] > 0) & ~special
        return batch

    def of_split(self, split: str, num_batches: int) -> "Batches | None":
        """Another split in its own order and shapes, for one pass at most; None if it has no row.

        The last batch of a pass is filled up with rows of the next one.
        """
        rows = self.data.num_rows(split)
        if not rows:
            return None
        copy = Batches.__new__(Batches)
        copy.__dict__ = self.__dict__ | {"num_steps": min(num_batches, -(-rows // self.batch_size))}
        copy.order = BalancedOrder(self.data, split, 0, self.batch_size, self.balance_rows, self.concept_tokens.lengths)
        copy.capacity = copy.sized()
        return copy

    def sized(self) -> ConceptCapacity:
        """Room for the concepts of each shard of this run's batches, from a sample of them that all processes agree on."""
        num_shards = self.batch_size // self.rows_per_shard
        count = max(1, max(CAPACITY_PROBES, CAPACITY_ROWS // self.rows_per_shard) // num_shards)
        if count < self.num_steps:
            probes = np.linspace(0, self.num_steps - 1, max(1, count // self.order.steps)).astype(int)
            steps = sorted({step for probe in probes for step in self.order.window(int(probe)) if step < self.num_steps})
        else:
            steps = list(range(self.num_steps))
        parts = [slice(first, first + self.rows_per_shard) for first in range(0, self.batch_size, self.rows_per_shard)]
        rows = (self.order.rows(step, part) for step in steps for part in parts)
        samples = [concept_ids_of(row["mentions"], row["num_mentions"]) for row in rows]
        margin = 1.0 if len(steps) == self.num_steps else CAPACITY_MARGIN
        return self.concept_tokens.capacity(samples, self.group, self.limit, margin)


def prefetched(batches: Batches, first_step: int, num_threads: int = 2, buffer: int = 8) -> Any:
    """An iterator over the batches from `first_step` on, made ahead of time in threads."""
    dataset = grain.MapDataset.source(batches)[first_step:]  # type: ignore[arg-type] - grain asks for iteration too, and uses none
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=buffer)
    return iter(dataset.to_iter_dataset(options))
