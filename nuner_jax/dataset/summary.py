"""What a training set holds, for people: Markdown with counts, drops, and head and tail of the concept distribution."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nuner_jax.dataset.concepts import Concept


def summary(manifest: Mapping[str, Any], table: Sequence[Concept], ends: int = 20) -> str:
    """Markdown text; `ends` concepts are shown from the head and from the tail of the distribution."""
    m = manifest
    singles = sum(concept.frequency == 1 for concept in table)
    share = f"{singles / len(table):.0%}" if table else "none"
    rows = ", ".join(f"{count:,} {split}" for split, count in m["rows"].items())
    lines = [
        "# Training set",
        "",
        f"- sentences: {m['sentences']:,}",
        f"- mentions: {m['mentions']:,} ({m['mentions'] / m['sentences']:.1f} a sentence)",
        f"- concepts: {m['concepts']:,} ({share} of them with one mention)",
        f"- text tokens: {m['text_tokens']:,} ({m['text_tokens'] / m['sentences']:.1f} a sentence)",
        f"- rows of {m['row_length']} tokens: {rows}; {m['fill']:.1%} filled",
        "",
        "## Inputs",
        "",
        "| file | format | sentences read | licence | source |",
        "|---|---|---|---|---|",
        *(
            f"| {_cell(i['path'])} | {i['format']} | {i['sentences']:,} | {_cell(i['licence'])} | {_cell(i['source'])} |"
            for i in m["inputs"]
        ),
        "",
        "## Dropped",
        "",
        *([f"- {reason}: {count:,}" for reason, count in m["dropped"].items()] or ["nothing"]),
    ]
    for title, part in (("Most frequent concepts", table[:ends]), ("Least frequent concepts", table[ends:][-ends:])):
        if part:
            lines += ["", f"## {title}", "", "| concept | mentions | description |", "|---|---|---|"]
            lines += [f"| {_cell(c.name)} | {c.frequency:,} | {_cell(c.description)} |" for c in part]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def write_summary(path: Path, manifest: Mapping[str, Any], table: Sequence[Concept]) -> None:
    """Writes `summary` to a file."""
    path.write_text(summary(manifest, table), encoding="utf8")
