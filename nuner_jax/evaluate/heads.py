"""Few-shot heads on word vectors: many support sets fitted at once, padded and masked, by one compiled program.

Shapes: G support sets, N words of the longest (padded), D features, C classes (0 is O).
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nuner_jax.config import HeadConfig

# What is fitted at once, (sets, elements of features) at most: 8 MB, which every step reads twice, stay in a CPU's cache
AT_ONCE = {"cpu": (4, 1 << 21)}
AT_ONCE_ELSEWHERE = (32, 1 << 26)
FEATURES_THAT_COUNT = (
    100  # chosen with an encoder as downloaded; after pre-training the head does worse than `linear` from k = 4 on
)


class Heads(NamedTuple):
    """Linear scores on raw word vectors: features @ weight + bias."""

    weight: np.ndarray  # [G, C, D]
    bias: np.ndarray  # [G, C]


class Support(NamedTuple):
    """The words of one support set."""

    features: np.ndarray  # [N, D]
    labels: np.ndarray  # [N], 0 is O


def standardise(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation (of N - 1, plus 1e-5) of the real rows, [D] each."""
    n = mask.sum()
    mean = (x * mask[:, None]).sum(0) / n
    variance = (jnp.square(x - mean) * mask[:, None]).sum(0) / jnp.maximum(n - 1, 1)
    return mean, jnp.sqrt(variance) + 1e-5


def prototypes(z: jax.Array, onehot: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nearest class mean as a linear head: [C, D] means, and biases that make the scores negative squared distances / 2."""
    mean = jnp.einsum("nc,nd->cd", onehot, z) / jnp.maximum(onehot.sum(0), 1)[:, None]
    return mean, -jnp.square(mean).sum(-1) / 2


def shrunken_prototypes(z: jax.Array, onehot: jax.Array, even: bool) -> tuple[jax.Array, jax.Array]:
    """Nearest class mean where means of few words are trusted less: [C, D], [C].

    Features have variance v within classes and their means b between classes; a mean of n words is off by v / n, so it is drawn
    to the mean of all words, 0, by the factor b / (b + v / n) (empirical Bayes, James and Stein). To the squared distance comes
    the logarithm of a class's share of the words, unless classes count as `even`; features hang together, so D of them weigh
    as FEATURES_THAT_COUNT independent ones would.
    """
    count, D = onehot.sum(0), z.shape[1]
    present, n = count > 0, jnp.maximum(count, 1)
    mean, _ = prototypes(z, onehot)
    square = jnp.square(mean).sum(-1)
    total = (onehot.sum(1) * jnp.square(z).sum(1)).sum()
    within = jnp.maximum(total - (count * square).sum(), 0) / jnp.maximum(count.sum() - present.sum(), 1) / D
    between = (jnp.maximum(square / D - within / n, 1e-3) * present).sum() / present.sum()
    weight = (between / (between + within / n))[:, None] * mean
    prior = 0.0 if even else D / FEATURES_THAT_COUNT * within * jnp.log(n / count.sum())
    return weight, prior - jnp.square(weight).sum(-1) / 2


def _fit(x: jax.Array, y: jax.Array, mask: jax.Array, num_classes: int, config: HeadConfig) -> tuple[jax.Array, jax.Array]:
    """One support set: x [N, D], y [N], mask [N] (0 for padding) -> weight [C, D], bias [C] for standardised features.

    A class without a word can never win, and takes no part in the fit: its gradient is rounding errors, which Adam blows up.
    """
    onehot = jax.nn.one_hot(y, num_classes) * mask[:, None]
    absent = jnp.where(onehot.sum(0) > 0, 0.0, -1e9)
    if config.kind == "shrunken_prototype":
        weight, bias = shrunken_prototypes(x, onehot, config.class_weight == "balanced")
        return weight, bias + absent
    weight, bias = jnp.zeros((num_classes, x.shape[1])), jnp.zeros(num_classes)
    if config.kind != "linear":
        weight, bias = prototypes(x, onehot)
        weight, bias = weight / x.shape[1], bias / x.shape[1]  # of the order of a fitted head's logits, not of D
    if config.kind == "prototype":
        return weight, bias + absent
    importance = mask
    if config.class_weight == "balanced":
        count = onehot.sum(0)
        importance = onehot @ jnp.where(count > 0, 1 / jnp.maximum(count, 1), 0.0)
    importance = importance / importance.sum()

    def loss(head: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits = jnp.einsum("nd,cd->nc", x, head[0]) + head[1] + absent
        return -(importance * (jax.nn.log_softmax(logits) * onehot).sum(-1)).sum()

    optimizer = optax.adamw(config.learning_rate, weight_decay=config.weight_decay)

    def step(state, _):
        head, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(head), moments, head)
        return (jax.tree.map(jnp.add, head, updates), moments), None

    head = (weight, bias)
    weight, bias = jax.lax.scan(step, (head, optimizer.init(head)), None, length=config.num_steps)[0][0]
    return weight, bias + absent


@partial(jax.jit, static_argnames=("num_classes", "config"))
def fit(x: jax.Array, y: jax.Array, mask: jax.Array, num_classes: int, config: HeadConfig) -> tuple[jax.Array, jax.Array]:
    """Fits G heads: x [G, N, D], y [G, N], mask [G, N] -> weight [G, C, D] and bias [G, C] for raw features.

    Standardises on the support set, then full-batch AdamW from zero (the weight) with cross-entropy averaged over the real words.
    """

    def one(x: jax.Array, y: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, deviation = standardise(x, mask)
        weight, bias = _fit((x - mean) / deviation, y, mask, num_classes, config)
        weight = weight / deviation
        return weight, bias - weight @ mean

    return jax.vmap(one)(x, y, mask)


@jax.jit
def _predict(weight: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
    logits = jnp.einsum("wd,gcd->gwc", x.astype(jnp.float32), weight) + bias[:, None]
    return logits.argmax(-1).astype(jnp.uint8 if weight.shape[1] <= 256 else jnp.int32)


def predict(heads: Heads, features: np.ndarray, chunk: int = 8192) -> np.ndarray:
    """[G, W] classes of every word by every head."""
    parts = []
    for start in range(0, len(features), chunk):
        part = features[start : start + chunk]
        size = len(part)
        if size < chunk:  # one shape, one program
            part = np.concatenate([part, np.zeros((chunk - size, part.shape[1]), part.dtype)])
        parts.append(np.asarray(_predict(heads.weight, heads.bias, part))[:, :size])
    return np.concatenate(parts, 1)


def _bucket(n: int) -> int:
    """The next of 128, 192, 256, 384, 512, ...: at most a third of a padded set is padding (beyond 128)."""
    size = 128
    while size < n:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def fit_all(supports: Sequence[Support], num_classes: int, config: HeadConfig) -> Heads:
    """One head a support set, in their order. Sets of like size are padded to one length and fitted together.

    Compilations are few, for all tasks together: lengths go by buckets, classes are padded to a multiple of 8 (they never win), and
    so many sets as the length and the device allow are always fitted at once, empty ones among them: a set's head does not depend,
    not by a bit, on the others.
    """
    buckets: dict[int, list[int]] = {}
    for i, support in enumerate(supports):
        buckets.setdefault(_bucket(len(support.labels)), []).append(i)
    width = supports[0].features.shape[1]
    classes = -(-num_classes // 8) * 8
    most, elements = AT_ONCE.get(jax.default_backend(), AT_ONCE_ELSEWHERE)
    weight = np.empty((len(supports), num_classes, width), np.float32)
    bias = np.empty((len(supports), num_classes), np.float32)
    for length, members in sorted(buckets.items()):
        together = max(1, min(most, elements // (length * width)))
        for start in range(0, len(members), together):
            group = members[start : start + together]
            w, b = fit(*_padded([supports[i] for i in group], together, length), classes, config)
            weight[group], bias[group] = np.asarray(w)[: len(group), :num_classes], np.asarray(b)[: len(group), :num_classes]
    return Heads(weight, bias)


def _padded(supports: Sequence[Support], together: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [together, length, D], y and mask [together, length]; empty places hold one word, and nobody uses their result."""
    x = np.zeros((together, length, supports[0].features.shape[1]), np.float32)
    y, mask = np.zeros((together, length), np.int32), np.zeros((together, length), np.float32)
    mask[len(supports) :, 0] = 1
    for row, support in enumerate(supports):
        n = len(support.labels)
        x[row, :n], y[row, :n], mask[row, :n] = support.features, support.labels, 1
    return x, y, mask
