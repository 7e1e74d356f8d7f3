"""Tables of a summary as plain cells, and their Markdown and LaTeX forms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nuner_jax.evaluate.results import Row
from nuner_jax.evaluate.summary import AVERAGE, Estimate, Summary, labelled

INTERVAL = " [95 % interval of the mean, Student's t]"
Cells = list[list[str]]
"""Rows of text; the first is the head."""


@dataclass(frozen=True)
class Table:
    """Systems down, k across; below, the gain of each system over the first one."""

    title: str
    ks: list[int]
    scores: list[tuple[str, list[Estimate | None]]]
    gains: list[tuple[str, list[Estimate | None]]]
    baseline: str

    def cells(self) -> Cells:
        """As text."""
        rows = [["system", *(f"k={k}" for k in self.ks)]]
        rows += [[label, *(f"{score_text(c)} {interval_text(c)}".strip() for c in cells)] for label, cells in self.scores]
        return rows + [
            [f"{label}: gain over {self.baseline}", *(f"{gain_text(c)} {interval_text(c, '+')}".strip() for c in cells)]
            for label, cells in self.gains
        ]


@dataclass(frozen=True)
class TypeTable:
    """One task's types down, systems across."""

    heads: list[str]  # system and its k
    rows: list[tuple[str, int, list[tuple[float, float, float]]]]  # type, gold test mentions, (precision, recall, F1) in points

    def cells(self) -> Cells:
        """As text."""
        body = [
            [kind, str(support), *("{:.0f} / {:.0f} / {:.1f}".format(*s) for s in scores)] for kind, support, scores in self.rows
        ]
        return [["type", "mentions", *(f"{head}: P / R / F1" for head in self.heads)], *body]


def make_table(summary: Summary, task: str) -> Table:
    """The table of one task, or of AVERAGE."""

    def rows(labels: Sequence[str], get: Callable[[str, int], Estimate | None]) -> list[tuple[str, list[Estimate | None]]]:
        found = [(label, [get(label, k) for k in summary.ks]) for label in labels]
        return [(label, cells) for label, cells in found if any(cells)]

    baseline = summary.labels[0]
    scores = rows(summary.labels, lambda label, k: summary.get(label, task, k))
    gains = rows(summary.labels[1:], lambda label, k: summary.difference(label, baseline, task, k))
    title = f"Average of {len(summary.tasks)} tasks" if task == AVERAGE else task
    return Table(title, summary.ks, scores, gains, baseline)


def type_tables(rows: Sequence[Row]) -> dict[str, TypeTable]:
    """Task -> scores of its types, most frequent first: each system at its largest k, means over support sets."""
    tables = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        groups: dict[str, list[Row]] = {}
        for label, row in labelled(rows):
            if row["task"] == task and row.get("per_type"):
                groups.setdefault(label, []).append(row)
        if not groups:
            continue
        largest = {label: max(row["k"] for row in of) for label, of in groups.items()}
        groups = {label: [row for row in of if row["k"] == largest[label]] for label, of in groups.items()}
        support = {kind: int(s["support"]) for of in groups.values() for row in of for kind, s in row["per_type"].items()}
        body = [
            (kind, support[kind], [_type_scores(of, kind) for of in groups.values()])
            for kind in sorted(support, key=lambda kind: (-support[kind], kind))
        ]
        tables[task] = TypeTable([f"{label}, k={largest[label]}" for label in groups], body)
    return tables


def _type_scores(rows: Sequence[Row], kind: str) -> tuple[float, float, float]:
    values = [[100 * row["per_type"].get(kind, {}).get(name, 0.0) for name in ("precision", "recall", "f1")] for row in rows]
    precision, recall, f1 = np.mean(values, 0)
    return float(precision), float(recall), float(f1)


def unseen_table(rows: Sequence[Row]) -> Cells:
    """Task by k: share of the test mentions (words and type) that no support mention equals, mean over support sets."""
    shares: dict[tuple[str, int], dict[int, float]] = {}
    for row in rows:
        if "unseen_share" in row:
            shares.setdefault((row["task"], row["k"]), {})[row["seed"]] = row["unseen_share"]
    ks = sorted({k for _, k in shares})
    body = [
        [task, *(f"{100 * np.mean(list(shares[task, k].values())):.0f} %" if (task, k) in shares else "" for k in ks)]
        for task in dict.fromkeys(task for task, _ in shares)
    ]
    return [["task", *(f"k={k}" for k in ks)], *body]


def rare_types(rows: Sequence[Row]) -> list[str]:
    """A line for each (task, k, type) whose support sets all hold fewer than k mentions: train has no more."""
    counts: dict[tuple[str, int, str], int] = {}
    for row in rows:
        if row.get("sampling") != "words":  # there k counts words
            for kind, count in row.get("support_mentions", {}).items():
                place = row["task"], row["k"], kind
                counts[place] = max(count, counts.get(place, 0))
    return [f"{task}, k={k}: {kind} has {n}" for (task, k, kind), n in sorted(counts.items()) if n < k]


def panels(summary: Summary) -> list[str]:
    """The tasks to show, the average first."""
    return ([AVERAGE] if len(summary.tasks) > 1 else []) + summary.tasks


def k_axis(rows: Sequence[Row]) -> str:
    """What k counts, for an axis."""
    units = {"words" if row.get("sampling") == "words" else "mentions" for row in rows}
    return f"k, {' or '.join(sorted(units))} of each type in the support set"


def score_text(value: Estimate | None) -> str:
    """Points: mean ± deviation over seeds."""
    if value is None:
        return ""
    return f"{100 * value.mean:.1f}" if value.count < 2 else f"{100 * value.mean:.1f} ± {100 * value.deviation:.1f}"


def gain_text(value: Estimate | None) -> str:
    """Points: mean paired difference."""
    return "" if value is None else f"{100 * value.mean:+.1f}"


def interval_text(value: Estimate | None, sign: str = "") -> str:
    """Points: the 95 % interval; nothing for a single seed."""
    if value is None or value.count < 2:
        return ""
    low, high = 100 * (value.mean - value.half_width), 100 * (value.mean + value.half_width)
    return f"[{low:{sign}.1f}, {high:{sign}.1f}]"


def markdown(rows: Cells) -> str:
    """A pipe table."""
    rows = [rows[0], ["---", *(["---:"] * (len(rows[0]) - 1))], *rows[1:]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


_LATEX = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def escape_latex(text: str) -> str:
    """Text with LaTeX's special characters made harmless."""
    return "".join(_LATEX.get(c, c) for c in text)


def latex(tables: Sequence[Table], caption: str, label: str) -> str:
    """One booktabs table with a block a task; the best mean of each column in bold; ± is half a 95 % interval."""
    ks = tables[0].ks
    caption += r" Mean $\pm$ half the 95\,\% interval (Student's $t$) over support sets."
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * len(ks)}}}", r"\toprule"]
    lines.append("system & " + " & ".join(f"$k$={k}" for k in ks) + r" \\")
    for table in tables:
        lines += [r"\midrule", rf"\multicolumn{{{len(ks) + 1}}}{{l}}{{\textit{{{escape_latex(table.title)}}}}} \\"]
        best = [max((c.mean for _, cells in table.scores if (c := cells[j])), default=None) for j in range(len(ks))]
        for name, cells in table.scores:
            texts = [_latex_cell(c, bool(c) and c.mean == b and len(table.scores) > 1) for c, b in zip(cells, best, strict=True)]
            lines.append(f"{escape_latex(name)} & " + " & ".join(texts) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", rf"\label{{{label}}}", r"\end{table}", ""]
    return "\n".join(lines)


def _latex_cell(value: Estimate | None, bold: bool) -> str:
    if value is None:
        return ""
    mean = rf"\textbf{{{100 * value.mean:.1f}}}" if bold else f"{100 * value.mean:.1f}"
    return mean if value.count < 2 else rf"{mean} {{\scriptsize$\pm${100 * value.half_width:.1f}}}"
