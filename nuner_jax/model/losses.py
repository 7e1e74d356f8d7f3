"""The contrastive loss of NuNER (paper, section 3.2) as pure functions.

Shapes: B rows, T tokens, D width, M mentions, C concepts. Everything is summed in float32.
"""

from functools import partial

import jax
import jax.numpy as jnp

Sums = dict[str, jax.Array]


def positives(mentions: jax.Array, concept_ids: jax.Array, num_tokens: int) -> jax.Array:
    """[B, T, C] bool: is the token inside a mention of the concept?

    mentions [B, M, 3]: first token, last token, concept id (-1: no mention); concept_ids [C] (-1: empty slot).
    """
    first, last, concept = mentions[..., 0, None], mentions[..., 1, None], mentions[..., 2, None]
    position = jnp.arange(num_tokens)
    inside = (first <= position) & (position <= last) & (concept >= 0)  # [B, M, T]
    same = (concept == concept_ids) & (concept >= 0)  # [B, M, C]
    return jnp.einsum("bmt,bmc->btc", inside.astype(jnp.float32), same.astype(jnp.float32)) > 0.5


def first_occurrences(ids: jax.Array) -> jax.Array:
    """[C] bool: the slot is not empty (-1) and no earlier slot holds the same id."""
    order = jnp.argsort(ids, stable=True)
    ordered = ids[order]
    new = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    return jnp.zeros_like(new).at[order].set(new) & (ids >= 0)


def contrastive_sums(
    text: jax.Array,
    text_mask: jax.Array,
    mentions: jax.Array,
    concepts: jax.Array,
    concept_ids: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    chunk: int = 0,
) -> Sums:
    """Sigmoid cross-entropy over (token, concept) pairs, summed: {"loss", "tokens", "positives", "pairs"}, all scalars.

    logit = scale * <text, concept> + bias; text [B, T, D], text_mask [B, T] (True: counts), concepts [C, D]. A concept that stands in
    several slots counts once. Dot product: scale 1, bias 0 (the paper); cosine: unit vectors, scale and bias learned. Logits are
    made and, backwards, remade for `chunk` concepts at a time (0: all at once), so that memory does not grow with tokens x concepts.
    """
    one_chunk = jax.checkpoint(partial(_chunk_sums, text, text_mask, mentions, scale, bias)) if chunk else None
    C, keep = concepts.shape[0], first_occurrences(concept_ids)
    if one_chunk is None or C <= chunk:
        sums = _chunk_sums(text, text_mask, mentions, scale, bias, (concepts, concept_ids, keep))
    else:
        padding = -C % chunk
        padded = [jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)) for x in (concepts, concept_ids, keep)]
        chunks = tuple(x.reshape(-1, chunk, *x.shape[1:]) for x in padded)
        zero = {name: jnp.float32(0) for name in ("loss", "positives", "pairs")}
        zero = jax.tree.map(lambda z: z + 0 * text_mask.sum(), zero)  # varies over the mesh as the sums do
        sums, _ = jax.lax.scan(lambda total, c: (jax.tree.map(jnp.add, total, one_chunk(c)), None), zero, chunks)
    return sums | {"tokens": text_mask.sum().astype(jnp.float32)}


def _chunk_sums(
    text: jax.Array,
    text_mask: jax.Array,
    mentions: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    chunk: tuple[jax.Array, jax.Array, jax.Array],
) -> Sums:
    concepts, concept_ids, keep = chunk
    logits = jnp.einsum("btd,cd->btc", text, concepts, preferred_element_type=jnp.float32) * scale + bias
    target = positives(mentions, concept_ids, text.shape[1])
    weight = (text_mask[:, :, None] & keep).astype(jnp.float32)
    losses = jax.nn.softplus(logits) - jnp.where(target, logits, 0.0)
    return {"loss": (losses * weight).sum(), "positives": (weight * target).sum(), "pairs": weight.sum()}
