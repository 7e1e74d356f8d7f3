"""Few-shot samples: which training sentences form the support set of (k, seed). Pure and deterministic."""

import random
from collections.abc import Mapping, Sequence

Counts = Sequence[Mapping[str, int]]
"""Sentence -> type -> mentions of it in the sentence (in order of first occurrence)."""


class _Sampler:
    """Sentences in shuffled order, and how often each type has been drawn so far."""

    def __init__(self, mentions: Counts, rng: random.Random):
        self.order = list(range(len(mentions)))
        rng.shuffle(self.order)
        self.types = mentions
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


def sample_k_to_2k(mentions: Counts, k: int, rng: random.Random) -> list[int]:
    """Indices of a k~2k sample: every type gets at least k mentions and, greedily, no type more than 2k.

    Types from rarest to most frequent, sentences in shuffled order. A type that the cap keeps below k gets the rest in a second
    pass that ignores the cap, smallest overshoot first. A type with fewer than k mentions gets all of them.
    Source: section 4 of the paper (entity-based sampling).
    """
    sampler = _Sampler(mentions, rng)
    for kind in sampler.rarest_first:
        for i in sampler.left(kind):
            if sampler.count[kind] >= k:
                break
            if sampler.overshoot(i, 2 * k) == 0:
                sampler.take(i)
    for kind in sampler.rarest_first:
        while sampler.count[kind] < k:
            left = sampler.left(kind)
            if not left:
                break
            sampler.take(min(left, key=lambda i: sampler.overshoot(i, 2 * k)))
    return sampler.chosen


def sample(mentions: Counts, k: int, seed: int) -> list[int]:
    """The support set of (k, seed): sentence indices in the order drawn."""
    return sample_k_to_2k(mentions, k, random.Random(1000 * k + seed))


def shortfall(counts: dict[str, int], k: int) -> dict[str, int]:
    """The types that have fewer than k mentions in train, with their counts."""
    return {kind: count for kind, count in counts.items() if count < k}
