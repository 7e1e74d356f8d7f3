"""The figure of an ablation: score against what is varied, a series for each k, 95 % intervals, trend."""

from typing import TYPE_CHECKING

import numpy as np

from nuner_jax.ablate.analysis import Scores
from nuner_jax.figures.published import ABLATIONS
from nuner_jax.plotting import panels, style, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

YLABEL = "token F1, macro (points)"
MOST_TICKS = 7


@styled
def draw(scores: Scores) -> "Figure":
    """Against the points' x where they have one, else a row for each point. Means over tasks."""
    if scores.on_axis():
        figure, [axis] = panels(1, height=2.6)
        against_x(axis, scores)
    else:
        figure, [axis] = panels(1, height=0.9 + 0.16 * (1 + len(scores.ks)) * len(scores.points))
        by_category(axis, scores)
    axis.set_title(scores.title)
    note = f"published: {ABLATIONS[scores.published].finding}" if scores.published in ABLATIONS else ""
    handles, labels = axis.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: not labels[i].startswith("k="))  # levels last
    columns = len(order) if sum(map(len, labels)) < 26 else 2
    key = {"loc": "outside lower center", "ncols": columns, "title": note or None, "title_fontsize": 7, "handlelength": 1.6}
    figure.legend([handles[i] for i in order], [labels[i] for i in order], **key)
    return figure


def against_x(axis: "Axes", scores: Scores) -> None:
    """Points with bars, the fitted trend as a line; an encoder that is not pre-trained as a level."""
    points = scores.on_axis()
    xs = [x for _, x in points]
    loose = [point for point, x in scores.x.items() if x is None]
    if scores.log_x:
        axis.set_xscale("log")
        if len(xs) <= MOST_TICKS:  # the points themselves say more than powers of ten
            axis.set_xticks(xs, [f"{x:,g}" for x in xs])
            axis.set_xticks([], minor=True)
    for i, k in enumerate(scores.ks):
        colour, marker, dash = style(i)
        found = [scores.get(point, k) for point, _ in points]
        axis.errorbar(
            xs,
            [100 * e.mean for e in found],
            yerr=[0 if np.isnan(e.half_width) else 100 * e.half_width for e in found],
            label=f"k={k}",
            color=colour,
            marker=marker,
            linestyle="none",
        )
        trend = scores.trend(k)
        if trend is not None:
            ends = [min(xs), max(xs)]
            axis.plot(ends, [100 * trend(x) for x in ends], color=colour, linestyle=dash, linewidth=1)
        for point in loose:
            level = 100 * scores.get(point, k).mean
            label = point if k == scores.ks[-1] else None
            axis.axhline(level, color=colour, linestyle=(0, (1, 2)), linewidth=1, label=label)
    axis.set_xlabel(scores.x_label + (" (log scale)" if scores.log_x else ""))
    axis.set_ylabel(YLABEL)


def by_category(axis: "Axes", scores: Scores) -> None:
    """A row for each point, first on top, a marker with a bar for each k."""
    for i, k in enumerate(scores.ks):
        colour, marker, _ = style(i)
        found = [scores.get(point, k) for point in scores.points]
        offset = (i - (len(scores.ks) - 1) / 2) * 0.2
        axis.errorbar(
            [100 * e.mean for e in found],
            [row + offset for row in range(len(found))],
            xerr=[0 if np.isnan(e.half_width) else 100 * e.half_width for e in found],
            label=f"k={k}",
            color=colour,
            marker=marker,
            linestyle="none",
        )
    axis.set_yticks(range(len(scores.points)), scores.points)
    axis.set_ylim(len(scores.points) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel(YLABEL)
