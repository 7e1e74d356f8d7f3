"""The report of result rows: Markdown tables and few-shot curves."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from nuner_jax.evaluate.results import Row, read_rows
from nuner_jax.evaluate.summary import AVERAGE, Estimate, Summary

METRICS = {
    "token_macro_f1": "Token F1, macro average over types",
    "entity_micro_f1": "Entity F1, micro average, strict IOB2",
}


def cell(value: Estimate | None, signed: bool = False) -> str:
    """An estimate in points: mean ± deviation; a difference with its 95 % interval."""
    if value is None:
        return ""
    mean = f"{100 * value.mean:+.1f}" if signed else f"{100 * value.mean:.1f}"
    if value.count < 2:
        return mean
    if signed:
        return f"{mean} [{100 * (value.mean - value.half_width):+.1f}, {100 * (value.mean + value.half_width):+.1f}]"
    return f"{mean} ± {100 * value.deviation:.1f}"


def markdown_table(summary: Summary, task: str) -> str:
    """Systems down, k across; then the gain of each system over the first."""
    rows = [["system", *(f"k={k}" for k in summary.ks)], ["---", *(["---:"] * len(summary.ks))]]
    for label in summary.labels:
        cells = [cell(summary.get(label, task, k)) for k in summary.ks]
        if any(cells):
            rows.append([label, *cells])
    for label in summary.labels[1:]:
        cells = [cell(summary.difference(label, summary.labels[0], task, k), signed=True) for k in summary.ks]
        if any(cells):
            rows.append([f"{label}: gain over {summary.labels[0]}", *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def markdown(rows: Sequence[Row]) -> str:
    """The whole report as Markdown."""
    seeds = sorted({row["seed"] for row in rows})
    parts = ["# Few-shot evaluation", ""]
    parts += [
        f"Points of F1 (0 to 100): mean ± standard deviation over {len(seeds)} support sets for each k; gains are paired on "
        "the same support sets, with the 95 % interval of the mean (Student's t). Token means word.",
        "",
    ]
    for metric, title in METRICS.items():
        summary = Summary(rows, metric)
        parts += [f"## {title}", ""]
        for task in ([AVERAGE] if len(summary.tasks) > 1 else []) + summary.tasks:
            heading = f"Average of {len(summary.tasks)} tasks" if task == AVERAGE else task
            parts += [f"### {heading}", "", markdown_table(summary, task), ""]
    return "\n".join(parts)


def write_report(folders: Sequence[str | Path], out: Path) -> Path:
    """Writes OUT/report.md and, where matplotlib is installed, OUT/curves.png. Returns the Markdown file."""
    rows = read_rows(folders)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.md"
    text = markdown(rows)
    if importlib.util.find_spec("matplotlib"):
        from nuner_jax.evaluate.plots import curves

        curves(Summary(rows, "token_macro_f1"), out / "curves.png")
        text += "\n![Few-shot curves](curves.png)\n"
    else:
        print("no plots: matplotlib is not installed (pip install nuner-jax[plots])", file=sys.stderr)
    path.write_text(text, encoding="utf8")
    return path
