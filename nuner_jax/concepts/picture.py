"""The concept map as a picture: a dot a concept, names where they find room, readable at the width of a column."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nuner_jax.concepts.projection import place_labels
from nuner_jax.errors import InputError

DPI = 300
MARGIN = 0.04  # of the width, around the points
PADDING = np.array([3.0, 1.0])  # points between labels


def check_installed() -> None:
    """Raises InputError where what a map is made with (extra `plots`) is missing; asked before the work."""
    if any(importlib.util.find_spec(name) is None for name in ("matplotlib", "sklearn")):
        raise InputError("a concept map needs matplotlib and scikit-learn: pip install 'nuner-jax[plots]'")


def draw(points: np.ndarray, names: Sequence[str], frequency: Sequence[int], path: Path, width: float, font_size: float) -> int:
    """Writes the picture (its suffix decides the form), as high as the points need, and returns how many names it shows.

    points [N, 2], the most important first; width in inches, font size in points.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import AbstractPathEffect, withStroke

    points = np.asarray(points) - np.min(points, 0)
    scale = (1 - 2 * MARGIN) * width * 72 / max(float(points.max()), 1e-9)
    places = points * scale + MARGIN * width * 72  # in points of 1/72 inch, the unit of everything below
    side, height = width * 72, max(places[:, 1].max() + MARGIN * width * 72, width * 72 / 4)
    figure = Figure(figsize=(width, height / 72), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.set_xlim(0, side)
    axis.set_ylim(0, height)
    count = np.asarray(frequency, float)
    weight = np.log1p(count) / max(float(np.log1p(count).max()), 1e-9)  # of 0..1
    axis.scatter(*places.T, s=1 + 9 * weight, c="#0072b2", alpha=0.45, linewidths=0)
    renderer = canvas.get_renderer()
    texts = [axis.text(0, 0, plain(name), fontsize=font_size, color="#1a1a1a", va="bottom", ha="left") for name in names]
    halo: list[AbstractPathEffect] = [withStroke(linewidth=font_size / 4, foreground="white", alpha=0.9)]
    extents = [text.get_window_extent(renderer) for text in texts]
    sizes = np.array([(e.width, e.height) for e in extents]) * 72 / DPI
    placed = place_labels(places, sizes + PADDING, (side, height))
    shown = {number for number, _, _ in placed}
    for number, left, bottom in placed:
        texts[number].set_position((left + PADDING[0] / 2, bottom + PADDING[1] / 2))
        texts[number].set_path_effects(halo)
    for number, text in enumerate(texts):
        if number not in shown:
            text.remove()
    figure.savefig(path, dpi=DPI)
    return len(placed)


def plain(name: str) -> str:
    """A name for matplotlib, to which a dollar sign means a formula."""
    return name.replace("$", r"\$")
