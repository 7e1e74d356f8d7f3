"""The text encoder under an ordinary token classifier over the most frequent concepts, as NER-BERT is trained.

The baseline that contrastive training is compared with (paper, section 4): same data, same encoder, same step. Concepts are numbered
by frequency, so the N most frequent are the ids below N; a token of any other concept counts as no entity.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from nuner_jax.config import ModelConfig
from nuner_jax.model.encoder import EncoderConfig, Params
from nuner_jax.model.text_tower import Batch, Metrics, TextTower, is_trained_layer, usage


@dataclass(frozen=True)
class TokenClassifier(TextTower):
    """What is static about the model; parameters are {"text", "head": {"kernel" [D, N + 1], "bias" [N + 1]}}, class 0: no entity."""

    num_types: int
    width: int

    @classmethod
    def create(
        cls, encoder_config: EncoderConfig, config: ModelConfig, mesh: Mesh, mask_token_id: int | None, num_types: int
    ) -> "TokenClassifier":
        """Raises InputError as TextTower.of does."""
        text = TextTower.of(encoder_config, config, mesh, mask_token_id)
        return cls(**vars(text), num_types=num_types, width=encoder_config.hidden_size)

    def init(self, encoder_params: Params) -> Params:
        """The encoder under a head of zeros."""
        head = {"kernel": jnp.zeros((self.width, self.num_types + 1)), "bias": jnp.zeros(self.num_types + 1)}
        return {"text": encoder_params, "head": head}

    def is_trained(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at this path of names is trained."""
        return path[0] == "head" or is_trained_layer(path[1:], self.freeze_text)

    def loss(self, params: Params, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """Softmax cross-entropy, the mean over the text tokens of the global batch; without key there is no dropout."""
        states = self.embed_text(params, batch, key)[-1]  # [B, T, D]
        head, mask = params["head"], batch["text_mask"].astype(jnp.float32)
        with jax.named_scope("classification_loss"):
            kernel = head["kernel"].astype(states.dtype)
            logits = jnp.einsum("btd,dn->btn", states, kernel, preferred_element_type=jnp.float32) + head["bias"]
            target = classes(batch["mentions"], states.shape[1], self.num_types)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
            tokens = mask.sum()
            loss = (losses * mask).sum() / jnp.maximum(tokens, 1.0)
        metrics = {
            "loss": loss,
            "tokens": tokens,
            "accuracy": ((logits.argmax(-1) == target) * mask).sum() / jnp.maximum(tokens, 1.0),
            "positive_rate": ((target > 0) * mask).sum() / jnp.maximum(tokens, 1.0),
            "pairs": tokens * (self.num_types + 1),
            **usage(batch),
        }
        return loss, metrics


def classes(mentions: jax.Array, num_tokens: int, num_types: int) -> jax.Array:
    """[B, T] int32: 1 + the concept id of the mention that a token stands in, 0 outside or where the id is not below num_types.

    mentions [B, M, 3]: first token, last token, concept id (-1: no mention). Where mentions overlap, the most frequent concept holds.
    """
    first, last, concept = (mentions[..., i, None] for i in range(3))  # [B, M, 1]
    position = jnp.arange(num_tokens)
    inside = (first <= position) & (position <= last) & (concept >= 0) & (concept < num_types)  # [B, M, T]
    best = jnp.where(inside, concept, num_types).min(1)
    return jnp.where(best < num_types, best + 1, 0)
