"""Gradients and one AdamW step against PyTorch, through the same table that maps the parameters."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from nuner_jax.model import hf
from nuner_jax.model.encoder import merge, structure
from parity.conftest import Pair, make_pair

ROWS, LENGTH = 3, 16


@pytest.fixture(scope="module", params=["roberta", "bert"])
def small(request, tmp_path_factory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("gradients"), request.param)


def example(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mask = (np.arange(LENGTH) < np.array([[LENGTH], [9], [4]])).astype(np.int64)
    tokens = np.where(mask == 1, pair.tokens(ROWS, LENGTH), pair.config.pad_token_id)
    weights = np.random.default_rng(1).normal(size=(ROWS, LENGTH, pair.config.hidden_size)).astype(np.float32)
    return tokens, mask, weights * mask[..., None] / mask.sum()


@cache
def our_gradients(pair: Pair, freeze_layers: int = -1, remat: str = "none"):
    tokens, mask, weights = example(pair)
    graph, _ = structure(pair.config, remat=remat)

    def loss(params):
        return (jnp.square(merge(graph, params)(tokens, mask, freeze_layers=freeze_layers)[-1]) * weights).sum()

    return jax.jit(jax.grad(loss))(pair.params)


def their_gradients(pair: Pair) -> dict[str, np.ndarray]:
    tokens, mask, weights = example(pair)
    pair.theirs.zero_grad()
    states = pair.theirs(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask)).last_hidden_state
    (states.square() * torch.tensor(weights)).sum().backward()
    return {name: p.grad.numpy() for name, p in pair.theirs.named_parameters() if p.grad is not None}


def test_gradients(small: Pair):
    ours = hf.params_to_hf(small.config, our_gradients(small), {})
    theirs = their_gradients(small)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, atol=1e-5, rtol=1e-5, err_msg=name)
    assert max(np.abs(g).max() for g in theirs.values()) > 0.1  # the tolerance means something


def test_one_adamw_step(small: Pair):
    settings = {"eps": 1e-4, "weight_decay": 0.1}  # eps above the rounding of gradients that are zero by symmetry (key biases)
    tx = optax.adamw(1e-2, b1=0.9, b2=0.999, **settings)

    @jax.jit
    def step(params, gradients):
        return optax.apply_updates(params, tx.update(gradients, tx.init(params), params)[0])

    ours = hf.params_to_hf(small.config, step(small.params, our_gradients(small)), {})

    their_gradients(small)
    before = {name: p.detach().clone() for name, p in small.theirs.named_parameters()}
    try:
        torch.optim.AdamW(small.theirs.parameters(), lr=1e-2, betas=(0.9, 0.999), **settings).step()
        after = {name: p.detach().numpy().copy() for name, p in small.theirs.named_parameters()}
    finally:
        small.theirs.load_state_dict(before, strict=False)
    for name, value in ours.items():
        np.testing.assert_allclose(value, after[name], atol=1e-5, rtol=0, err_msg=name)
        assert np.abs(value - before[name].numpy()).max() > 1e-3 or "key.bias" in name


@pytest.mark.parametrize("remat", ["layer", "dots"])
def test_rematerialisation_changes_no_gradient(roberta: Pair, remat):
    plain, other = our_gradients(roberta), our_gradients(roberta, remat=remat)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6, rtol=1e-5), plain, other)


@pytest.mark.parametrize("freeze_layers", [0, 1, 2])
def test_frozen_parts_get_no_gradient_and_the_others_the_same_one(roberta: Pair, freeze_layers):
    everything, some = our_gradients(roberta), our_gradients(roberta, freeze_layers)
    assert all(not np.any(x) for x in jax.tree.leaves(some["embeddings"]))
    for depth in range(roberta.config.num_hidden_layers):
        pairs = zip(jax.tree.leaves(everything["layers"][str(depth)]), jax.tree.leaves(some["layers"][str(depth)]), strict=True)
        for x, y in pairs:
            if depth < freeze_layers:
                assert not np.any(y)
            else:
                np.testing.assert_allclose(x, y, atol=1e-6, rtol=1e-5)
                assert np.any(y)


def test_frozen_layers_have_no_backward(roberta: Pair):
    """The compiled gradient of the top layer costs the forward pass and the top layer's backward, not more."""
    tokens, mask, weights = example(roberta)
    graph, _ = structure(roberta.config)

    def flops(freeze_layers: int) -> float:
        def loss(trained):
            layers = roberta.params["layers"] | trained
            states = merge(graph, {"embeddings": roberta.params["embeddings"], "layers": layers})(
                tokens, mask, freeze_layers=freeze_layers
            )
            return (states[-1] * weights).sum()

        trained = {name: layer for name, layer in roberta.params["layers"].items() if int(name) >= freeze_layers}
        return jax.jit(jax.grad(loss)).lower(trained).compile().cost_analysis()["flops"]

    assert flops(1) < 0.75 * flops(0)  # about (2 + 2) / (2 + 4) of the products
