"""One frozen dataclass a stage: every option of nuner_jax, with its default. Loaded by cli.parse."""

from dataclasses import dataclass
from typing import Any, Literal

from nuner_jax.cli import Strs

Recipe = Literal["nuner_jax", "paper"]


@dataclass(frozen=True)
class DatasetConfig:
    """Annotated text to a packed training set: a TFDS data set in ArrayRecord shards, with concept table and manifest."""

    input: Strs = Strs()
    """Files: annotated JSON lines, or recorded replies ({"text", "reply"})."""
    out: str = "data"
    """TFDS data_dir to write; the data set is OUT/nuner/1.0.0."""
    recipe: Recipe = "nuner_jax"
    """Named set of defaults: nuner_jax (what measures best) or paper."""
    tokenizer: str = "minilm"
    """Encoder whose tokenizer to use: minilm, a Hugging Face folder, or a hub name."""
    row_length: int = 128
    """Tokens in a packed row, special tokens included."""
    mentions_per_row: int = 64
    """Capacity of a packed row in mentions."""
    max_concept_length: int = 24
    """Tokens of a concept's text at most, special tokens included."""
    concept_text: Literal["name", "name_and_description"] = "name"
    """What the concept encoder reads."""
    filter: Literal["none", "paper"] = "none"
    """paper: drop a sentence if one of its concepts is "concept"."""
    min_concept_count: int = 1
    """Concepts with fewer mentions are dropped."""
    validation_fraction: float = 0.02
    """Share of the sentences held out as split "validation", chosen by hash."""
    num_groups: int = 16
    """Hash groups that sentences are packed in; raise it with the size of the data (1024 for 100 M sentences)."""
    num_workers: int = 0
    """Processes; 0: one a core."""
    limit: int = 0
    """Only the first N sentences of the input; 0: all."""


RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "nuner_jax": {"dataset": {}, "train": {}, "evaluate": {}},
    "paper": {
        "dataset": {"filter": "paper"},
        "train": {"model.logit": "dot", "model.freeze_layers": "half"},
        "evaluate": {},
    },
}
"""recipe -> stage -> dotted key -> value: what a recipe changes against the defaults of the stage's config."""


def recipes(stage: str) -> dict[str, dict[str, Any]]:
    """The recipes as one stage sees them."""
    return {name: stages.get(stage, {}) for name, stages in RECIPES.items()}
