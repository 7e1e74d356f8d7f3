"""Numbers of the paper (arXiv 2402.15343) and of its model cards, to be drawn beside ours. Points of F1, 0 to 100."""

from dataclasses import dataclass

FEW_SHOT: dict[str, dict[int, float]] = {
    "RoBERTa-base": {1: 24.5, 4: 44.7, 16: 58.1, 64: 65.4},
    "RoBERTa, NER-BERT data": {1: 32.3, 4: 50.9, 16: 61.9, 64: 67.6},
    "NuNER": {1: 39.4, 4: 59.6, 16: 67.8, 64: 71.5},
}
"""System -> k -> macro token F1 of a linear head on the frozen encoder: averages over OntoNotes 5.0, BioNLP 2004, MIT Movie and MIT
Restaurant."""

LLM: dict[str, dict[tuple[int, int], tuple[float, float]]] = {
    "NuNER": {(8, 16): (58.75, 0.93), (64, 128): (70.30, 0.35)},
    "UniversalNER-7B": {(8, 16): (57.89, 4.34), (64, 128): (71.02, 1.53)},
}
"""System -> (fewest, most words of a type) -> entity-level micro F1 of full fine-tuning, mean and deviation."""


@dataclass(frozen=True)
class Direction:
    """What an ablation of the paper found."""

    direction: str  # up, down or none, with growing x or from the first point to the last
    finding: str


ABLATIONS = {
    "text_source": Direction("none", "no clear difference between C4 and Wikipedia"),
    "concept_diversity": Direction("up", "a clear drop with fewer distinct concepts"),
    "data_size": Direction("up", "about logarithmic growth from 1 k to 1 M sentences"),
    "model_size": Direction("up", "a consistent gain from base to large"),
}
"""The paper shows these as curves; directions are what its text states."""
