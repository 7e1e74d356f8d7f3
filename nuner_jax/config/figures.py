"""Options of the figures command."""

from dataclasses import dataclass

from nuner_jax.lists import Strs


@dataclass(frozen=True)
class FiguresConfig:
    """The paper's figures from what the stages have written: nuner_jax.figures RUN ... [--out DIR]."""

    runs: Strs = Strs()
    """Directories of dataset (concept frequency), export (concept map), evaluate (few-shot curves, comparison with LLMs) and ablate
    (ablation), or one that holds such; also without the flag."""
    out: str = "figures"
    """Directory for the figures, each as PNG and PDF."""
    concepts: str = "demo"
    """Names on the concept map: a data set, its concepts.jsonl, a text file with one a line, or demo."""
    limit: int = 2000
    """Concepts on the map, the most frequent; 0: all."""
