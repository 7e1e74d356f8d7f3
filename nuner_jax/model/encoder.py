"""One encoder for RoBERTa, XLM-R, CamemBERT and BERT checkpoints: embeddings and post-layer-norm transformer layers.

Shapes: B rows, T tokens, D width, N heads, H head width, F MLP width, L layers. Several sentences may share a row: attention
stays inside a segment, and positions restart with it. Attention probabilities get no dropout (it would forbid fused attention).
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from nuner_jax.errors import InputError
from nuner_jax.model.ops import attention, dropout, gelu, positions_of

Lookup = Callable[[jax.Array, jax.Array], jax.Array]
"""Embeddings [V, D] and ids [B, T] -> [B, T, D]."""
Params = dict[str, Any]
"""A plain nested dict of arrays; keys are strings at every level."""

Dtype = Literal["float32", "bfloat16"]
Attention = Literal["xla", "cudnn"]
Remat = Literal["none", "layer", "dots"]

MODEL_TYPES = {"bert": "BertModel", "roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel", "camembert": "CamembertModel"}


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}
REQUIRED = {"float": ["layer_norm_eps"], "int": ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"]}
REQUIRED["int"] += ["intermediate_size", "max_position_embeddings", "type_vocab_size"]


@dataclass(frozen=True)
class EncoderConfig:
    """What a checkpoint's config.json says about the encoder, under the names used there."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    pad_token_id: int = 0
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    @property
    def position_offset(self) -> int:
        """Row of the position table that a sentence's first token reads: RoBERTa keeps the rows up to its padding id unused."""
        return 0 if self.model_type == "bert" else self.pad_token_id + 1

    @property
    def max_length(self) -> int:
        """Tokens of the longest sentence that the position table reaches, special tokens included."""
        return self.max_position_embeddings - self.position_offset

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], where: str = "config.json") -> "EncoderConfig":
        """The encoder that a config.json describes. Raises InputError that names every missing or unsupported setting."""
        wrong = _unsupported(config)
        for kind, keys in REQUIRED.items():
            for key in keys:
                value = config.get(key)
                if isinstance(value, bool) or not isinstance(value, int if kind == "int" else (int, float)):
                    wrong.append(f"{key} is {value!r}, expected a number")
        if not wrong and config["hidden_size"] % config["num_attention_heads"]:
            wrong.append(f"hidden_size {config['hidden_size']} is not divisible by {config['num_attention_heads']} heads")
        if wrong:
            raise InputError(f"{where}: {'; '.join(wrong)}")
        known = {key: config[key] for key in cls.__dataclass_fields__ if config.get(key) is not None}
        if config["model_type"] != "bert":
            known.setdefault("pad_token_id", 1)
        return cls(**known)

    def to_hf(self) -> dict[str, Any]:
        """The config.json that Transformers reads back as the same encoder."""
        fields = {key: getattr(self, key) for key in self.__dataclass_fields__}
        ids = ("bos_token_id", "eos_token_id")
        fields = {key: value for key, value in fields.items() if value is not None or key not in ids}
        return {
            "architectures": [MODEL_TYPES[self.model_type]],
            **fields,
            "position_embedding_type": "absolute",
            "dtype": "float32",
        }


def _unsupported(config: Mapping[str, Any]) -> list[str]:
    wrong = []
    if config.get("model_type") not in MODEL_TYPES:
        wrong.append(f"model_type {config.get('model_type')!r} is not supported (supported: {', '.join(MODEL_TYPES)})")
    if config.get("hidden_act", "gelu") not in ACTIVATIONS:
        wrong.append(f"hidden_act {config['hidden_act']!r} is not supported (supported: {', '.join(ACTIVATIONS)})")
    if config.get("position_embedding_type", "absolute") != "absolute":
        wrong.append(f"position_embedding_type {config['position_embedding_type']!r} is not supported (only absolute)")
    for key in ("is_decoder", "add_cross_attention", "pruned_heads"):
        if config.get(key):
            wrong.append(f"{key} {config[key]!r} is not supported")
    return wrong


class LayerNorm(nnx.Module):
    """Layer norm over the last axis, computed in float32 whatever the input's type."""

    def __init__(self, config: EncoderConfig):
        self.scale = nnx.Param(jnp.ones(config.hidden_size))
        self.bias = nnx.Param(jnp.zeros(config.hidden_size))
        self.epsilon = config.layer_norm_eps

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D] of the same type."""
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class Dense(nnx.Module):
    """x @ kernel + bias over the last axis; the output axes may be several."""

    def __init__(self, config: EncoderConfig, inputs: int, outputs: tuple[int, ...], rngs: nnx.Rngs):
        std = config.initializer_range
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (inputs, *outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.kernel_first = False  # the order of the operands of the product: see few_rows

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., inputs] -> [..., *outputs], computed in x's type."""
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        if self.kernel_first:
            product = jnp.tensordot(kernel.reshape(len(kernel), -1), x.reshape(-1, len(kernel)), ((0,), (1,)))  # [outputs, rows]
            product = jax.lax.optimization_barrier(product)  # or XLA would put the kernel second again
            return product.T.reshape(*x.shape[:-1], *bias.shape) + bias
        return jnp.tensordot(x, kernel, 1) + bias


class Embeddings(nnx.Module):
    """Word + position + token type 0, then layer norm: [B, T] ids -> [B, T, D]."""

    def __init__(self, config: EncoderConfig, dtype: Dtype, rngs: nnx.Rngs):
        def table(rows: int) -> nnx.Param:
            return nnx.Param(config.initializer_range * jax.random.normal(rngs.params(), (rows, config.hidden_size)))

        self.word = table(config.vocab_size)
        self.position = table(config.max_position_embeddings)
        self.token_type = table(config.type_vocab_size)
        self.norm = LayerNorm(config)
        self.offset = config.position_offset
        self.dtype = dtype

    def __call__(self, tokens: jax.Array, positions: jax.Array, lookup: Lookup = operator.getitem) -> jax.Array:
        """Positions count from 0; the checkpoint's offset is added here."""
        word, position = jnp.asarray(self.word[...]), jnp.asarray(self.position[...])  # they may be numpy's
        x = lookup(word, tokens) + self.token_type[0] + lookup(position, positions + self.offset)
        return self.norm(x).astype(self.dtype)


class Layer(nnx.Module):
    """Self-attention and MLP, each followed by residual and layer norm: [B, T, D] -> [B, T, D]."""

    def __init__(self, config: EncoderConfig, attention: Attention, rngs: nnx.Rngs):
        D, F = config.hidden_size, config.intermediate_size
        self.qkv = Dense(config, D, (3, D), rngs)  # one product; the axis of 3 apart, so that D can be sharded by heads
        self.attention_output = Dense(config, D, (D,), rngs)
        self.attention_norm = LayerNorm(config)
        self.mlp_input = Dense(config, D, (F,), rngs)
        self.mlp_output = Dense(config, F, (D,), rngs)
        self.mlp_norm = LayerNorm(config)
        self.heads = config.num_attention_heads
        self.activation = config.hidden_act
        self.implementation = attention

    def __call__(self, x: jax.Array, mask: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
        """Attention where mask [B, 1, T, T] is True, then the MLP."""
        keys = (None, None) if key is None else jax.random.split(key)
        y = dropout(self.attention_output(self.attend(x, mask)), rate, keys[0])
        x = self.attention_norm(x + y)
        y = self.mlp_output(ACTIVATIONS[self.activation](self.mlp_input(x)))
        return self.mlp_norm(x + dropout(y, rate, keys[1]))

    def attend(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Attention where mask [B, 1, T, T] is True, before the output projection."""
        B, T, D = x.shape
        qkv = self.qkv(x)
        q, k, v = (qkv[:, :, n].reshape(B, T, self.heads, D // self.heads) for n in range(3))  # [B, T, N, H] each
        if self.implementation == "cudnn":
            y = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")
        else:
            y = attention(q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2), mask).swapaxes(1, 2)
        return y.reshape(B, T, D)


class Encoder(nnx.Module):
    """Text to one vector a token, at every depth."""

    def __init__(
        self,
        config: EncoderConfig,
        *,
        dtype: Dtype = "float32",
        attention: Attention = "xla",
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.embeddings = Embeddings(config, dtype, rngs)
        self.layers = nnx.List(Layer(config, attention, rngs) for _ in range(config.num_hidden_layers))
        self.remat: Remat = remat

    def __call__(
        self,
        tokens: jax.Array,
        segment_ids: jax.Array,
        positions: jax.Array | None = None,
        *,
        freeze_layers: int = -1,
        dropout_rate: float = 0.0,
        dropout_key: jax.Array | None = None,
        constrain: Callable[[jax.Array], jax.Array] = lambda x: x,
        lookup: Lookup = operator.getitem,
    ) -> tuple[jax.Array, ...]:
        """The L + 1 hidden states [B, T, D], embeddings first; at padding they are finite and mean nothing.

        `segment_ids` [B, T]: 0 is padding, a token sees the tokens of its own segment; a plain 0/1 attention mask is one segment.
        `positions` [B, T] count from 0 in each segment; without them they are derived. With `freeze_layers` N >= 0 the embeddings
        and the bottom N layers run without gradient and dropout. `constrain` fixes how the state after each layer lies on the
        mesh, `lookup` finds the rows of an embedding table.
        Raises InputError for rows without `positions` that are longer than the position table.
        """
        if positions is None:
            if tokens.shape[1] > self.config.max_length:
                raise InputError(
                    f"{tokens.shape[1]} tokens in a row, but the encoder's positions end at {self.config.max_length}"
                )
            positions = positions_of(segment_ids)
        keys = layer_keys(dropout_key, len(self.layers) + 1, freeze_layers)
        mask = (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]  # [B, 1, T, T]; padding sees only padding
        run = _rematerialised(self.remat)
        x = constrain(dropout(self.embeddings(tokens, positions, lookup), dropout_rate, keys[0]))
        states = [jax.lax.stop_gradient(x) if freeze_layers >= 0 else x]
        for depth, layer in enumerate(self.layers, start=1):
            x = constrain(run(layer, states[-1], mask, dropout_rate, keys[depth]))
            states.append(jax.lax.stop_gradient(x) if depth <= freeze_layers else x)
        return tuple(states)


def layer_keys(key: jax.Array | None, count: int, freeze_layers: int) -> list[jax.Array | None]:
    """One dropout key a depth (0: embeddings), none for the frozen ones."""
    if key is None:
        return [None] * count
    return [None if depth <= freeze_layers else jax.random.fold_in(key, depth) for depth in range(count)]


def _rematerialised(remat: Remat):
    def run(layer: Layer, x: jax.Array, mask: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
        return layer(x, mask, rate, key)

    if remat == "none":
        return run
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return jax.checkpoint(run, policy=policy, static_argnums=3)


def split(encoder: Encoder) -> tuple[nnx.GraphDef, Params]:
    """The encoder as static structure and plain parameters."""
    graph, state = nnx.split(encoder)
    return graph, _rekey(nnx.to_pure_dict(state), str)


def merge(graph: nnx.GraphDef, params: Params) -> Encoder:
    """The inverse of split, for any arrays (or tracers) in the place of the parameters."""
    return nnx.merge(graph, nnx.State(_rekey(params, lambda key: int(key) if key.isdigit() else key)))


def few_rows(model: Encoder) -> Encoder:
    """The same function for inputs of few tokens on a CPU, where a product copies its right operand: that is x now, not the kernel.

    Only worth it where kernels lie transposed in memory, which `transposed` does.
    """
    for _, module in nnx.iter_graph(model):
        if isinstance(module, Dense):
            module.kernel_first = True
    return model


def transposed(params: Params) -> Params:
    """Every kernel as a matrix [outputs, inputs]."""
    return _map_kernels(params, lambda kernel, _: kernel.reshape(len(kernel), -1).T)


def untransposed(params: Params) -> Params:
    """The inverse; XLA does not move anything for it."""
    return _map_kernels(params, lambda kernel, bias: kernel.T.reshape(-1, *bias.shape))


def _map_kernels(tree: Any, change: Callable[[Any, Any], Any]) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {key: change(value, tree["bias"]) if key == "kernel" else _map_kernels(value, change) for key, value in tree.items()}


@partial(jax.jit, static_argnums=0)
def hidden_states(graph: nnx.GraphDef, params: Params, tokens: jax.Array, segment_ids: jax.Array) -> tuple[jax.Array, ...]:
    """The L + 1 hidden states of an encoder that is not trained, compiled once a shape."""
    return merge(graph, params)(tokens, segment_ids)


def _rekey(tree: Any, rename: Any) -> Any:
    return {rename(key): _rekey(value, rename) for key, value in tree.items()} if isinstance(tree, dict) else tree


def structure(
    config: EncoderConfig, *, dtype: Dtype = "float32", attention: Attention = "xla", remat: Remat = "none"
) -> tuple[nnx.GraphDef, Params]:
    """Static structure and parameter shapes (jax.ShapeDtypeStruct) of an encoder, without making arrays."""
    return split(nnx.eval_shape(lambda: Encoder(config, dtype=dtype, attention=attention, remat=remat, rngs=nnx.Rngs(0))))


def init_params(config: EncoderConfig, key: jax.Array) -> Params:
    """Random parameters, normal with the config's initializer_range."""
    return jax.jit(lambda key: split(Encoder(config, rngs=nnx.Rngs(params=key)))[1])(key)
