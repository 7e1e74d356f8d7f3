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

COLUMN_WIDTH, TEXT_WIDTH = 3.3, 6.9
"""Inches, of a two-column paper."""
COLOURS = ("#0072b2", "#d08700", "#009e73", "#d55e00", "#3a97d0", "#444444", "#cc79a7", "#8a7c00")
"""After Okabe and Ito, told apart by the colour-blind too, the lightest darkened so that they hold on white."""
MARKERS = "os^DvPX*"
DASHES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
"""Marker and dash tell series apart in grey."""
PAPER: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "errorbar.capsize": 2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "pdf.fonttype": 42,  # fonts as outlines that a publisher's checks accept
}


def style(index: int) -> tuple[str, str, Any]:
    """Colour, marker and dash of the series at `index`."""
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)]


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """A function that draws in this look. It raises InputError where matplotlib is not installed."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            from matplotlib import rc_context
        except ImportError:
            raise InputError("figures need matplotlib: pip install nuner-jax[plots]") from None
        with rc_context(PAPER):
            return draw(*args, **kwargs)

    return drawn


def panels(count: int, columns: int = 1, *, height: float = 2.4) -> tuple["Figure", list["Axes"]]:
    """A figure of `count` panels of `height` inches: a column wide, with several beside each other two columns wide."""
    from matplotlib.figure import Figure

    columns = max(1, min(columns, count))
    lines = -(-count // columns)
    figure = Figure(figsize=(COLUMN_WIDTH if columns == 1 else TEXT_WIDTH, height * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


@styled
def save(figure: "Figure", path: Path) -> list[Path]:
    """Writes PATH.png (200 dpi) and PATH.pdf, without a date, so that the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf")]
    figure.savefig(files[0], dpi=200, metadata={"Software": None})
    figure.set_layout_engine("none")  # the layout stands, and finding it is what costs time
    figure.savefig(files[1], metadata={"CreationDate": None})
    return files
