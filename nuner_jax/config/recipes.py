"""Named sets of defaults, across the stages."""

from typing import Any, Literal

Recipe = Literal["nuner_jax", "paper"]

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "nuner_jax": {"dataset": {}, "train": {}, "evaluate": {}},
    "paper": {
        "dataset": {"filter": "paper"},
        "train": {"model.logit": "dot", "model.freeze_layers": "half"},
        "evaluate": {"layers": [-1], "head.kind": "linear"},
    },
}
"""recipe -> stage -> dotted key -> value: what a recipe changes against the defaults of the stage's config."""


def recipes(stage: str) -> dict[str, dict[str, Any]]:
    """The recipes as one stage sees them."""
    return {name: stages.get(stage, {}) for name, stages in RECIPES.items()}
