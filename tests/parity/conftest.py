"""Tiny random encoders made by Transformers, every tensor random (biases and norms too), and the same ones read by us."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

from nuner_jax.model import hf
from nuner_jax.model.encoder import EncoderConfig, Params, merge, structure

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(2)

SMALL = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 40,
}
KINDS = {
    "roberta": (transformers.RobertaConfig, {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "bert": (transformers.BertConfig, {"pad_token_id": 0, "type_vocab_size": 2, "layer_norm_eps": 1e-12}),
    "xlm-roberta": (transformers.XLMRobertaConfig, {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "camembert": (transformers.CamembertConfig, {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
}


@partial(jax.jit, static_argnames=("graph", "freeze_layers", "dropout_rate"))
def forward(graph, params, tokens, segment_ids, positions, dropout_key, freeze_layers=-1, dropout_rate=0.0):
    options = {"freeze_layers": freeze_layers, "dropout_rate": dropout_rate, "dropout_key": dropout_key}
    return merge(graph, params)(tokens, segment_ids, positions, **options)


@dataclass(eq=False)
class Pair:
    """The same encoder twice."""

    folder: Path
    theirs: transformers.PreTrainedModel
    config: EncoderConfig
    params: Params
    carried: hf.Tensors

    @cached_property
    def graph(self):
        return structure(self.config)[0]

    def states(self, tokens, segment_ids=None, positions=None, dropout_key=None, **options) -> list[np.ndarray]:
        """Our hidden states; one segment without segment_ids."""
        segment_ids = np.ones_like(tokens) if segment_ids is None else segment_ids
        graph = options.pop("graph", self.graph)
        return jax.device_get(forward(graph, self.params, tokens, segment_ids, positions, dropout_key, **options))

    def tokens(self, rows: int, length: int, seed: int = 0) -> np.ndarray:
        """Random ids without the padding id."""
        return np.random.default_rng(seed).integers(5, self.config.vocab_size, (rows, length))


def randomise(model: torch.nn.Module, std: float) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            center = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            tensor.copy_(center + std * torch.randn(tensor.shape, generator=generator))


def make_pair(folder: Path, kind: str, std: float = 0.1, **settings) -> Pair:
    config_class, fixed = KINDS[kind]
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config_class(**{**SMALL, **fixed, **settings}), attn_implementation="eager")
    randomise(model, std)
    model.eval().save_pretrained(folder)
    return Pair(folder, model, *hf.load_encoder(folder))


@pytest.fixture(scope="session", params=KINDS)
def pair(request, tmp_path_factory) -> Pair:
    return make_pair(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def roberta(tmp_path_factory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("roberta"), "roberta")
