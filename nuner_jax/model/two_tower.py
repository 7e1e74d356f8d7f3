"""The text encoder and the concept encoder side by side, and the loss of a global batch.

The batch comes in S equal shards, one a device (of the mesh axes data and fsdp), each with the concepts of its own rows. Every token is
scored against the concepts of all shards, or of as many as the cap on negatives allows: those of the group that its shard is in.
Rows are shuffled, so a group is a random sample, and the cost a device does not grow with the number of devices.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from nuner_jax.config import LossConfig, ModelConfig
from nuner_jax.model import encoder
from nuner_jax.model.encoder import EncoderConfig, Params
from nuner_jax.model.losses import PLAIN, Concepts, Sums, Texts, contrastive_sums
from nuner_jax.model.ops import unit
from nuner_jax.model.text_tower import SHARDED, Batch, Metrics, TextTower, frozen_layers, is_trained_layer, usage


@dataclass(frozen=True)
class TwoTower(TextTower):
    """What is static about the model; parameters are {"text", "concept", "logit_scale", "logit_bias"}, the scale as its log."""

    freeze_concept: int
    pairs: LossConfig

    @classmethod
    def create(
        cls,
        encoder_config: EncoderConfig,
        config: ModelConfig,
        mesh: Mesh,
        mask_token_id: int | None = None,
        loss: LossConfig = PLAIN,
    ) -> "TwoTower":
        """Raises InputError as TextTower.of does."""
        text = TextTower.of(encoder_config, config, mesh, mask_token_id)
        return cls(**vars(text), freeze_concept=frozen_layers(encoder_config, config, "freeze_concept_layers"), pairs=loss)

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
        return is_trained_layer(path[1:], self.freeze_text if path[0] == "text" else self.freeze_concept)

    @jax.named_scope("concept_encoder")
    def embed_concepts(self, params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """[S, C, D] vectors of concepts, means over the tokens of each, of length 1 for the cosine; zeros for an empty slot.

        A shard comes in K groups of rows with their own slots. Several are encoded one after another and rematerialised, so that the
        memory of activations is one group's however many concepts there are.
        """
        names = ("concept_tokens", "concept_segment_ids", "concept_positions", "concept_slots")
        K = batch["concept_tokens"].shape[0] // self.num_shards
        C = batch["concept_ids"].shape[0] // (self.num_shards * K)  # slots a group
        tower_params = params["concept"]

        def encode(group: tuple[jax.Array, ...], key: jax.Array | None) -> jax.Array:
            """[S, R, T] tokens -> [S, C, D]."""
            S, R, T = group[0].shape
            tower = encoder.merge(self.graph, tower_params)
            tokens, segment_ids, positions = (self.by_rows(x.reshape(S * R, T)) for x in group[:3])
            states = tower(
                tokens,
                segment_ids,
                positions,
                freeze_layers=self.freeze_concept,
                dropout_rate=self.config.dropout,
                dropout_key=key,
                constrain=self.by_rows,
                lookup=self.lookup,
            )[-1]
            member = (group[3].reshape(S, 1, R * T) == jnp.arange(C)[:, None]).astype(states.dtype)  # [S, C, R * T]
            sums = jnp.einsum("sct,std->scd", member, states.reshape(S, R * T, -1))
            return sums / jnp.maximum(member.sum(-1, keepdims=True), 1)

        groups = tuple(batch[name].reshape(self.num_shards, K, *batch[name].shape[1:]) for name in names)
        if K == 1:
            vectors = encode(tuple(x[:, 0] for x in groups), key)
        else:
            by_group = tuple(jnp.moveaxis(x, 1, 0) for x in groups)
            keys = None if key is None else jax.random.split(key, K)
            run = jax.checkpoint(lambda inputs: encode(*inputs))
            vectors = jnp.moveaxis(jax.lax.map(run, (by_group, keys)), 0, 1)  # [S, K, C, D]
        vectors = vectors.reshape(self.num_shards, K * C, -1)
        return unit(vectors) if self.config.logit == "cosine" else vectors

    def loss(self, params: Params, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """The contrastive loss of a batch (dataset.loader.Batches); without key there is no dropout.

        Summed over concepts, averaged over text tokens of the global batch.
        """
        text_key, concept_key = (None, None) if key is None else jax.random.split(key)
        states = self.embed_text(params, batch, text_key)  # [B, T, D] each
        vectors = self.embed_concepts(params, batch, concept_key)  # [S, C, D]
        shards = (batch[name].reshape(self.num_shards, -1) for name in ("concept_ids", "concept_weights"))
        concepts = Concepts(vectors, *shards)
        scale, bias = jnp.exp(params["logit_scale"]), params["logit_bias"]
        score = jax.shard_map(
            self._local_sums, mesh=self.mesh, in_specs=(P(SHARDED), P(SHARDED), P(), P()), out_specs=P(SHARDED), check_vma=False
        )

        def sums_of(text: jax.Array) -> Sums:
            text = unit(text) if self.config.logit == "cosine" else text
            parts = score(Texts(text, batch["text_mask"], batch["mentions"]), concepts, scale, bias)
            return jax.tree.map(jnp.sum, parts)

        sums = sums_of(states[-1])
        last = sums["loss"] / jnp.maximum(sums["tokens"], 1.0)
        loss = last
        if self.pairs.middle_weight:
            loss += self.pairs.middle_weight * sums_of(states[len(states) // 2])["loss"] / jnp.maximum(sums["tokens"], 1.0)
        metrics = {
            "loss": last,
            "tokens": sums["tokens"],
            "concepts": sums["pairs"] / jnp.maximum(sums["tokens"], 1.0),
            "positive_rate": sums["positives"] / jnp.maximum(sums["pairs"], 1.0),
            "logit_scale": scale,
            "logit_bias": bias,
            "pairs": sums["pairs"],
            **usage(batch),
        }
        return loss, metrics

    def _local_sums(self, texts: Texts, concepts: Concepts, scale: jax.Array, bias: jax.Array) -> Sums:
        """One device's tokens against the concepts it sees; sums of shape [1], to be added up over the devices."""
        gather = self._visible(concepts.ids.shape[1])
        visible = Concepts(*(gather(x[0]) for x in concepts))
        sums = contrastive_sums(texts, visible, scale, bias, self.pairs, self.config.logit_chunk)
        return jax.tree.map(lambda x: x[None], sums)

    def _visible(self, slots: int) -> Callable[[jax.Array], jax.Array]:
        """A shard's [C, ...] -> those of the k shards of its group, [k * C, ...]; inside shard_map. One collective, whatever k is."""
        S = self.num_shards
        k = max(1, self.config.max_negatives // slots) if self.config.max_negatives else S
        k = max(size for size in range(1, min(k, S) + 1) if S % size == 0)  # groups of one size, side by side on the torus
        groups = [list(range(first, first + k)) for first in range(0, S, k)] if k < S else None
        return lambda x: jax.lax.all_gather(x, SHARDED, tiled=True, axis_index_groups=groups)
