"""A cheap few-shot score on the two bundled tasks, for the training loop to watch."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from nuner_jax.config import HeadConfig
from nuner_jax.evaluate import metrics
from nuner_jax.evaluate.features import FrozenEncoder, WordTokenizer, default_layers
from nuner_jax.evaluate.k_shot import sample
from nuner_jax.evaluate.tasks import BUNDLED, Task, load_task, word_types

if TYPE_CHECKING:
    from flax import nnx
    from transformers import PreTrainedTokenizerFast

    from nuner_jax.model.encoder import EncoderConfig


@lru_cache(maxsize=1)
def _tasks() -> list[Task]:
    return [load_task(name) for name in BUNDLED]


def probe(
    graph: "nnx.GraphDef",
    params: Any,
    tokenizer: "PreTrainedTokenizerFast",
    config: "EncoderConfig",
    *,
    layers: tuple[int, ...] = (),
    k: int = 4,
    seeds: int = 3,
) -> dict[str, float]:
    """Macro token F1 in 0..1 of a linear head on the frozen encoder: "probe/<task>" for each bundled task, "probe/f1" their mean.

    Compiles once; a call encodes some 700 sentences. Empty layers: last and middle.
    """
    from nuner_jax.evaluate import heads

    depth = config.num_hidden_layers
    encoder = FrozenEncoder(graph, params, WordTokenizer(tokenizer), config.hidden_size, depth, config.max_length)
    scores: dict[str, float] = {}
    for task in _tasks():
        drawn = [sample(task.train.mention_counts, k, seed) for seed in range(seeds)]
        parts = [*(task.train.take(indices) for indices in drawn), task.test]
        words = [sentence for part in parts for sentence in part.words]
        vectors = encoder.word_features(words, layers or default_layers(depth))
        *supports, test = np.split(vectors, np.cumsum([part.offsets[-1] for part in parts])[:-1])
        sets = [heads.Support(x, word_types(part.codes)) for x, part in zip(supports, parts, strict=False)]
        fitted = heads.fit_all(sets, len(task.types) + 1, HeadConfig())
        counts = [metrics.token_counts(task.test.codes, _codes(p), len(task.types)) for p in heads.predict(fitted, test)]
        scores[f"probe/{task.name}"] = float(np.mean([metrics.f1(c) for c in counts]))
    return {**scores, "probe/f1": float(np.mean(list(scores.values())))}


def _codes(types: np.ndarray) -> np.ndarray:
    """IO labels as codes, for scores that do not tell B- from I-."""
    return 2 * types.astype(np.int32)
