"""Protocol "finetune": the whole encoder and a two-layer head trained on the support set, several seeds in one program.

Shapes: S support sets side by side, R rows of T tokens a step, D width, C classes. What is trained for a support set: all layers,
and of the embedding tables the rows that its words use (no other row has a gradient), so that many sets fit in memory.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nuner_jax.config import EvaluateConfig, FinetuneConfig
from nuner_jax.dataset.packing import pack
from nuner_jax.evaluate.encoders import NamedEncoder
from nuner_jax.evaluate.features import FrozenEncoder, Item, items_of
from nuner_jax.evaluate.progress import Progress
from nuner_jax.evaluate.samples import Cell, Samples
from nuner_jax.evaluate.tasks import Task, label_codes, num_labels
from nuner_jax.model.encoder import dropout, merge

ROW_LENGTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512)
Params = dict[str, Any]


class Steps(NamedTuple):
    """The batches of a training run on one support set, [steps, R, T] each; `labels` is -1 where there is no word to learn from."""

    tokens: np.ndarray  # rows of the small embedding table
    segment_ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


def groups(config: EvaluateConfig, encoder: NamedEncoder, samples: Samples) -> Iterator[Samples]:
    """The cells in parts that are trained side by side: of one k, as many seeds as parallel_seeds says or the memory holds."""
    size = config.finetune.parallel_seeds or _fitting(encoder)
    for k in dict.fromkeys(k for k, _ in samples):
        cells = [cell for cell in samples if cell[0] == k]
        for start in range(0, len(cells), size):
            yield {cell: samples[cell] for cell in cells[start : start + size]}


def _fitting(encoder: NamedEncoder) -> int:
    device = jax.devices()[0]
    if device.platform == "cpu":
        return 1
    memory = (device.memory_stats() or {}).get("bytes_limit", 16 << 30)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(encoder.loaded.params))
    return max(1, int(memory / (8 * size)))  # parameters, gradient, two moments, and as much again for activations


def predict_group(config: EvaluateConfig, encoder: NamedEncoder, task: Task, samples: Samples) -> dict[Cell, np.ndarray]:
    """Fine-tunes on each support set of the group. Cell -> labels of all test words."""
    base, layers = encoder.loaded, encoder.layers(config.layers)
    labels = label_codes(task.train.codes, config.labels)
    plans, vocabularies = [], []
    for (_, seed), indices in samples.items():
        words = [task.train.sentences[i].words for i in indices]
        targets = np.concatenate([labels[task.train.offsets[i] : task.train.offsets[i + 1]] for i in indices])
        items = list(items_of(words, base.tokenizer, base.max_length))
        vocabulary = np.unique(np.concatenate([item.tokens for item in items]))
        plans.append(plan(items, targets, vocabulary, config.finetune, seed))
        vocabularies.append(vocabulary)
    title = f"{encoder.name} on {task.name}, k={next(iter(samples))[0]}, {len(samples)} seeds"
    seeds = [seed for _, seed in samples]
    classes = num_labels(len(task.types), config.labels)
    trained = train(base, layers, plans, vocabularies, classes, config.finetune, seeds, title)
    result = {}
    for s, cell in enumerate(samples):
        one = jax.tree.map(lambda x, s=s: x[s], trained)
        vectors = with_trained(base, one["encoder"], vocabularies[s]).word_features(task.test.words, layers)
        result[cell] = classify(one["head"], vectors)
    return result


def plan(items: Sequence[Item], labels: np.ndarray, vocabulary: np.ndarray, config: FinetuneConfig, seed: int) -> list[list[Any]]:
    """The steps of a run as lists of (tokens, columns, labels), in an order that the seed decides, anew each epoch."""
    ready = []
    for item in items:
        tokens = np.searchsorted(vocabulary, item.tokens)
        ready.append((tokens, item.columns, labels[item.targets]))
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(config.num_epochs):
        order = rng.permutation(len(ready))
        steps += [
            [ready[i] for i in order[start : start + config.batch_size]] for start in range(0, len(order), config.batch_size)
        ]
    return steps


def lay_out(plans: Sequence[list[list[Any]]]) -> list[Steps]:
    """Packs the batches of all plans into rows of one shape, the smallest that holds them all."""
    lengths = [[[len(tokens) for tokens, _, _ in batch] for batch in steps] for steps in plans]
    longest = max(max(max(batch) for batch in steps) for steps in lengths)
    best: tuple[float, int, Any] | None = None
    for T in [length for length in ROW_LENGTHS if length >= longest] or [longest]:
        packed = [[pack(batch, [0] * len(batch), T, 0) for batch in steps] for steps in lengths]
        R = max(len(rows) for steps in packed for rows in steps)
        cost = R * T * (1 + T / 2048)  # attention grows with the row
        if best is None or cost < best[0]:
            best = cost, T, (R, packed)
    assert best is not None
    _, T, (R, packed) = best
    return [_fill(steps, rows, R, T) for steps, rows in zip(plans, packed, strict=True)]


def _fill(steps: list[list[Any]], packed: list[list[list[int]]], R: int, T: int) -> Steps:
    arrays = Steps(*(np.zeros((len(steps), R, T), np.int32) for _ in Steps._fields))
    arrays.labels.fill(-1)
    for n, (batch, rows) in enumerate(zip(steps, packed, strict=True)):
        for r, row in enumerate(rows):
            start = 0
            for segment, i in enumerate(row, start=1):
                tokens, columns, labels = batch[i]
                end = start + len(tokens)
                arrays.tokens[n, r, start:end] = tokens
                arrays.segment_ids[n, r, start:end] = segment
                arrays.positions[n, r, start:end] = np.arange(len(tokens))
                arrays.labels[n, r, start + np.asarray(columns)] = labels
                start = end
    return arrays


def init_head(key: jax.Array, width: int, hidden: int, classes: int) -> Params:
    """The two-layer head: [width, hidden], GELU, [hidden, classes]; without hidden units a linear one."""
    keys = jax.random.split(key)
    if not hidden:
        return {"output": {"kernel": 0.02 * jax.random.normal(keys[1], (width, classes)), "bias": jnp.zeros(classes)}}
    return {
        "hidden": {"kernel": jax.random.normal(keys[0], (width, hidden)) / width**0.5, "bias": jnp.zeros(hidden)},
        "output": {"kernel": 0.02 * jax.random.normal(keys[1], (hidden, classes)), "bias": jnp.zeros(classes)},
    }


def apply_head(head: Params, x: jax.Array, rate: float = 0.0, key: jax.Array | None = None) -> jax.Array:
    """[..., width] -> [..., C] logits."""
    keys = (None, None) if key is None else jax.random.split(key)
    if "hidden" in head:
        x = jax.nn.gelu(dropout(x, rate, keys[0]) @ head["hidden"]["kernel"] + head["hidden"]["bias"])
    return dropout(x, rate, keys[1]) @ head["output"]["kernel"] + head["output"]["bias"]


def _loss(params: Params, graph: Any, batch: Any, key: jax.Array, layers: tuple[int, ...], rate: float) -> jax.Array:
    """Mean cross-entropy over the labelled words of a batch [R, T]."""
    keys = jax.random.split(key)
    encoder = merge(graph, params["encoder"])
    states = encoder(batch.tokens, batch.segment_ids, batch.positions, dropout_rate=rate, dropout_key=keys[0])
    logits = apply_head(params["head"], jnp.concatenate([states[layer] for layer in layers], -1), rate, keys[1])
    real = batch.labels >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(batch.labels, 0))
    return jnp.sum(losses * real) / jnp.maximum(real.sum(), 1)


@lru_cache(maxsize=8)
def _step(graph: Any, layers: tuple[int, ...], config: FinetuneConfig) -> Any:
    """The jitted step over S support sets: (params, moments, rate [S], steps, keys, number) -> (params, moments, loss [S])."""
    peaks = {"encoder": config.learning_rate, "head": config.head_learning_rate}

    def move(rate, value, update):
        decay = config.weight_decay if value.ndim > 1 else 0.0
        return value - rate * (update + decay * value)

    adam = optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.scale_by_adam())

    def step(params: Params, moments: Any, rate: Any, batch: Any, key: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(_loss)(params, graph, Steps(*batch), key, layers, config.dropout)
        updates: Any
        updates, moments = adam.update(grads, moments, params)
        return (
            {part: jax.tree.map(partial(move, rate * peaks[part]), params[part], updates[part]) for part in peaks},
            moments,
            loss,
        )

    return jax.jit(jax.vmap(step), donate_argnums=(0, 1)), adam


def train(
    base: FrozenEncoder,
    layers: tuple[int, ...],
    plans: Sequence[list[list[Any]]],
    vocabularies: Sequence[np.ndarray],
    classes: int,
    config: FinetuneConfig,
    seeds: Sequence[int],
    title: str,
    linear: bool = False,
) -> Params:
    """Runs the plans side by side: {"encoder", "head"} with a leading axis S. A set with fewer steps rests at the end (rate 0).

    The head has a hidden layer of the encoder's width unless it is to be `linear`.
    """
    steps = lay_out(plans)
    size = -(-max(len(v) for v in vocabularies) // 256) * 256  # few shapes, few programs
    encoders = [_small(base.params, vocabulary, size) for vocabulary in vocabularies]
    keys = jax.vmap(jax.random.key)(np.asarray(seeds))
    hidden = 0 if linear else base.width
    heads = [init_head(keys[s], base.width * len(layers), hidden, classes) for s in range(len(plans))]
    params = {"encoder": _stack(encoders), "head": _stack(heads)}
    step, adam = _step(base.graph, layers, config)
    moments = jax.vmap(adam.init)(params)
    counts = np.array([len(plan) for plan in plans])
    progress = Progress(title, int(counts.max()), "steps")
    for n in range(counts.max()):
        batch = tuple(np.stack([part[min(n, len(part) - 1)] for part in parts]) for parts in zip(*steps, strict=True))
        rate = np.array([learning_rate(n, count, config.warmup_fraction) for count in counts], np.float32)
        params, moments, _ = step(params, moments, rate, batch, jax.vmap(partial(jax.random.fold_in, data=n))(keys))
        progress(1)
    progress.close()
    return params


def learning_rate(step: int, count: int, warmup_fraction: float) -> float:
    """Share of the peak: linear from 0 over the warm-up, then linear to 0 after the last of `count` steps."""
    warmup = max(1, round(count * warmup_fraction))
    return min((step + 1) / warmup, max(0.0, (count - step) / max(1, count - warmup)))


def _small(params: Params, vocabulary: np.ndarray, size: int) -> Params:
    """Parameters with only the word rows that are used, padded to `size` rows."""
    rows = np.asarray(params["embeddings"]["word"])[vocabulary]
    word = np.concatenate([rows, np.zeros((size - len(rows), rows.shape[1]), rows.dtype)])
    return {**params, "embeddings": {**params["embeddings"], "word": word}}


def with_trained(base: FrozenEncoder, params: Params, vocabulary: np.ndarray) -> FrozenEncoder:
    """The encoder with trained parameters; word rows that were not trained keep their values."""
    word = jnp.asarray(base.params["embeddings"]["word"]).at[vocabulary].set(params["embeddings"]["word"][: len(vocabulary)])
    full = {**params, "embeddings": {**params["embeddings"], "word": word}}
    return dataclasses.replace(base, params=full)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def _classes(head: Params, x: jax.Array) -> jax.Array:
    return apply_head(head, x.astype(jnp.float32)).argmax(-1)


def classify(head: Params, vectors: np.ndarray, chunk: int = 8192) -> np.ndarray:
    """[W] classes of word vectors."""
    size = -(-len(vectors) // chunk) * chunk
    padded = np.concatenate([vectors, np.zeros((size - len(vectors), vectors.shape[1]), vectors.dtype)])
    return np.concatenate([np.asarray(_classes(head, padded[i : i + chunk])) for i in range(0, size, chunk)])[: len(vectors)]
