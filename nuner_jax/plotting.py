"""One look for all figures: a paper's column wide, told apart in grey and by the colour-blind, saved as PNG and PDF."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from nuner_jax.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

COLUMN = 3.3
"""Inches: the width of a column of a two-column paper."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a06a00", "#2f86bd", "#444444", "#8a7c00")
"""After Okabe and Ito, the light ones darkened so that they hold on white."""
MARKERS = "osD^vPX*"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1)))
RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.2,
    "errorbar.capsize": 2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
}


def series(i: int) -> dict[str, Any]:
    """Colour, marker and line style of the i-th series: each of the three alone tells neighbours apart."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": LINES[i % len(LINES)]}


PUBLISHED = {"markerfacecolor": "white", "linewidth": 0.9, "alpha": 0.9}
"""Added to the style of a series that is published elsewhere: hollow markers, thin line; its label says "published"."""


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """A function that draws in this look. It raises InputError where matplotlib is not installed."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            from matplotlib import rc_context
        except ImportError:
            raise InputError("figures need matplotlib: pip install nuner-jax[plots]") from None
        with rc_context(RC):
            return draw(*args, **kwargs)

    return drawn


def panels(count: int, columns: int = 1, *, height: float = 2.4) -> tuple["Figure", list["Axes"]]:
    """A figure of `count` panels of `height` inches: a column wide, with several beside each other two columns wide."""
    from matplotlib.figure import Figure

    columns = max(1, min(columns, count))
    lines = -(-count // columns)
    figure = Figure(figsize=(COLUMN if columns == 1 else 2 * COLUMN + 0.3, height * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


@styled
def save(figure: "Figure", path: Path) -> list[Path]:
    """Writes PATH.png (300 dpi) and PATH.pdf, without a date, so that the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf")]
    figure.savefig(files[0], dpi=300)
    figure.savefig(files[1], metadata={"CreationDate": None})
    return files
