"""Concept names to vectors, through a model's concept encoder; those of a whole table are kept on disk."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nuner_jax.concepts.names import Named

if TYPE_CHECKING:
    from nuner_jax.inference.zero_shot import Concepts


def load_concept_encoder(model: str) -> "Concepts":
    """The concept encoder of a model. Raises InputError if the model has none."""
    from nuner_jax.inference.zero_shot import Concepts
    from nuner_jax.pretrained import resolve

    return Concepts(resolve(model))


def texts_of(encoder: "Concepts", concepts: Sequence[Named]) -> list[str]:
    """What the encoder reads of concepts: as in training."""
    return [f"{c.name}: {c.description}" if encoder.described and c.description else c.name for c in concepts]


def embed(encoder: "Concepts", concepts: Sequence[Named], cache: Path | None = None) -> np.ndarray:
    """[N, D] vectors of concepts as training saw them; from the folder `cache` if the same encoder has embedded the same before."""
    texts = texts_of(encoder, concepts)
    if cache is None:
        return encoder.embed(texts)
    from nuner_jax.evaluate.encoders import NamedEncoder

    about = [NamedEncoder(encoder.folder).hash, encoder.logit["kind"], texts]
    path = cache / f"concepts-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]}.npy"
    try:
        return np.load(path)
    except (OSError, ValueError):  # not there, or not whole
        vectors = encoder.embed(texts)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        with open(partial, "wb") as file:
            np.save(file, vectors)
        partial.replace(path)
    except OSError:
        pass  # costs the time of embedding them again, nothing else
    return vectors


def cache_folder(cache: str) -> Path | None:
    """Where vectors are kept: the folder named, by default nuner_jax in the user's cache directory; with "none" nowhere."""
    if cache == "none":
        return None
    return Path(cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "nuner_jax").expanduser()
