"""What an annotation has brought, for people: counts, drops by reason, the distribution of concepts (a figure of the paper)."""

import hashlib
import heapq
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nuner_jax.schema import AnnotatedText

PLOT = "concepts.png"
EXAMPLES = 2_000
"""Concepts of which an example is kept; which ones is decided by a hash of their names."""


@dataclass
class Statistics:
    """Counts over annotated texts; grows with the distinct concepts only."""

    sentences: int = 0
    without_mention: int = 0
    concepts: Counter[str] = field(default_factory=Counter)
    _examples: dict[str, tuple[str, str]] = field(default_factory=dict)  # concept -> mention, description
    _heap: list[tuple[int, str]] = field(default_factory=list)  # (-hash, concept) of the concepts in _examples

    def add(self, record: AnnotatedText) -> None:
        """Counts one text."""
        self.sentences += 1
        self.without_mention += not record.mentions
        for m in record.mentions:
            if m.concept not in self.concepts:
                self._keep_example(m.concept, record.text[m.start : m.end], m.description)
            self.concepts[m.concept] += 1

    def watch(self, records: Iterable[AnnotatedText]) -> Iterator[AnnotatedText]:
        """The same texts, counted as they pass."""
        for record in records:
            self.add(record)
            yield record

    @property
    def mentions(self) -> int:
        """Mentions of all concepts."""
        return self.concepts.total()

    def rare(self, count: int) -> list[tuple[str, str, str]]:
        """(concept, mention, description) of a sample of the concepts that occur once; the same for the same data."""
        once = sorted((_hash(name), name) for name in self._examples if self.concepts[name] == 1)
        return sorted((name, *self._examples[name]) for _, name in once[:count])

    def _keep_example(self, concept: str, mention: str, description: str) -> None:
        item = (-_hash(concept), concept)
        if len(self._heap) < EXAMPLES:
            heapq.heappush(self._heap, item)
        else:
            pushed_out = heapq.heappushpop(self._heap, item)
            self._examples.pop(pushed_out[1], None)
            if pushed_out == item:
                return
        self._examples[concept] = (mention, description)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf8", "surrogatepass"), digest_size=8).digest(), "big")


def share_located(mentions: int, dropped: Mapping[str, int]) -> float:
    """Of the mentions that the replies name, the share that stands in its text; a surplus repetition counts for neither side."""
    lost = dropped.get("mention: not in text", 0) + dropped.get("mention: not at word boundary", 0)
    return mentions / (mentions + lost) if mentions + lost else 1.0


def markdown(statistics: Statistics, dropped: Mapping[str, int], facts: Mapping[str, str], plot: str = "", ends: int = 30) -> str:
    """The report. `facts` are rows of its first table besides the counts: model, prompt, cost; `plot` is an image beside it."""
    s = statistics
    once = sum(count == 1 for count in s.concepts.values())
    rows = {
        **facts,
        "sentences": f"{s.sentences:,}",
        "sentences without a mention": f"{s.without_mention:,}",
        "mentions": f"{s.mentions:,}",
        "mentions a sentence": f"{s.mentions / max(1, s.sentences):.2f}",
        "mentions found in their text": f"{share_located(s.mentions, dropped):.2%} of those in the replies",
        "distinct concepts": f"{len(s.concepts):,}",
        "concepts that occur once": f"{once:,} ({once / max(1, len(s.concepts)):.0%})",
    }
    lines = ["# Annotation report", "", "| | |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()]
    lines += ["", "## Dropped, by reason", ""]
    if any(dropped.values()):
        lines += ["| reason | count |", "|---|---:|"]
        lines += [f"| {_cell(reason)} | {n:,} |" for reason, n in sorted(dropped.items(), key=lambda i: (-i[1], i[0])) if n]
    else:
        lines.append("Nothing.")
    lines += ["", "## Concepts", ""]
    if plot:
        lines += [f"![Frequency of concepts by rank, both axes logarithmic]({plot})", ""]
    top = sorted(s.concepts.items(), key=lambda item: (-item[1], item[0]))[:ends]
    if top:
        lines += ["### Most frequent", "", "| concept | mentions | share |", "|---|---:|---:|"]
        lines += [f"| {_cell(name)} | {count:,} | {count / s.mentions:.2%} |" for name, count in top]
    if rare := s.rare(ends):
        lines += ["", "### A sample of those that occur once", "", "| concept | mention | description |", "|---|---|---|"]
        lines += [f"| {_cell(name)} | {_cell(mention)} | {_cell(description)} |" for name, mention, description in rare]
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def write_report(folder: Path, statistics: Statistics, dropped: Mapping[str, int], facts: Mapping[str, str]) -> Path:
    """Writes FOLDER/report.md, and FOLDER/concepts.png if matplotlib is installed. Returns the path of the report."""
    plot = PLOT if statistics.concepts and plot_concepts(folder / PLOT, statistics.concepts) else ""
    path = folder / "report.md"
    partial = path.with_name("report.md.partial")
    partial.write_text(markdown(statistics, dropped, facts, plot), encoding="utf8")
    partial.replace(path)
    return path


def plot_concepts(path: Path, concepts: Mapping[str, int]) -> bool:
    """Draws frequency against rank, both logarithmic, some concepts named. False if matplotlib (extra plots) is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    ranked = sorted(concepts.items(), key=lambda item: (-item[1], item[0]))
    counts = [count for _, count in ranked]
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.loglog(range(1, len(counts) + 1), counts, color="#1f5a8c", linewidth=2, marker="." if len(counts) < 30 else "")
    rank, named = 1, []
    while rank <= len(ranked):
        name, count = ranked[rank - 1]
        axes.plot(rank, count, "o", color="#1f5a8c", markersize=5)
        named.append((rank, count, name if len(name) <= 28 else name[:27] + "…"))
        rank *= 4 if len(ranked) < 100_000 else 10
    for rank, count, name in named:
        place: dict[str, Any] = {"xytext": (6, 6), "textcoords": "offset points"}
        axes.annotate(name, (rank, count), **place, fontsize=8, color="#333333", parse_math=False)
    once = sum(count == 1 for count in counts)
    axes.set_title(
        f"{len(counts):,} concepts, {sum(counts):,} mentions; {once / len(counts):.0%} of the concepts occur once",
        fontsize=10,
        loc="left",
    )
    axes.set_xlabel("rank of the concept")
    axes.set_ylabel("mentions")
    axes.set_xlim(0.8, max(10, len(counts) * 8))  # room for the last name
    axes.set_ylim(0.7, max(10, counts[0] * 2))
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")  # names in scripts that the font lacks
        figure.savefig(path, metadata={"Software": None})  # byte-equal for equal data
    return True
