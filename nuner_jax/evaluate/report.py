"""The report of result rows: report.md, report.html, tables.tex and the few-shot curves."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from nuner_jax.evaluate.examples import read_examples
from nuner_jax.evaluate.results import Row, read_rows
from nuner_jax.evaluate.summary import Summary
from nuner_jax.evaluate.tables import INTERVAL, k_axis, latex, make_table, markdown, panels, rare_types, type_tables, unseen_table

METRICS = {
    "token_macro_f1": "Token F1, macro average over types",
    "entity_micro_f1": "Entity F1, micro average, strict IOB2",
}
MORE_METRICS = {
    "token_micro_f1": "Token F1, micro average",
    "entity_macro_f1": "Entity F1, macro average over types, strict IOB2",
    "partial_f1": "Partial-match F1: overlap with the right type counts one half",
}
FIGURES = {
    "token_macro_f1": ("curves", "token F1, macro (points)"),
    "entity_micro_f1": ("curves-entity", "entity F1, micro (points)"),
}
"""Metric -> file and axis label."""
RARE = "Types with fewer than k mentions to learn from"


def reading(rows: Sequence[Row]) -> str:
    """What a reader of the tables has to know."""
    seeds = len({row["seed"] for row in rows})
    return (
        f"Points of F1 (0 to 100) over {seeds} support set{'s' if seeds > 1 else ''} for each k: mean ± standard deviation"
        f"{INTERVAL if seeds > 1 else ''}. Gains are paired on the same support sets. Token means word."
    )


def markdown_report(rows: Sequence[Row], figures: Sequence[str] = ()) -> str:
    """Scores, gains, types and unseen share as Markdown."""
    parts = ["# Few-shot evaluation", "", reading(rows), ""]
    for metric, title in METRICS.items():
        summary = Summary(rows, metric)
        parts += [f"## {title}", ""]
        for task in panels(summary):
            table = make_table(summary, task)
            parts += [f"### {table.title}", "", markdown(table.cells()), ""]
        parts += [f"![{title}]({name})\n" for name in figures if name == f"{FIGURES[metric][0]}.png"]
    types = type_tables(rows)
    if types:
        parts += ["## By type", "", "Strict entity precision, recall and F1 at the largest k of each system, means.", ""]
        for task, table in types.items():
            parts += [f"### {task}", "", markdown(table.cells()), ""]
    unseen = unseen_table(rows)
    if len(unseen) > 1:
        parts += ["## Test mentions unseen in the support set", "", markdown(unseen), ""]
    rare = rare_types(rows)
    if rare:
        parts += [f"## {RARE}", "", *(f"- {line}" for line in rare), ""]
    return "\n".join(parts)


def latex_report(rows: Sequence[Row]) -> str:
    """Every score as a LaTeX table (needs the package booktabs)."""
    parts = []
    for metric, title in {**METRICS, **MORE_METRICS}.items():
        summary = Summary(rows, metric)
        parts.append(latex([make_table(summary, task) for task in panels(summary)], f"{title}, in points.", f"tab:{metric}"))
    return "\n".join(parts)


def write_report(folders: Sequence[str | Path], out: Path) -> Path:
    """Writes the report of several result directories into OUT; plots where matplotlib is installed. Returns the Markdown file."""
    from nuner_jax.evaluate import html

    rows = read_rows(folders)
    out.mkdir(parents=True, exist_ok=True)
    figures: list[str] = []
    if importlib.util.find_spec("matplotlib"):
        from nuner_jax.evaluate.plots import curves

        for metric, (name, ylabel) in FIGURES.items():
            figures += curves(Summary(rows, metric), out, name, k_axis(rows), ylabel)
    else:
        print("no plots: matplotlib is not installed (pip install nuner-jax[plots])", file=sys.stderr)
    path = out / "report.md"
    path.write_text(markdown_report(rows, figures), encoding="utf8")
    (out / "tables.tex").write_text(latex_report(rows), encoding="utf8")
    shown = [example for folder in folders for example in read_examples(Path(folder) / "examples.jsonl")]
    (out / "report.html").write_text(html.page(rows, shown, plots=bool(figures)), encoding="utf8")
    return path
