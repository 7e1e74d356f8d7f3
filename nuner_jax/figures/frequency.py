"""Concept frequency of data sets: mentions of a concept against its rank, both axes logarithmic."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nuner_jax.plotting import panels, style, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKED = 12
"""Markers on a curve."""


def rank_frequency(counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(ranks from 1, counts) from the most to the least frequent; of equal counts in a row only the ends, which carry the line."""
    ordered = np.sort(np.asarray(counts, np.int64))[::-1]
    change = np.flatnonzero(np.diff(ordered)) if len(ordered) else np.zeros(0, np.int64)
    ends = np.unique(np.concatenate([[0], change, change + 1, [len(ordered) - 1]])).astype(np.int64)
    return ends + 1, ordered[ends]


def once_share(counts: Sequence[int]) -> float:
    """Share of the concepts that are mentioned once."""
    return sum(count == 1 for count in counts) / max(1, len(counts))


@styled
def draw(data: Mapping[str, Sequence[int]]) -> "Figure":
    """A curve for each data set: name -> mentions of each of its concepts."""
    figure, [axis] = panels(1, height=2.3 + 0.15 * len(data))
    for i, (name, counts) in enumerate(data.items()):
        colour, marker, dash = style(i)
        ranks, values = rank_frequency(counts)
        label = f"{name}: {len(counts):,} concepts, {once_share(counts):.0%} seen once"
        every = max(1, len(ranks) // MARKED)
        axis.plot(ranks, values, color=colour, marker=marker, linestyle=dash, markersize=3, markevery=every, label=label)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("rank of the concept (log scale)")
    axis.set_ylabel("mentions (log scale)")
    figure.legend(loc="outside upper center", title="published: 200 k concepts, more than half seen once", title_fontsize=7)
    return figure
