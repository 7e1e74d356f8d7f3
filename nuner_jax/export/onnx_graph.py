"""An encoder as an ONNX graph, node by node from our parameters: dynamic batch and length, no deep-learning framework needed.

Shapes: B rows, T tokens, N heads, H head width, D width.
"""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from nuner_jax.model.encoder import EncoderConfig, Params

OPSET = 20  # the first with Gelu
ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


class Graph:
    """Nodes and constants in the order in which they are made; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node."""
        names = [f"{op.lower()}_{len(self.nodes)}_{n}" for n in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, f"{op.lower()}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, name: str = "") -> str:
        """An initializer; ONNX's integers are int64."""
        array = np.asarray(value)
        array = array.astype(np.int64) if array.dtype.kind in "iu" else np.ascontiguousarray(array, np.float32)
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def dense(self, x: str, kernel: Any, bias: Any) -> str:
        """x @ kernel + bias; output axes beyond one are folded."""
        kernel = np.asarray(kernel)
        kernel = kernel.reshape(kernel.shape[0], -1)
        return self.add("Add", self.add("MatMul", x, self.constant(kernel)), self.constant(np.asarray(bias).reshape(-1)))

    def norm(self, x: str, params: Params, epsilon: float) -> str:
        """Layer norm."""
        scale, bias = self.constant(params["scale"]), self.constant(params["bias"])
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)


def encoder(graph: Graph, config: EncoderConfig, params: Params, tokens: str, mask: str) -> list[str]:
    """The hidden states [B, T, D], embeddings first, of tokens [B, T] where mask [B, T] is 1."""
    e = params["embeddings"]
    word = graph.add("Gather", graph.constant(e["word"], "word_embeddings"), tokens)
    position = graph.add("Gather", graph.constant(e["position"], "position_embeddings"), positions(graph, config, tokens, mask))
    x = graph.add("Add", graph.add("Add", word, graph.constant(np.asarray(e["token_type"])[0])), position)
    states = [graph.norm(x, e["norm"], config.layer_norm_eps)]
    hidden = graph.add("Sub", graph.add("Cast", mask, to=TensorProto.FLOAT), graph.constant(1.0))
    hidden = graph.add("Unsqueeze", graph.add("Mul", hidden, graph.constant(1e9)), graph.constant([1, 2]))  # [B, 1, 1, T]
    for i in range(config.num_hidden_layers):
        states.append(layer(graph, config, params["layers"][str(i)], states[-1], hidden))
    return states


def positions(graph: Graph, config: EncoderConfig, tokens: str, mask: str) -> str:
    """Rows of the position table as Transformers counts them: BERT from the row's start, the others over the real tokens."""
    if config.model_type == "bert":
        length = graph.add("Gather", graph.add("Shape", tokens), graph.constant(1))
        return graph.add("Range", graph.constant(0), length, graph.constant(1))  # [T]
    counted = graph.add("Mul", graph.add("CumSum", mask, graph.constant(1)), mask)
    return graph.add("Add", counted, graph.constant(config.position_offset - 1))


def layer(graph: Graph, config: EncoderConfig, params: Params, x: str, hidden: str) -> str:
    """Self-attention and MLP, each followed by residual and layer norm."""
    N = config.num_attention_heads
    H = config.hidden_size // N
    kernel, bias = (np.asarray(params["qkv"][name]).copy() for name in ("kernel", "bias"))
    kernel[:, 0] *= H**-0.5  # the scale of the scores
    bias[0] *= H**-0.5
    qkv = graph.add("Reshape", graph.dense(x, kernel, bias), graph.constant([0, 0, 3, N, H]))
    q, k, v = graph.add("Split", qkv, outputs=3, axis=2, num_outputs=3)
    q, k, v = (graph.add("Squeeze", part, graph.constant([2])) for part in (q, k, v))  # [B, T, N, H]
    q, v = (graph.add("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
    scores = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 2, 3, 1]))  # [B, N, T, T]
    weights = graph.add("Softmax", graph.add("Add", scores, hidden), axis=-1)
    y = graph.add("Transpose", graph.add("MatMul", weights, v), perm=[0, 2, 1, 3])
    y = graph.add("Reshape", y, graph.constant([0, 0, config.hidden_size]))
    y = graph.dense(y, **params["attention_output"])
    x = graph.norm(graph.add("Add", x, y), params["attention_norm"], config.layer_norm_eps)
    y = graph.dense(x, **params["mlp_input"])
    y = graph.add("Relu", y) if config.hidden_act == "relu" else graph.add("Gelu", y, approximate=ACTIVATIONS[config.hidden_act])
    y = graph.dense(y, **params["mlp_output"])
    return graph.norm(graph.add("Add", x, y), params["mlp_norm"], config.layer_norm_eps)


def build(config: EncoderConfig, params: Params, layers: tuple[int, ...], classifier: dict[str, np.ndarray] | None = None) -> Any:
    """The model: input_ids and attention_mask [batch, sequence] to logits, or without classifier to last_hidden_state and, of the
    hidden states `layers` side by side, features."""
    graph = Graph()
    states = encoder(graph, config, params, "input_ids", "attention_mask")
    if classifier is not None:
        results = {"logits": (graph.dense(states[-1], classifier["kernel"], classifier["bias"]), len(classifier["bias"]))}
    else:
        results = {"last_hidden_state": (states[-1], config.hidden_size)}
        features = graph.add("Concat", *(states[layer] for layer in layers), axis=-1)
        results["features"] = (features, config.hidden_size * len(layers))
    for name, (source, _) in results.items():
        graph.nodes.append(helper.make_node("Identity", [source], [name], name))
    shape: list[Any] = ["batch", "sequence"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [*shape, size]) for n, (_, size) in results.items()]
    made = helper.make_graph(graph.nodes, "encoder", inputs, outputs, graph.constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10, producer_name="nuner_jax")
