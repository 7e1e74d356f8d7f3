"""The report as one HTML page that needs nothing else: tables, curves, types, examples of right and wrong predictions, origin."""

from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any

from nuner_jax.evaluate.results import Row
from nuner_jax.evaluate.summary import Estimate, Summary, labelled
from nuner_jax.evaluate.tables import (
    Cells,
    gain_text,
    interval_text,
    k_axis,
    make_table,
    panels,
    rare_types,
    score_text,
    type_tables,
    unseen_table,
)

STYLE = resources.files("nuner_jax.evaluate").joinpath("report.css")
MARKS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
"""The markers of plots as characters."""


def page(rows: Sequence[Row], examples: Sequence[dict[str, Any]], plots: bool) -> str:
    """The whole page."""
    from nuner_jax.evaluate.report import METRICS, MORE_METRICS, RARE, reading

    links = [("scores", "Scores"), ("more", "More scores"), ("types", "By type"), ("unseen", "Unseen"), ("examples", "Examples")]
    links.append(("origin", "Origin"))
    parts = [
        "<h1>Few-shot evaluation</h1>",
        f"<p>{escape(reading(rows))} A gain is coloured where its interval leaves out 0.</p>",
    ]
    parts.append("<nav>" + "".join(f'<a href="#{anchor}">{text}</a>' for anchor, text in links) + "</nav>")
    parts.append('<div id="scores">')
    for metric, title in METRICS.items():
        parts.append(score_section(rows, metric, title, plots))
    parts.append('</div><h2 id="more">More scores</h2>')
    for metric, title in MORE_METRICS.items():
        parts.append(f"<details><summary>{escape(title)}</summary>{tables(Summary(rows, metric))}</details>")
    parts.append(f'<h2 id="types">By type</h2>{type_section(rows)}')
    parts.append(f'<h2 id="unseen">Test mentions unseen in the support set</h2>{plain(unseen_table(rows))}')
    rare = "".join(f"<li>{escape(line)}</li>" for line in rare_types(rows))
    parts.append(f"<h3>{RARE}</h3><ul>{rare}</ul>" if rare else "")
    parts.append(f'<h2 id="examples">Examples</h2>{example_section(examples)}')
    parts.append(f'<h2 id="origin">Origin of the numbers</h2>{origin(rows)}')
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Few-shot evaluation</title>'
    head += f"<style>{STYLE.read_text(encoding='utf8')}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def score_section(rows: Sequence[Row], metric: str, title: str, plots: bool) -> str:
    """Curves, then a table a task."""
    summary, parts = Summary(rows, metric), [f"<h2>{escape(title)}</h2>"]
    if plots and summary.ks:
        from nuner_jax.evaluate.plots import panel_svg, title_of
        from nuner_jax.evaluate.report import FIGURES

        keys = [legend_key(i) + escape(label) for i, label in enumerate(summary.labels)]
        legend = "".join(f"<span>{key}</span>" for key in keys)
        note = "Bars: 95 % interval of the mean over support sets."
        parts.append(f'<p class="legend">{legend}<br><small>{note}</small></p><div class="figures">')
        for task in panels(summary):
            svg, caption = panel_svg(summary, task, k_axis(rows), FIGURES[metric][1]), escape(title_of(summary, task))
            parts.append(f"<figure><figcaption>{caption}</figcaption>{svg}</figure>")
        parts.append("</div>")
    return "".join(parts) + tables(summary)


def legend_key(index: int) -> str:
    """The line of the series at `index` as an SVG element: colour, dash and marker as in the panels, so that it is found in grey too."""
    from nuner_jax.plotting import style

    colour, marker, dash = style(index)
    strokes = {"-": "none", "--": "6 3", "-.": "8 3 2 3"}.get(dash if isinstance(dash, str) else "", "7 2 2 2 2 2")
    line = f'<line x2="40" y1="8" y2="8" stroke="{colour}" stroke-width="2" stroke-dasharray="{strokes}"/>'
    mark = f'<text x="20" y="13" text-anchor="middle" font-size="14" fill="{colour}">{MARKS[marker]}</text>'
    return f'<svg width="40" height="16" aria-hidden="true">{line}{mark}</svg>'


def tables(summary: Summary) -> str:
    """A table a task, the average first; the best mean of a column in bold."""
    parts = []
    for task in panels(summary):
        table = make_table(summary, task)
        best = [max((c.mean for _, cells in table.scores if (c := cells[j])), default=None) for j in range(len(table.ks))]
        body = []
        for label, cells in table.scores:
            texts = [
                estimate_cell(score_text(c), interval_text(c), "best" if c and c.mean == top and len(table.scores) > 1 else "")
                for c, top in zip(cells, best, strict=True)
            ]
            body.append(f"<tr><td>{escape(label)}</td>{''.join(texts)}</tr>")
        for label, cells in table.gains:
            texts = [estimate_cell(gain_text(c), interval_text(c, "+"), certainty(c)) for c in cells]
            body.append(f'<tr class="gain"><td>{escape(label)}: gain over {escape(table.baseline)}</td>{"".join(texts)}</tr>')
        head = "".join(f"<th>k={k}</th>" for k in table.ks)
        parts.append(f"<h3>{escape(table.title)}</h3>{wide(f'<tr><th>system</th>{head}</tr>', body)}")
    return "".join(parts)


def estimate_cell(text: str, interval: str, kind: str) -> str:
    """A table cell: the estimate, its interval below."""
    return f'<td class="{kind}">{text}' + (f"<small>{interval}</small></td>" if interval else "</td>")


def certainty(gain: Estimate | None) -> str:
    """CSS class of a gain: sure where the 95 % interval leaves out 0."""
    if gain is None or gain.count < 2 or abs(gain.mean) <= gain.half_width:
        return ""
    return "sure" if gain.mean > 0 else "sure loss"


def wide(head: str, body: Sequence[str]) -> str:
    """A table that scrolls sideways on its own where the page is narrow."""
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>'


def plain(cells: Cells) -> str:
    """A table of text."""
    head, *body = ["".join(f"<{tag}>{escape(text)}</{tag}>" for text in row) for tag, row in _tagged(cells)]
    return wide(f"<tr>{head}</tr>", [f"<tr>{row}</tr>" for row in body])


def _tagged(cells: Cells) -> list[tuple[str, list[str]]]:
    return [("th" if i == 0 else "td", row) for i, row in enumerate(cells)]


def type_section(rows: Sequence[Row]) -> str:
    """A task's types: strict entity precision, recall and F1 of every system."""
    parts = ["<p>Strict entity scores at the largest k of each system, means over support sets; gold test mentions.</p>"]
    for task, table in type_tables(rows).items():
        body = []
        for kind, support, scores in table.rows:
            cells = "".join(f"<td>{p:.0f}</td><td>{r:.0f}</td><td><strong>{f:.1f}</strong></td>" for p, r, f in scores)
            body.append(f"<tr><td>{escape(kind)}</td><td>{support}</td>{cells}</tr>")
        heads = "".join(f'<th colspan="3">{escape(head)}</th>' for head in table.heads)
        names = "<th>type</th><th>mentions</th>" + "<th>P</th><th>R</th><th>F1</th>" * len(table.heads)
        parts.append(f"<h3>{escape(task)}</h3>{wide(f'<tr><th></th><th></th>{heads}</tr><tr>{names}</tr>', body)}")
    return "".join(parts)


def example_section(examples: Sequence[dict[str, Any]], limit: int = 12) -> str:
    """The same test sentences under every system, at each system's largest k; those with an error first."""
    if not examples:
        return "<p>No examples were stored with these results.</p>"
    parts = [
        '<p><mark class="right">right</mark> <mark class="half">right type, wrong ends</mark> <mark class="wrong">wrong</mark> '
        '<mark class="missed">missed</mark> (the predictions of seed 0)</p>'
    ]
    pairs = labelled(examples)
    for task in dict.fromkeys(e["task"] for e in examples):
        of = [(label, e) for label, e in pairs if e["task"] == task]
        largest = {label: max(e["k"] for other, e in of if other == label) for label, _ in of}
        sentences: dict[int, list[tuple[str, dict[str, Any]]]] = {}
        for label, e in of:
            if e["k"] == largest[label]:
                sentences.setdefault(e["sentence"], []).append((label, e))
        order = sorted(sentences, key=lambda i: (all(e["gold"] == e["predicted"] for _, e in sentences[i]), i))
        shown = order[: limit - limit // 4] + [i for i in order[::-1] if i not in order[: limit - limit // 4]][: limit // 4]
        body = []
        for i in sorted(shown):
            lines = "".join(
                f'<div><span class="system">{escape(label)}</span> {marked(e["words"], e["gold"], e["predicted"])}</div>'
                for label, e in sentences[i]
            )
            body.append(f'<div class="example"><b>test sentence {i}</b>{lines}</div>')
        ks = ", ".join(f"{escape(label)} k={k}" for label, k in largest.items())
        parts.append(f"<details open><summary>{escape(task)} ({ks})</summary>{''.join(body)}</details>")
    return "".join(parts)


def marked(words: Sequence[str], gold: Sequence[Sequence[Any]], predicted: Sequence[Sequence[Any]]) -> str:
    """A sentence with its predicted mentions, and the gold ones that no prediction touches."""
    right = {tuple(span) for span in gold}
    spans = []
    for start, end, kind in predicted:
        overlap = [g for g in gold if g[0] < end and start < g[1]]
        if (start, end, kind) in right:
            spans.append((start, end, "right", kind))
        elif any(g[2] == kind for g in overlap):
            spans.append((start, end, "half", kind))
        else:
            expected = f"{kind}, not {overlap[0][2]}" if overlap else f"{kind}, not a mention"
            spans.append((start, end, "wrong", expected))
    free = [g for g in gold if not any(g[0] < end and start < g[1] for start, end, _ in predicted)]
    spans += [(start, end, "missed", kind) for start, end, kind in free]
    parts, at = [], 0
    for start, end, state, note in sorted(spans):
        parts.append(escape(" ".join(words[at:start])))
        parts.append(f'<mark class="{state}">{escape(" ".join(words[start:end]))}<small>{escape(note)}</small></mark>')
        at = end
    return " ".join([*parts, escape(" ".join(words[at:]))])


def origin(rows: Sequence[Row]) -> str:
    """Where each system's numbers come from."""
    heads = ["system", "encoder", "protocol", "layers", "head", "labels", "sampling", "version", "encoder hash"]
    systems = []
    for label, row in dict(reversed(labelled(rows))).items():
        layers = ",".join(map(str, row.get("layers") or []))
        facts = [layers if name == "layers" else str(row.get(name, "")) for name in heads[1:-1]]
        systems.append([label, *facts, str(row.get("encoder_hash", ""))[:12]])
    tasks = [[task, str(row.get("data_hash", ""))[:12]] for task, row in {row["task"]: row for row in rows}.items()]
    return plain([heads, *systems[::-1]]) + plain([["task", "data hash"], *tasks])
