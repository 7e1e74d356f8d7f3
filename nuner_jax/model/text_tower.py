"""The text encoder as both objectives train it: what is static about it, its vectors, and what is common to their steps."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from nuner_jax.config import ModelConfig
from nuner_jax.errors import InputError
from nuner_jax.model import encoder
from nuner_jax.model.encoder import EncoderConfig, Params

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
SHARDED = ("data", "fsdp")  # mesh axes that split the batch

SCOPES = (
    "text_encoder",
    "concept_encoder",
    "contrastive_loss",
    "classification_loss",
    "optimizer",
    "metrics",
)  # names in profiles and compiled programs


@dataclass(frozen=True)
class TextTower:
    """What is static about a text encoder in training; its parameters are params["text"]."""

    graph: nnx.GraphDef
    config: ModelConfig
    freeze_text: int  # -1: nothing, 0: embeddings, N: and the bottom N layers
    mesh: Mesh
    mask_token_id: int

    @classmethod
    def of(cls, encoder_config: EncoderConfig, config: ModelConfig, mesh: Mesh, mask_token_id: int | None = None) -> "TextTower":
        """Raises InputError if more layers are to be frozen than there are, or mentions masked without a mask token."""
        if config.mention_mask and mask_token_id is None:
            raise InputError(f"model.mention_mask {config.mention_mask}: the tokenizer has no mask token")
        graph, _ = encoder.structure(encoder_config, dtype=config.dtype, attention=config.attention, remat=config.remat)
        return cls(graph, config, frozen_layers(encoder_config, config, "freeze_layers"), mesh, mask_token_id or 0)

    @property
    def num_shards(self) -> int:
        """S, the parts of a batch."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @jax.named_scope("text_encoder")
    def embed_text(self, params: Params, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, ...]:
        """[B, T, D] vectors of tokens after each layer, embeddings first."""
        tower = encoder.merge(self.graph, params["text"])
        tokens = batch["tokens"]
        if key is not None and self.config.mention_mask:
            key, mask_key = jax.random.split(key)
            tokens = mask_mentions(tokens, batch["mentions"], self.config.mention_mask, self.mask_token_id, mask_key)
        inputs = (tokens, batch["segment_ids"], batch["positions"])
        options = {"freeze_layers": self.freeze_text, "dropout_rate": self.config.dropout}
        return tower(*inputs, dropout_key=key, constrain=self.by_rows, lookup=self.lookup, **options)

    def by_rows(self, x: jax.Array) -> jax.Array:
        """Rows [B, ...] split over the devices, whole otherwise. Left alone, XLA may split what is summed over, where weights are
        split, and then adds up activations over all devices."""
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, P(SHARDED)))

    def lookup(self, table: jax.Array, ids: jax.Array) -> jax.Array:
        """[V, D] embeddings, [B, T] ids -> [B, T, D]. A device has all rows of some columns: it looks them up for the rows of its
        whole fsdp group, and then rows are exchanged for columns. Left alone, XLA gathers the table on each device of a large mesh."""
        if table.shape[1] % self.mesh.shape["fsdp"]:
            return table[ids]  # the table is whole everywhere (parallel.param_shardings)
        ids = jax.lax.with_sharding_constraint(ids, NamedSharding(self.mesh, P("data")))
        return self.by_rows(jax.lax.with_sharding_constraint(table[ids], NamedSharding(self.mesh, P("data", None, "fsdp"))))


def frozen_layers(encoder_config: EncoderConfig, config: ModelConfig, name: str) -> int:
    """The option `name` of the model as a number of layers. Raises InputError if the encoder has fewer."""
    layers, wanted = encoder_config.num_hidden_layers, getattr(config, name)
    number = layers // 2 if wanted == "half" else wanted
    if not -1 <= number <= layers:
        raise InputError(f"model.{name} {number} is not between -1 and the encoder's {layers} layers")
    return number


def is_trained_layer(path: tuple[str, ...], frozen: int) -> bool:
    """Whether an encoder's parameter at this path, such as ("layers", "0", ...), lies above the frozen ones."""
    return frozen < 0 if path[0] == "embeddings" else int(path[1]) >= frozen


@jax.named_scope("metrics")
def usage(batch: Batch) -> Metrics:
    """What the global batch uses of its rows: shares of padding, the concepts that found no place, and the sums that its FLOPs follow
    from (flops.py).

    And `digest`, 32 bits that depend on every token and its place: equal digests, equal examples in equal order.
    """
    tokens = batch["tokens"].astype(jnp.uint32)
    places = jnp.arange(tokens.size, dtype=jnp.uint32).reshape(tokens.shape)
    metrics = {"digest": ((tokens + 1) * (2 * places + 1) * jnp.uint32(0x9E3779B1)).sum(dtype=jnp.uint32)}
    metrics["concepts_left_out"] = batch["concepts_left_out"].sum()
    for prefix in ("", "concept_"):
        segments = batch[f"{prefix}segment_ids"]
        same = (segments[..., :, None] == segments[..., None, :]) & (segments > 0)[..., None]
        metrics[f"{prefix}positions"] = (segments > 0).sum().astype(jnp.float32)
        metrics[f"{prefix}attended"] = same.sum().astype(jnp.float32)
        metrics[f"{prefix}padding"] = 1 - metrics[f"{prefix}positions"] / segments.size
    return metrics


def mask_mentions(tokens: jax.Array, mentions: jax.Array, rate: float, mask_token_id: int, key: jax.Array) -> jax.Array:
    """[B, T] tokens with a share of the mentions [B, M, 3] replaced by the mask token: what they are must come from context."""
    first, last, concept = (mentions[..., i] for i in range(3))
    chosen = jax.random.bernoulli(key, rate, concept.shape) & (concept >= 0)
    position = jnp.arange(tokens.shape[1])
    inside = (first[..., None] <= position) & (position <= last[..., None]) & chosen[..., None]  # [B, M, T]
    return jnp.where(inside.any(1), mask_token_id, tokens)


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
