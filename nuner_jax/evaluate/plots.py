"""Few-shot curves: score against k, a panel a task and one for the average, with 95 % intervals, in the sizes of a paper."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nuner_jax.evaluate.summary import AVERAGE, Summary
from nuner_jax.plotting import COLUMN_WIDTH, PAPER, TEXT_WIDTH, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def title_of(summary: Summary, task: str) -> str:
    """Heading of a panel."""
    return f"average of {len(summary.tasks)} tasks" if task == AVERAGE else task


def draw_panel(axis: "Axes", summary: Summary, task: str) -> None:
    """The curves of one task. Bars are 95 % intervals of the mean."""
    ks = summary.ks
    for i, label in enumerate(summary.labels):
        colour, marker, dash = style(i)
        points = [(k, e) for k in ks if (e := summary.get(label, task, k)) is not None]
        if not points:
            continue
        offset = 1.08 ** (i - (len(summary.labels) - 1) / 2)  # so that bars do not hide each other
        axis.errorbar(
            [k * offset for k, _ in points],
            [100 * e.mean for _, e in points],
            yerr=[100 * e.half_width if e.count > 1 else 0 for _, e in points],
            label=label,
            color=colour,
            marker=marker,
            linestyle=dash,
            markersize=4,
            linewidth=1.2,
            capsize=2,
            elinewidth=0.9,
        )
    if ks:
        axis.set_xscale("log", base=2)
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.set_xlim(min(ks) / 1.3, max(ks) * 1.3)
    axis.minorticks_off()
    axis.grid(alpha=0.3, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)


def figure_of(
    summary: Summary,
    tasks: Sequence[str],
    width: float,
    columns: int,
    xlabel: str,
    ylabel: str,
    beside: "Callable[[Axes, str], None]" = lambda axis, task: None,
) -> "Figure":
    """Panels of the tasks, `columns` a line, and one legend above them; `beside` may draw more into the panel of a task."""
    from matplotlib.figure import Figure

    columns = min(columns, len(tasks))
    lines = -(-len(tasks) // columns)
    key_lines = -(-len(summary.labels) // (2 if width < 4 else 3))
    figure = Figure(figsize=(width, 0.75 * width / columns * lines + 0.35 + 0.17 * key_lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for task, axis in zip(tasks, axes.flat, strict=False):
        draw_panel(axis, summary, task)
        beside(axis, task)
        axis.set_title(title_of(summary, task))
    for axis in list(axes.flat)[len(tasks) :]:
        axis.set_visible(False)
    figure.supxlabel(xlabel, fontsize=8)
    figure.supylabel(ylabel, fontsize=8)
    entries = (pair for axis in axes.flat for pair in zip(*axis.get_legend_handles_labels(), strict=True))
    legend = {label: handle for handle, label in entries}
    columns = 2 if width < 4 and max(map(len, legend), default=0) < 22 else 1 if width < 4 else 3
    figure.legend(
        legend.values(),
        legend.keys(),
        loc="outside upper center",
        ncols=min(columns, len(legend)),
        frameon=False,
        handlelength=2.8,
    )
    return figure


def curves(summary: Summary, folder: Path, name: str, xlabel: str, ylabel: str) -> list[str]:
    """Writes FOLDER/NAME.png and .pdf, all panels at text width, and NAME-column.*, the average at column width. File names."""
    import matplotlib

    tasks = summary.tasks + ([AVERAGE] if len(summary.tasks) > 1 else [])
    with matplotlib.rc_context(PAPER):
        whole = figure_of(summary, tasks, TEXT_WIDTH, 2 if len(tasks) == 4 else 3, xlabel, ylabel)
        column = figure_of(summary, tasks[-1:], COLUMN_WIDTH, 1, xlabel, ylabel)
        return [path.name for path in save(whole, folder / name) + save(column, folder / f"{name}-column")]


def panel_svg(summary: Summary, task: str, xlabel: str, ylabel: str) -> str:
    """One panel as an SVG element, without legend."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": f"{task} {ylabel}", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(4.6, 3.3), layout="constrained")
        axis = figure.subplots()
        draw_panel(axis, summary, task)
        axis.set_xlabel(xlabel, fontsize=10)
        axis.set_ylabel(ylabel, fontsize=10)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
