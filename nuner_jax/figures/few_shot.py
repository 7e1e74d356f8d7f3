"""Few-shot curves and the comparison with LLMs: our rows, and the published averages beside them, marked as such."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nuner_jax.evaluate.plots import figure_of
from nuner_jax.evaluate.results import Row
from nuner_jax.evaluate.summary import AVERAGE, Summary
from nuner_jax.figures import published
from nuner_jax.plotting import COLUMN_WIDTH, TEXT_WIDTH, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Mapping[str, Mapping[int, tuple[float, float]]]
"""System -> k -> (points of F1, deviation or 0)."""
FEW_SHOT: Points = {system: {k: (f1, 0.0) for k, f1 in scores.items()} for system, scores in published.FEW_SHOT.items()}
LLM: Points = {system: {least: value for (least, _), value in scores.items()} for system, scores in published.LLM.items()}
TASKS = "(published: averages over OntoNotes 5.0, BioNLP 2004,\nMIT Movie and MIT Restaurant)"
GREY = ("#333333", "#777777", "#aaaaaa")


def is_llm_comparison(rows: Iterable[Row]) -> bool:
    """Whether a system that is prompted, or whose answers were read from a file, is among them."""
    return any(row.get("protocol") in ("prompt", "predictions") for row in rows)


@styled
def draw_few_shot(rows: Sequence[Row], column: bool = False) -> "Figure":
    """Macro token F1 against k: a panel for each task and one for the average, with the paper's; `column`: the last one alone."""
    summary = Summary(rows, "token_macro_f1")
    return _draw(summary, FEW_SHOT, f"k, mentions of each type in the support set\n{TASKS}", "token F1, macro (points)", column)


@styled
def draw_llm(rows: Sequence[Row]) -> "Figure":
    """Entity micro F1 against k, the average over tasks, with the paper's fine-tuned encoder and LLM."""
    summary = Summary(rows, "entity_micro_f1")
    return _draw(summary, LLM, f"k, words of each type in the support set\n{TASKS}", "entity F1, micro (points)", True)


def _draw(summary: Summary, beside: Points, xlabel: str, ylabel: str, column: bool) -> "Figure":
    tasks = summary.tasks + ([AVERAGE] if len(summary.tasks) > 1 else [])
    tasks = tasks[-1:] if column else tasks
    columns = 1 if len(tasks) == 1 else 2 if len(tasks) == 4 else 3
    width = COLUMN_WIDTH if len(tasks) == 1 else TEXT_WIDTH
    return figure_of(
        summary,
        tasks,
        width,
        columns,
        xlabel,
        ylabel,
        lambda axis, task: draw_published(axis, beside, summary.ks) if task == tasks[-1] else None,
    )


def draw_published(axis: "Axes", systems: Points, ks: Sequence[int]) -> None:
    """Hollow grey markers on thin lines; the axis grows to hold them."""
    for i, (system, scores) in enumerate(systems.items()):
        style: dict[str, Any] = {
            "color": GREY[i % len(GREY)],
            "marker": "os^"[i % 3],
            "linestyle": (0, (1, 1.5)),
            "linewidth": 0.8,
        }
        deviations = [deviation for _, deviation in scores.values()]
        axis.errorbar(
            list(scores),
            [f1 for f1, _ in scores.values()],
            yerr=deviations if any(deviations) else None,
            label=f"{system} (published)",
            markerfacecolor="white",
            zorder=1,
            **style,
        )
    shown = sorted(set(ks) | {k for scores in systems.values() for k in scores})
    axis.set_xscale("log", base=2)
    axis.set_xticks(shown, [str(k) for k in shown])
    axis.set_xlim(min(shown) / 1.3, max(shown) * 1.3)
    axis.minorticks_off()
