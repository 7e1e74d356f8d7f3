"""Few-shot samples: which training sentences form the support set of (k, seed). Pure and deterministic."""

import random
from collections.abc import Mapping, Sequence

from nuner_jax.config import Sampling

Counts = Sequence[Mapping[str, int]]
"""Sentence -> type -> mentions (or words) of it in the sentence, in order of first occurrence."""


class _Sampler:
    """Sentences in shuffled order, and how often each type has been drawn so far."""

    def __init__(self, counts: Counts, rng: random.Random):
        self.order = list(range(len(counts)))
        rng.shuffle(self.order)
        self.types = counts
        self.holders: dict[str, list[int]] = {}  # type -> sentences with it, in shuffled order
        frequency: dict[str, int] = {}
        for i in self.order:
            for kind, count in self.types[i].items():
                frequency[kind] = frequency.get(kind, 0) + count
                self.holders.setdefault(kind, []).append(i)
        self.rarest_first = sorted(frequency, key=lambda kind: frequency[kind])
        self.count = dict.fromkeys(frequency, 0)
        self.chosen: list[int] = []
        self._chosen: set[int] = set()

    def take(self, i: int) -> None:
        self.chosen.append(i)
        self._chosen.add(i)
        for kind, count in self.types[i].items():
            self.count[kind] += count

    def left(self, kind: str) -> list[int]:
        return [i for i in self.holders[kind] if i not in self._chosen]

    def overshoot(self, i: int, cap: int) -> int:
        return sum(max(0, self.count[kind] + count - cap) for kind, count in self.types[i].items())


def draw(counts: Counts, k: int, cap: int, rng: random.Random) -> list[int]:
    """Indices of a sample in which every type counts at least k and, greedily, no type more than `cap`.

    Types from rarest to most frequent, sentences in shuffled order. A type that the cap keeps below k gets the rest in a second
    pass that ignores the cap, smallest overshoot first. A type that counts less than k in all gets all of it.
    Source: section 4 of the paper (entity-based sampling).
    """
    sampler = _Sampler(counts, rng)
    for kind in sampler.rarest_first:
        for i in sampler.left(kind):
            if sampler.count[kind] >= k:
                break
            if sampler.overshoot(i, cap) == 0:
                sampler.take(i)
    for kind in sampler.rarest_first:
        while sampler.count[kind] < k:
            left = sampler.left(kind)
            if not left:
                break
            sampler.take(min(left, key=lambda i: sampler.overshoot(i, cap)))
    return sampler.chosen


def sample(counts: Counts, k: int, seed: int, kind: Sampling = "k_to_2k") -> list[int]:
    """The support set of (k, seed): sentence indices in the order drawn.

    k_to_2k: k to 2k mentions of each type (`counts` are mentions). words: k to 2k words of each type (`counts` are words; the paper's
    comparison with LLMs). exact_k: k mentions, more only where a sentence cannot be had without.
    """
    return draw(counts, k, k if kind == "exact_k" else 2 * k, random.Random(1000 * k + seed))


def shortfall(counts: dict[str, int], k: int) -> dict[str, int]:
    """The types that count less than k in train, with their counts."""
    return {kind: count for kind, count in counts.items() if count < k}
