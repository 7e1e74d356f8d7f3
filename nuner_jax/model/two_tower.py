"""The text encoder and the concept encoder side by side, and the loss of a batch."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nuner_jax.config import ModelConfig
from nuner_jax.errors import InputError
from nuner_jax.model import encoder
from nuner_jax.model.encoder import EncoderConfig, Params
from nuner_jax.model.losses import Metrics, contrastive_loss

Batch = dict[str, jax.Array]


@dataclass(frozen=True)
class TwoTower:
    """What is static about the model; parameters are {"text", "concept", "logit_scale", "logit_bias"}, the scale as its log."""

    graph: nnx.GraphDef
    config: ModelConfig
    freeze_text: int  # -1: nothing, 0: embeddings, N: and the bottom N layers
    freeze_concept: int
    num_shards: int  # parts of the batch that have concepts of their own, one after another

    @classmethod
    def create(cls, encoder_config: EncoderConfig, config: ModelConfig, num_shards: int = 1) -> "TwoTower":
        """Raises InputError if more layers are to be frozen than there are."""
        graph, _ = encoder.structure(encoder_config, dtype=config.dtype, attention=config.attention, remat=config.remat)
        layers = encoder_config.num_hidden_layers
        frozen = [layers // 2 if n == "half" else n for n in (config.freeze_layers, config.freeze_concept_layers)]
        for name, number in zip(("freeze_layers", "freeze_concept_layers"), frozen, strict=True):
            if not -1 <= number <= layers:
                raise InputError(f"model.{name} {number} is not between -1 and the encoder's {layers} layers")
        return cls(graph, config, frozen[0], frozen[1], num_shards)

    def init(self, encoder_params: Params) -> Params:
        """Both towers from one encoder."""
        copy = jax.tree.map(jnp.copy, encoder_params)
        scale, bias = (self.config.logit_scale, self.config.logit_bias) if self.config.logit == "cosine" else (1.0, 0.0)
        return {
            "text": encoder_params,
            "concept": copy,
            "logit_scale": jnp.log(jnp.float32(scale)),
            "logit_bias": jnp.float32(bias),
        }

    def is_trained(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at this path of names is trained."""
        if path[0] in ("logit_scale", "logit_bias"):
            return self.config.logit == "cosine"
        frozen = self.freeze_text if path[0] == "text" else self.freeze_concept
        if path[1] == "embeddings":
            return frozen < 0
        return int(path[2]) >= frozen  # ("text", "layers", "0", ...)

    def embed_text(self, params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """[B, T, D] vectors of tokens."""
        tower = encoder.merge(self.graph, params["text"])
        inputs = (batch["tokens"], batch["segment_ids"], batch["positions"])
        return tower(*inputs, freeze_layers=self.freeze_text, dropout_rate=self.config.dropout, dropout_key=key)[-1]

    def embed_concepts(self, params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """[C, D] vectors of concepts: means over the tokens of each; zeros for an empty slot."""
        tower = encoder.merge(self.graph, params["concept"])
        inputs = (batch["concept_tokens"], batch["concept_segment_ids"], batch["concept_positions"])
        states = tower(*inputs, freeze_layers=self.freeze_concept, dropout_rate=self.config.dropout, dropout_key=key)[-1]
        S, D = self.num_shards, states.shape[-1]
        slots = batch["concept_slots"].reshape(S, -1)  # slots are counted in each shard of the batch
        C = batch["concept_ids"].shape[0] // S
        member = (slots[:, None, :] == jnp.arange(C)[:, None]).astype(states.dtype)  # [S, C, R * T]
        sums = jnp.einsum("sct,std->scd", member, states.reshape(S, -1, D))
        return (sums / jnp.maximum(member.sum(-1, keepdims=True), 1)).reshape(S * C, D)

    def loss(self, params: Params, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """The contrastive loss of a batch (dataset.loader.Batches); without key there is no dropout."""
        text_key, concept_key = (None, None) if key is None else jax.random.split(key)
        text = self.embed_text(params, batch, text_key)
        concepts = self.embed_concepts(params, batch, concept_key)
        if self.config.logit == "cosine":
            text, concepts = unit(text), unit(concepts)
        scale = jnp.exp(params["logit_scale"])
        bias = params["logit_bias"]
        loss, metrics = contrastive_loss(text, batch["text_mask"], batch["mentions"], concepts, batch["concept_ids"], scale, bias)
        return loss, {"loss": loss, "logit_scale": scale, "logit_bias": bias, **metrics}


def unit(x: jax.Array) -> jax.Array:
    """Vectors of length 1 over the last axis, in float32; zero stays zero."""
    y = x.astype(jnp.float32)
    return (y * jax.lax.rsqrt(jnp.square(y).sum(-1, keepdims=True) + 1e-12)).astype(x.dtype)


def partition(params: Params, is_trained: Any, path: tuple[str, ...] = ()) -> tuple[Params, Params]:
    """A nested dict as (trained, frozen), each with the branches that it has leaves in."""
    trained: Params = {}
    frozen: Params = {}
    for name, value in params.items():
        if isinstance(value, dict):
            for side, part in zip((trained, frozen), partition(value, is_trained, (*path, name)), strict=True):
                if part:
                    side[name] = part
        else:
            (trained if is_trained((*path, name)) else frozen)[name] = value
    return trained, frozen


def combine(trained: Params, frozen: Params) -> Params:
    """The inverse of partition."""
    result = dict(frozen)
    for name, value in trained.items():
        result[name] = combine(value, frozen.get(name, {})) if isinstance(value, dict) else value
    return result
