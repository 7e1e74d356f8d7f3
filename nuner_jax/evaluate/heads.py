"""Few-shot heads on word vectors: many support sets fitted at once, padded and masked, by one compiled program.

Shapes: G support sets, B blocks of N words (padded), D features, C classes (0 is O).
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nuner_jax.config import HeadConfig

# (words a block, sets fitted at once, threads that fit): a block of 768 features stays in the cache of a CPU core
AT_ONCE = {"cpu": (256, 1, os.cpu_count() or 1)}
AT_ONCE_ELSEWHERE = (4096, 32, 1)
EXACT = partial(jnp.einsum, precision="highest")  # TPUs multiply in bfloat16 otherwise, too coarse for what is inverted


class Heads(NamedTuple):
    """Linear scores on raw word vectors: features @ weight + bias."""

    weight: np.ndarray  # [G, C, D]
    bias: np.ndarray  # [G, C]


class Support(NamedTuple):
    """The words of one support set."""

    features: np.ndarray  # [N, D]
    labels: np.ndarray  # [N], 0 is O


def prototypes(count: jax.Array, sums: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nearest class mean as a linear head, from the number and the sum of each class's words ([C], [C, D]).

    [C, D] means, and biases [C] that make the scores negative squared distances / 2.
    """
    mean = sums / jnp.maximum(count, 1)[:, None]
    return mean, -jnp.square(mean).sum(-1) / 2


def discriminant(count: jax.Array, sums: jax.Array, squares: jax.Array, even: bool) -> tuple[jax.Array, jax.Array]:
    """Linear discriminant with shrunken covariance and means: [C, D], [C]; `squares` [D, D] is the sum of x x^T over all N words.

    The covariance within classes has D (D + 1) / 2 entries and few words to tell them, so it counts as N words beside D words of
    a spherical one of the same mean variance (Friedman 1989, regularised discriminant analysis); a class mean counts as n words
    beside one at the mean of all, 0. To a class's score comes the logarithm of its share of the words, unless classes count
    as `even`. Both ways of counting are the best of ten that were tried on MIT Movie, MIT Restaurant, JNLPBA and GUM together.
    """
    N, D = count.sum(), sums.shape[1]
    mean, _ = prototypes(count, sums)
    within = (squares - EXACT("cd,ce->de", sums, mean)) / N
    variance = jnp.maximum(jnp.trace(within) / D, 1e-3)  # 0 where each class has one word
    covariance = (N * within + D * variance * jnp.eye(D)) / (N + D)
    mean *= (count / (count + 1))[:, None]
    weight = jax.scipy.linalg.solve(covariance, mean.T, assume_a="pos").T
    prior = 0.0 if even else jnp.log(jnp.maximum(count, 1) / N)
    return weight, prior - (weight * mean).sum(-1) / 2


def _fit(x: jax.Array, y: jax.Array, blocks: jax.Array, num_classes: int, config: HeadConfig) -> tuple[jax.Array, jax.Array]:
    """One support set: x [B, N, D], y [B, N] (-1 is padding), all in the first `blocks` -> weight [C, D], bias [C] for raw features.

    A class without a word can never win, and takes no part in the fit: its gradient is rounding errors, which Adam blows up.
    """

    def total(function: Callable[[jax.Array, jax.Array], Any]) -> Any:
        """Sum over blocks of a function of the features [N, D] and one-hot classes [C, N] of a block."""

        def one(i: jax.Array | int) -> Any:
            return function(x[i].astype(jnp.float32), jax.nn.one_hot(y[i], num_classes, axis=0))

        return jax.lax.fori_loop(1, blocks, lambda i, sums: jax.tree.map(jnp.add, sums, one(i)), one(0))

    count, mean = total(lambda x, onehot: (onehot.sum(1), onehot.sum(0) @ x))
    n = count.sum()
    mean = mean / n
    variance = total(lambda x, onehot: onehot.sum(0) @ jnp.square(x - mean)) / jnp.maximum(n - 1, 1)
    scale = 1 / (jnp.sqrt(variance) + 1e-5)
    absent = jnp.where(count > 0, 0.0, -1e9)

    def standardised(function: Callable[[jax.Array, jax.Array], Any]) -> Any:
        return total(lambda x, onehot: function((x - mean) * scale, onehot))

    weight, bias = jnp.zeros((num_classes, x.shape[-1])), jnp.zeros(num_classes)
    if config.kind != "linear":
        sums = standardised(lambda z, onehot: onehot @ z)
        if config.kind == "discriminant":
            squares = standardised(lambda z, onehot: EXACT("nd,ne->de", z * onehot.sum(0)[:, None], z))
            weight, bias = discriminant(count, sums, squares, config.class_weight == "balanced")
        else:  # of the order of a fitted head's logits, not of D
            weight, bias = (part / x.shape[-1] for part in prototypes(count, sums))
    if config.kind in ("linear", "prototype_linear"):
        share = jnp.where(count > 0, 1 / jnp.maximum(count, 1) / (count > 0).sum(), 0)  # what a word of each class weighs
        if config.class_weight == "none":
            share = jnp.ones(num_classes) / n

        def gradient(head: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            def of_block(z: jax.Array, onehot: jax.Array) -> tuple[jax.Array, jax.Array]:
                logits = jnp.einsum("cd,nd->cn", head[0], z) + (head[1] + absent)[:, None]
                error = (jax.nn.softmax(logits, axis=0) * onehot.sum(0) - onehot) * (share @ onehot)
                return jnp.einsum("cn,nd->cd", error, z), error.sum(1)

            return standardised(of_block)

        weight, bias = _adamw((weight, bias), gradient, config)
    weight = weight * scale
    return weight, bias + absent - weight @ mean


def _adamw(head: Any, gradient: Callable[[Any], Any], config: HeadConfig) -> Any:
    optimizer = optax.adamw(config.learning_rate, weight_decay=config.weight_decay)

    def step(_: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        updates, moments = optimizer.update(gradient(state[0]), state[1], state[0])
        return jax.tree.map(jnp.add, state[0], updates), moments

    return jax.lax.fori_loop(0, config.num_steps, step, (head, optimizer.init(head)))[0]


@partial(jax.jit, static_argnames=("num_classes", "config"))
def fit(x: jax.Array, y: jax.Array, blocks: jax.Array, num_classes: int, config: HeadConfig) -> tuple[jax.Array, jax.Array]:
    """Fits G heads: x [G, B, N, D], y [G, B, N] (-1 is padding) -> weight [G, C, D] and bias [G, C] for raw features.

    Standardises on the support set, then full-batch AdamW from zero (the weight) with cross-entropy averaged over the real words.
    Only the first `blocks` of the B blocks of N words are looked at: one program serves sets of all sizes, and a block stays in
    the cache from the logits to the gradient.
    """
    return jax.vmap(lambda x, y: _fit(x, y, blocks, num_classes, config))(x, y)


@jax.jit
def _predict(weight: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
    G, C, D = weight.shape
    logits = x.astype(jnp.float32) @ weight.reshape(G * C, D).T  # one product for all heads
    classes = (logits.reshape(-1, G, C) + bias).argmax(-1)  # [W, G]
    return classes.astype(jnp.uint8 if C <= 256 else jnp.int32)


def predict(heads: Heads, features: np.ndarray, chunk: int = 2048) -> np.ndarray:
    """[G, W] classes of every word by every head."""
    parts = []
    for start in range(0, len(features), chunk):
        part = features[start : start + chunk]
        size = len(part)
        if size < chunk:  # one shape, one program
            part = np.concatenate([part, np.zeros((chunk - size, part.shape[1]), part.dtype)])
        parts.append(_predict(heads.weight, heads.bias, part)[:size])
    return np.concatenate([np.asarray(part) for part in parts]).T


def fit_all(supports: Sequence[Support], num_classes: int, config: HeadConfig) -> Heads:
    """One head a support set, in their order; sets of like size are fitted together.

    Compilations are few: classes are padded to a multiple of 4 (they never win), the room for words to a power of two, and so many
    sets as the device allows are always fitted at once, empty ones among them: a set's head does not depend, not by a bit, on the
    others.
    """
    words, together, threads = AT_ONCE.get(jax.default_backend(), AT_ONCE_ELSEWHERE)
    width, classes = supports[0].features.shape[1], -(-num_classes // 4) * 4
    room = 1 << (-(-max(len(support.labels) for support in supports) // words) - 1).bit_length()  # blocks
    weight = np.empty((len(supports), num_classes, width), np.float32)
    bias = np.empty((len(supports), num_classes), np.float32)

    def fit_group(group: list[int]) -> None:
        x, y = _padded([supports[i] for i in group], together, room * words)
        blocks = -(-len(supports[group[0]].labels) // words)
        w, b = fit(x.reshape(together, room, words, width), y.reshape(together, room, words), blocks, classes, config)
        weight[group], bias[group] = np.asarray(w)[: len(group), :num_classes], np.asarray(b)[: len(group), :num_classes]

    order = sorted(range(len(supports)), key=lambda i: -len(supports[i].labels))
    groups = [order[start : start + together] for start in range(0, len(order), together)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fit_group, groups))
    return Heads(weight, bias)


def _padded(supports: Sequence[Support], together: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """x [together, length, D], y [together, length]; empty places hold one word, and nobody uses their result."""
    x = np.zeros((together, length, supports[0].features.shape[1]), supports[0].features.dtype)
    y = np.full((together, length), -1, np.int32)
    y[len(supports) :, 0] = 0
    for row, support in enumerate(supports):
        n = len(support.labels)
        x[row, :n], y[row, :n] = support.features, support.labels
    return x, y
