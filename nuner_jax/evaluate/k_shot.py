"""Few-shot samples: which training sentences form the support set of (k, seed). Pure and deterministic."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from nuner_jax.config import Sampling

Counts = Sequence[Mapping[str, int]]
"""Sentence -> type -> mentions (or words) of it in the sentence, in order of first occurrence."""


class _Population:
    """All sentences, by the types in them."""

    def __init__(self, counts: Counts):
        self.counts = counts
        self.frequency: dict[str, int] = {}
        holders: dict[str, list[int]] = {}
        for i, types in enumerate(counts):
            for kind, count in types.items():
                self.frequency[kind] = self.frequency.get(kind, 0) + count
                holders.setdefault(kind, []).append(i)
        self.holders = {kind: np.array(ids) for kind, ids in holders.items()}


class _Sampler:
    """Sentences in shuffled order, and how often each type has been drawn so far."""

    def __init__(self, population: _Population, rng: random.Random):
        order = list(range(len(population.counts)))
        rng.shuffle(order)
        self.types = population.counts
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        holders = {kind: ids[np.argsort(place[ids])] for kind, ids in population.holders.items()}
        self.holders = {kind: ids.tolist() for kind, ids in holders.items()}  # type -> sentences with it, in shuffled order
        self.rarest_first = sorted(holders, key=lambda kind: (population.frequency[kind], *self._first(kind, place)))
        self.count = dict.fromkeys(holders, 0)
        self.chosen: dict[int, None] = {}

    def _first(self, kind: str, place: np.ndarray) -> tuple[int, int]:
        """Where a type comes up first, by shuffled sentence and within it."""
        i = self.holders[kind][0]
        return int(place[i]), list(self.types[i]).index(kind)

    def take(self, i: int) -> None:
        self.chosen[i] = None
        for kind, count in self.types[i].items():
            self.count[kind] += count

    def left(self, kind: str) -> Iterator[int]:
        return (i for i in self.holders[kind] if i not in self.chosen)

    def overshoot(self, i: int, cap: int) -> int:
        return sum(max(0, self.count[kind] + count - cap) for kind, count in self.types[i].items())


def draw(population: _Population, k: int, cap: int, rng: random.Random) -> list[int]:
    """Indices of a sample in which every type counts at least k and, greedily, no type more than `cap`.

    Types from rarest to most frequent, sentences in shuffled order. A type that the cap keeps below k gets the rest in a second
    pass that ignores the cap, smallest overshoot first. A type that counts less than k in all gets all of it.
    Source: section 4 of the paper (entity-based sampling).
    """
    sampler = _Sampler(population, rng)
    for kind in sampler.rarest_first:
        for i in sampler.left(kind):
            if sampler.count[kind] >= k:
                break
            if sampler.overshoot(i, cap) == 0:
                sampler.take(i)
    for kind in sampler.rarest_first:
        while sampler.count[kind] < k:
            left = list(sampler.left(kind))
            if not left:
                break
            sampler.take(min(left, key=lambda i: sampler.overshoot(i, cap)))
    return list(sampler.chosen)


def sample(counts: Counts, k: int, seed: int, kind: Sampling = "k_to_2k") -> list[int]:
    """The support set of (k, seed): sentence indices in the order drawn."""
    return samples(counts, [(k, seed)], kind)[k, seed]


def samples(counts: Counts, cells: Iterable[tuple[int, int]], kind: Sampling = "k_to_2k") -> dict[tuple[int, int], list[int]]:
    """The support set of every (k, seed).

    k_to_2k: k to 2k mentions of each type (`counts` are mentions). words: k to 2k words of each type (`counts` are words; the paper's
    comparison with LLMs). exact_k: k mentions, more only where a sentence cannot be had without.
    """
    population, most = _Population(counts), 1 if kind == "exact_k" else 2
    return {(k, seed): draw(population, k, most * k, random.Random(1000 * k + seed)) for k, seed in cells}


def shortfall(counts: dict[str, int], k: int) -> dict[str, int]:
    """The types that count less than k in train, with their counts."""
    return {kind: count for kind, count in counts.items() if count < k}
