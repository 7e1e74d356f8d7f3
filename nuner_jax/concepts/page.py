"""The concept map as one HTML file that needs nothing else: search, zoom, hover, neighbours."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

MARK = "/*DATA*/"


def page(
    points: np.ndarray, names: Sequence[str], frequency: Sequence[int], neighbours: Sequence[Sequence[int]], title: str
) -> str:
    """The page; points [N, 2] in the unit square, neighbours the numbers of the nearest concepts of each, best first."""
    data = {
        "title": title,
        "x": [round(float(x), 4) for x in points[:, 0]],
        "y": [round(float(y), 4) for y in points[:, 1]],
        "names": list(names),
        "frequency": [int(n) for n in frequency],
        "neighbours": [list(row) for row in neighbours],
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")  # nothing ends the script early
    template = (files("nuner_jax.concepts") / "page.html").read_text(encoding="utf8")
    return template.replace(MARK, f"const DATA = {text};", 1)


def write_page(path: Path, text: str) -> None:
    """Writes the file."""
    path.write_text(text, encoding="utf8")
