"""Several data sets trained on as one: concepts merged by name, rows mixed by weight, an order that depends on the seed alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from nuner_jax.dataset.concepts import Concept
from nuner_jax.dataset.loader import Batch, PackedDataset, shuffled
from nuner_jax.dataset.manifest import fingerprint
from nuner_jax.errors import InputError


def open_data(paths: str | Sequence[str], weights: Sequence[float] = ()) -> "PackedDataset | Mixture":
    """The data set of one TFDS data_dir, or the mixture of several. Raises InputError if one is missing or they do not fit."""
    paths = [paths] if isinstance(paths, str) else list(paths)
    if not paths:
        raise InputError("data.path: name at least one data set")
    if weights and len(weights) != len(paths):
        raise InputError(f"data.weights: {len(weights)} of them for {len(paths)} data sets")
    parts = [PackedDataset(path) for path in paths]
    return parts[0] if len(parts) == 1 else Mixture(parts, weights)


def quotas(sizes: Sequence[int], weights: Sequence[float] = ()) -> list[int]:
    """How many of the sum(sizes) rows of an epoch come from each data set: shares rounded by largest remainder; by size without
    weights, and so each row once. Raises InputError for a weight that is not positive or gives no row."""
    if not weights:
        return list(sizes)
    if min(weights) <= 0:
        raise InputError(f"data.weights: {min(weights):g} is not positive; leave out a data set that is not wanted")
    total = sum(sizes)
    shares = [weight / sum(weights) * total for weight in weights]
    rows = [int(share) for share in shares]
    by_remainder = sorted(range(len(rows)), key=lambda d: (rows[d] - shares[d], d))
    for d in by_remainder[: total - sum(rows)]:
        rows[d] += 1
    if 0 in rows:
        raise InputError(f"data.weights: {weights[rows.index(0)]:g} gives not one of the {total} rows of an epoch")
    return rows


def merge_concepts(tables: Sequence[Sequence[Concept]]) -> tuple[list[Concept], list[np.ndarray]]:
    """One table of all names, numbered by their frequencies in all tables together; and for each table its ids in the new one.

    Where descriptions differ, that of the table with more mentions holds.
    """
    frequency: Counter[str] = Counter()
    best: dict[str, Concept] = {}
    for concept in (concept for table in tables for concept in table):
        frequency[concept.name] += concept.frequency
        known = best.get(concept.name)
        if known is None or _worth(concept) > _worth(known):
            best[concept.name] = concept
    names = sorted(frequency, key=lambda name: (-frequency[name], name))
    merged = [Concept(i, name, best[name].description, frequency[name], best[name].tokens) for i, name in enumerate(names)]
    index = {concept.name: concept.id for concept in merged}
    return merged, [np.array([index[concept.name] for concept in table], np.int32) for table in tables]


def _worth(concept: Concept) -> tuple[bool, int]:
    return bool(concept.description), concept.frequency


class Mixture:
    """What PackedDataset is, over several of them. Row numbers run through the data sets one after another."""

    def __init__(self, parts: Sequence[PackedDataset], weights: Sequence[float] = ()):
        """Raises InputError if the data sets were not made alike, or the weights do not fit them."""
        self.parts = parts
        self.name = ", ".join(part.name for part in parts)
        first = parts[0]
        for part in parts[1:]:
            for key in ("tokenizer", "row_length", "mentions_per_row", "concept_text"):
                mine, other = (_setting(p.manifest, key) for p in (first, part))
                if mine != other:
                    numbers = "fingerprint differs" if key == "tokenizer" else f"{mine} and {other}"
                    raise InputError(f"{first.name} and {part.name} cannot be mixed: made with another {key} ({numbers})")
        self.sizes = [part.num_rows("train") for part in parts]
        self.quotas = quotas(self.sizes, weights)
        self._orders: dict[int, list[np.ndarray]] = {}

    @cached_property
    def _merged(self) -> tuple[list[Concept], list[np.ndarray]]:
        return merge_concepts([part.concepts for part in self.parts])

    @property
    def concepts(self) -> list[Concept]:
        """The merged concept table, in the order of the ids."""
        return self._merged[0]

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Counts summed; the fingerprint covers every data set and its share, in their order."""
        manifests = [part.manifest for part in self.parts]
        sums = {key: sum(m[key] for m in manifests) for key in ("sentences", "mentions", "tokens", "text_tokens")}
        splits = {split: self.num_rows(split) for m in manifests for split in m["rows"]}
        dropped: Counter[str] = Counter()
        for m in manifests:
            dropped.update(m["dropped"])
        shares = [{"fingerprint": m["fingerprint"], "rows_an_epoch": n} for m, n in zip(manifests, self.quotas, strict=True)]
        return {
            **manifests[0],
            **sums,
            "concepts": len(self.concepts),
            "rows": splits,
            "fill": sums["tokens"] / (manifests[0]["row_length"] * sum(splits.values())),
            "inputs": [entry for m in manifests for entry in m["inputs"]],
            "dropped": dict(sorted(dropped.items())),
            "mixture": shares,
            "fingerprint": fingerprint(shares),
        }

    def num_rows(self, split: str) -> int:
        """Rows of a split in all data sets: for the training rows the length of an epoch, whatever the weights."""
        return sum(part.num_rows(split) for part in self.parts)

    def order(self, split: str, seed: int, first: int, count: int) -> np.ndarray:
        """Positions first..first+count of an endless stream of rows.

        An epoch of the training rows is a new permutation of as many places as there are rows. Each data set owns its quota of
        them, and fills them with its rows in turn, epoch after epoch. Other splits are not weighted.
        """
        places = shuffled(self.num_rows(split), seed, first, count)
        if split != "train" or self.quotas == self.sizes:
            return places
        epochs = np.arange(first, first + count) // sum(self.sizes)
        ends, offsets = np.cumsum(self.quotas), np.cumsum([0, *self.sizes])
        owner = np.searchsorted(ends, places, side="right")
        rows = np.empty(count, np.int64)
        for d, turns in enumerate(self._turns(seed)):
            mine = owner == d
            draws = epochs[mine] * self.quotas[d] + places[mine] - (ends[d] - self.quotas[d])
            rows[mine] = offsets[d] + turns[draws % len(turns)]
        return rows

    def _turns(self, seed: int) -> list[np.ndarray]:
        """The order in which each data set's rows have their turns: shuffled, as rows are stored by the length of sentences."""
        if seed not in self._orders:
            self._orders[seed] = [np.random.default_rng([seed, d, 1]).permutation(size) for d, size in enumerate(self.sizes)]
        return self._orders[seed]

    def rows(self, split: str, indices: Sequence[int] | np.ndarray) -> Batch:
        """The rows at `indices`, stacked (records.deserialize), with the ids of the merged concept table."""
        indices = np.asarray(indices)
        starts = np.cumsum([0] + [part.num_rows(split) for part in self.parts])
        owner = np.searchsorted(starts, indices, side="right") - 1
        batches, members = [], []
        for d in np.unique(owner):
            members.append(np.nonzero(owner == d)[0])
            batch = self.parts[d].rows(split, indices[members[-1]] - starts[d])
            real = np.arange(batch["mentions"].shape[1]) < batch["num_mentions"][:, None]
            ids = batch["mentions"][..., 2]
            batch["mentions"][..., 2] = np.where(real, self._merged[1][d][np.where(real, ids, 0)], 0)
            batches.append(batch)
        back = np.argsort(np.concatenate(members))
        return {name: np.concatenate([batch[name] for batch in batches])[back] for name in batches[0]}


def _setting(manifest: Mapping[str, Any], key: str) -> Any:
    return manifest[key] if key in manifest else manifest["config"][key]
