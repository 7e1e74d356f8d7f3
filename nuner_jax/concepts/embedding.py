"""Concept names to vectors, through a model's concept encoder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nuner_jax.concepts.names import Named

if TYPE_CHECKING:
    from nuner_jax.inference.zero_shot import Concepts


def load_concept_encoder(model: str) -> "tuple[Concepts, bool]":
    """The concept encoder of a model, and whether it was trained on names with their descriptions.

    Raises InputError if the model has none.
    """
    from nuner_jax import NuNER
    from nuner_jax.model.hf import read_json

    ner = NuNER.from_pretrained(model)
    return ner.concepts, read_json(ner.folder / "nuner.json").get("concept_text") == "name_and_description"


def embed(encoder: "Concepts", concepts: Sequence[Named], with_description: bool) -> np.ndarray:
    """[N, D] vectors of concepts as training saw them."""
    texts = [f"{c.name}: {c.description}" if with_description and c.description else c.name for c in concepts]
    return encoder.embed(texts)
