"""Options of the concepts commands."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ConceptMapConfig:
    """A map of concept embeddings: concept_map.png for a paper's column, concept_map.html with search, zoom and neighbours."""

    model: str = "runs/demo/hf"
    """Exported folder or hub name; it has to hold a concept encoder."""
    concepts: str = "demo"
    """What to embed: a data set's folder, its concepts.jsonl, a text file (one a line), or demo (the bundled corpus)."""
    out: str = "concepts"
    """Directory for the picture and the page."""
    limit: int = 3000
    """The most frequent concepts that are shown; 0: all."""
    width: float = 3.3
    """Width of the picture in inches."""
    font_size: float = 5.5
    """Size of its labels in points; those that find no room are left out."""


@dataclass(frozen=True)
class NearestConfig:
    """The concepts nearest to a phrase, by the cosine of their embeddings: `nuner concepts nearest "car part"`."""

    model: str = "runs/demo/hf"
    """Exported folder or hub name; it has to hold a concept encoder."""
    concepts: str = "demo"
    """Where to look: a data set's folder, its concepts.jsonl, a text file (one a line), or demo (the bundled corpus)."""
    top: int = 10
    """How many to print."""
    cache: str = ""
    """Where the embeddings are kept for the next phrase; empty: nuner_jax in the user's cache directory; none: nowhere."""
