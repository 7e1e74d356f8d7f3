"""The contrastive loss of NuNER (paper, section 3.2) as pure functions, with what may be changed about it (config.LossConfig).

Shapes: B rows, T tokens, D width, M mentions, C concepts. Everything is summed in float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nuner_jax.config import LossConfig
from nuner_jax.model.ops import unit

Sums = dict[str, jax.Array]
PLAIN = LossConfig()  # every pair counts the same


class Concepts(NamedTuple):
    """What tokens are scored against. A concept that stands in several slots counts once."""

    vectors: jax.Array
    """[C, D]"""
    ids: jax.Array
    """[C] int32; -1: empty slot."""
    weights: jax.Array
    """[C] float32: what a positive pair of this concept counts."""


class Texts(NamedTuple):
    """The tokens that are scored, and what they are."""

    vectors: jax.Array
    """[B, T, D]"""
    mask: jax.Array
    """[B, T] bool: the token counts."""
    mentions: jax.Array
    """[B, M, 3] int32: first token, last token, concept id (-1: no mention)."""


def covered(mentions: jax.Array, num_tokens: int) -> jax.Array:
    """[B, M, T] float32, 1 where the token is inside the mention."""
    first, last, concept = (mentions[..., i, None] for i in range(3))
    position = jnp.arange(num_tokens)
    return ((first <= position) & (position <= last) & (concept >= 0)).astype(jnp.float32)


def positives(mentions: jax.Array, concept_ids: jax.Array, num_tokens: int) -> jax.Array:
    """[B, T, C] bool: is the token inside a mention of the concept? mentions [B, M, 3], concept_ids [C] (-1: empty slot)."""
    return _at_tokens(covered(mentions, num_tokens), _same(mentions, concept_ids))


def _same(mentions: jax.Array, concept_ids: jax.Array) -> jax.Array:
    """[B, M, C] bool: the mention is of the concept."""
    concept = mentions[..., 2, None]
    return (concept == concept_ids) & (concept >= 0)


def _at_tokens(inside: jax.Array, of_mentions: jax.Array) -> jax.Array:
    """[B, M, T] and [B, M, C] -> [B, T, C]: is it so for any mention around the token?"""
    return jnp.einsum("bmt,bmc->btc", inside, of_mentions.astype(jnp.float32)) > 0.5


def first_occurrences(ids: jax.Array) -> jax.Array:
    """[C] bool: the slot is not empty (-1) and no earlier slot holds the same id."""
    order = jnp.argsort(ids, stable=True)
    ordered = ids[order]
    new = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    return jnp.zeros_like(new).at[order].set(new) & (ids >= 0)


def contrastive_sums(
    texts: Texts, concepts: Concepts, scale: jax.Array, bias: jax.Array, config: LossConfig = PLAIN, chunk: int = 0
) -> Sums:
    """Sigmoid cross-entropy over (token, concept) pairs, summed: {"loss", "tokens", "positives", "pairs"}, all scalars.

    logit = scale * <text, concept> + bias. Dot product: scale 1, bias 0 (the paper); cosine: unit vectors, scale and bias learned.
    Logits are made and, backwards, remade for `chunk` concepts at a time (0: all at once), so that memory does not grow with
    tokens x concepts.
    """
    C, keep = concepts.ids.shape[0], first_occurrences(concepts.ids)
    one_chunk = _chunk_sums(texts, scale, bias, config, _vectors_of_mentions(texts.mentions, concepts, keep, config))
    if not chunk or C <= chunk:
        sums = one_chunk(concepts, keep)
    else:
        one_chunk = jax.checkpoint(one_chunk)
        padding = -C % chunk
        padded = [jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)) for x in (*concepts, keep)]
        *parts, keep = (x.reshape(-1, chunk, *x.shape[1:]) for x in padded)
        zero = {name: jnp.float32(0) for name in ("loss", "positives", "pairs")}
        zero = jax.tree.map(lambda z: z + 0 * texts.mask.sum(), zero)  # varies over the mesh as the sums do
        sums, _ = jax.lax.scan(
            lambda total, c: (jax.tree.map(jnp.add, total, one_chunk(*c)), None), zero, (Concepts(*parts), keep)
        )
    return sums | {"tokens": texts.mask.sum().astype(jnp.float32)}


def _vectors_of_mentions(mentions: jax.Array, concepts: Concepts, keep: jax.Array, config: LossConfig) -> jax.Array | None:
    """[B, M, D] unit vectors of the concepts of the mentions, without gradient; None where nobody asks."""
    if not config.duplicate_cosine:
        return None
    member = (_same(mentions, concepts.ids) & keep).astype(jnp.float32)
    return jnp.einsum("bmc,cd->bmd", member, unit(jax.lax.stop_gradient(concepts.vectors).astype(jnp.float32)))


def _chunk_sums(
    texts: Texts, scale: jax.Array, bias: jax.Array, config: LossConfig, of_mentions: jax.Array | None
) -> Callable[[Concepts, jax.Array], Sums]:
    def sums(concepts: Concepts, keep: jax.Array) -> Sums:
        logits = jnp.einsum("btd,cd->btc", texts.vectors, concepts.vectors, preferred_element_type=jnp.float32) * scale + bias
        inside = covered(texts.mentions, texts.vectors.shape[1])
        target = _at_tokens(inside, _same(texts.mentions, concepts.ids))
        weight = (texts.mask[:, :, None] & keep).astype(jnp.float32)
        pairs = {"positives": (weight * target).sum(), "pairs": weight.sum()}

        if config.unlabelled_weight != 1:
            weight *= jnp.where(inside.any(1), 1.0, config.unlabelled_weight)[:, :, None]
        if of_mentions is not None:
            vectors = unit(jax.lax.stop_gradient(concepts.vectors).astype(jnp.float32))
            near = _at_tokens(inside, jnp.einsum("bmd,cd->bmc", of_mentions, vectors) > config.duplicate_cosine)
            weight *= target | ~near
        if config.frequency_exponent:
            weight *= jnp.where(target, concepts.weights, 1.0)
        if config.focal_exponent:
            wrong = jax.nn.sigmoid(jnp.where(target, -logits, logits))
            weight *= jax.lax.stop_gradient(wrong) ** config.focal_exponent
        losses = jax.nn.softplus(logits) - jnp.where(target, logits, 0.0)
        return pairs | {"loss": (losses * weight).sum()}

    return sums
