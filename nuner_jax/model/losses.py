"""The contrastive loss of NuNER (paper, section 3.2) as pure functions.

Shapes: B rows, T tokens, D width, M mentions, C concepts. Everything is summed in float32.
"""

import jax
import jax.numpy as jnp

Metrics = dict[str, jax.Array]


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


def contrastive_loss(
    text: jax.Array,
    text_mask: jax.Array,
    mentions: jax.Array,
    concepts: jax.Array,
    concept_ids: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """Sigmoid cross-entropy over every (token, concept) of the batch, summed over concepts, averaged over tokens.

    logit = scale * <text, concept> + bias. text [B, T, D], text_mask [B, T] (True: counts), concepts [C, D]; a concept that stands in
    several slots counts once. Dot product: scale 1, bias 0 (the paper); cosine: unit vectors, scale and bias learned.
    """
    keep = first_occurrences(concept_ids)
    logits = jnp.einsum("btd,cd->btc", text, concepts, preferred_element_type=jnp.float32) * scale + bias
    target = positives(mentions, concept_ids, text.shape[1])
    weight = (text_mask[:, :, None] & keep).astype(jnp.float32)
    losses = jax.nn.softplus(logits) - jnp.where(target, logits, 0.0)
    num_tokens = jnp.maximum(text_mask.sum(), 1).astype(jnp.float32)
    num_positives = (weight * target).sum()
    metrics = {
        "tokens": num_tokens,
        "concepts": keep.sum(),
        "positive_rate": num_positives / jnp.maximum(weight.sum(), 1.0),
    }
    return (losses * weight).sum() / num_tokens, metrics
