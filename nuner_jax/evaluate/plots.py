"""Few-shot curves: score against k, a panel a task and one for the average."""

from pathlib import Path

from nuner_jax.evaluate.summary import AVERAGE, Summary

# Okabe and Ito: told apart by the colour-blind too
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#444444",
    "#b8a800",
)
MARKERS = "osD^vPX*"


def curves(summary: Summary, path: Path, ylabel: str = "token F1, macro (points)") -> None:
    """Writes the figure. Bars are 95 % intervals of the mean over support sets."""
    from matplotlib.figure import Figure

    panels = summary.tasks + ([AVERAGE] if len(summary.tasks) > 1 else [])
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * lines + 0.7), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True)
    for panel, axis in zip(panels, axes.flat, strict=False):
        for i, label in enumerate(summary.labels):
            points = [(k, e) for k in summary.ks if (e := summary.get(label, panel, k)) is not None]
            if not points:
                continue
            offset = 1.03 ** (i - (len(summary.labels) - 1) / 2)  # so that bars do not hide each other
            axis.errorbar(
                [k * offset for k, _ in points],
                [100 * e.mean for _, e in points],
                yerr=[100 * e.half_width if e.count > 1 else 0 for _, e in points],
                label=label,
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                markersize=5,
                linewidth=1.6,
                capsize=2.5,
            )
        axis.set_title(f"average of {len(summary.tasks)} tasks" if panel == AVERAGE else panel, fontsize=11)
        axis.set_xscale("log", base=2)
        axis.set_xticks(summary.ks, [str(k) for k in summary.ks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    figure.supxlabel("k, mentions of each type in the support set (log scale)", fontsize=10)
    figure.supylabel(ylabel, fontsize=10)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(3, len(labels)), frameon=False, fontsize=10)
    figure.savefig(path, dpi=150)
