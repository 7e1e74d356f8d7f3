"""Packed rows, padding, dropout and compute types: what a training row may hold without moving any sentence's vectors."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuner_jax.errors import InputError
from nuner_jax.model.encoder import few_rows, merge, structure, transposed, untransposed
from nuner_jax.model.ops import attention, dropout, gelu, hashed_words, positions_of
from parity.conftest import Pair


def test_packed_sentences_equal_unpacked_ones(pair: Pair):
    lengths = [9, 5, 12, 1]
    mask = (np.arange(12) < np.array(lengths)[:, None]).astype(int)
    alone = np.where(mask == 1, pair.tokens(4, 12), pair.config.pad_token_id)
    row = np.full((1, 32), pair.config.pad_token_id)
    segments = np.zeros((1, 32), int)
    row[0, : sum(lengths)] = alone[mask == 1]
    segments[0, : sum(lengths)] = np.repeat([1, 2, 3, 4], lengths)
    for packed, unpacked in zip(pair.states(row, segments), pair.states(alone, mask), strict=True):
        np.testing.assert_allclose(packed[segments > 0], unpacked[mask == 1], atol=1e-5, rtol=0)


def test_products_with_the_kernel_first_are_the_same(pair: Pair):
    tokens, turned = pair.tokens(1, 12), transposed(pair.params)
    kernel = turned["layers"]["0"]["qkv"]["kernel"]
    assert kernel.shape == (3 * pair.config.hidden_size, pair.config.hidden_size)
    encoder = few_rows(merge(structure(pair.config)[0], untransposed(turned)))
    for ours, plain in zip(encoder(tokens, np.ones_like(tokens)), pair.states(tokens, np.ones_like(tokens)), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-5, rtol=0)


def test_padding_and_neighbours_never_leak(roberta: Pair):
    segments = np.array([[1] * 6 + [2] * 5 + [0] * 5])
    tokens = roberta.tokens(1, 16)
    other = np.where(segments == 1, tokens, roberta.tokens(1, 16, seed=1))
    a, b = roberta.states(tokens, segments)[-1], roberta.states(other, segments)[-1]
    np.testing.assert_array_equal(a[:, :6], b[:, :6])
    assert np.abs(a[:, 6:11] - b[:, 6:11]).max() > 0.1


def test_rows_of_nothing_but_padding_are_finite_with_finite_gradients(roberta: Pair):
    tokens, segments = np.ones((2, 8), int), np.zeros((2, 8), int)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        return jnp.square(merge(roberta.graph, params)(tokens, segments)[-1]).sum()

    value, gradient = loss(roberta.params)
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_positions_count_from_zero_wherever_the_segment_changes(segments):
    expected = [0]
    for before, now in pairwise(segments):
        expected.append(expected[-1] + 1 if before == now else 0)
    padded = segments + [9] * (40 - len(segments))  # one shape, one compilation
    assert positions_of(jnp.array([padded]))[0, : len(segments)].tolist() == expected


def test_given_positions_replace_the_derived_ones(roberta: Pair):
    tokens, ones = roberta.tokens(1, 6), np.ones((1, 6), int)
    derived = roberta.states(tokens)[-1]
    np.testing.assert_array_equal(derived, roberta.states(tokens, ones, np.arange(6)[None])[-1])
    assert np.abs(derived - roberta.states(tokens, ones, np.arange(6)[None] + 3)[-1]).max() > 0.01


def test_rows_beyond_the_position_table_are_refused_unless_their_positions_are_given(roberta: Pair):
    length = roberta.config.max_length + 1
    tokens, segments = roberta.tokens(1, length), np.repeat([[1, 2]], [20, length - 20], axis=1)
    with pytest.raises(InputError, match=f"{length} tokens.* {length - 1}"):
        roberta.states(tokens, segments)
    positions = np.concatenate([np.arange(20), np.arange(length - 20)])[None]
    alone = roberta.states(tokens[:, :20])[-1]
    np.testing.assert_allclose(roberta.states(tokens, segments, positions)[-1][:, :20], alone, atol=1e-5, rtol=0)


def test_attention_is_that_of_jax_with_the_same_mask():
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (2, 4, 10, 8)) for key in keys)  # [B, N, T, H]
    segments = jnp.array([[1] * 4 + [2] * 6, [1] * 7 + [0] * 3])
    mask = (segments[:, :, None] == segments[:, None, :])[:, None]

    def theirs(q, k, v):
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla").swapaxes(1, 2)

    g = jax.random.normal(jax.random.key(1), q.shape)
    ours, gradients = jax.jit(lambda *x: both(lambda *a: attention(*a, mask), x, g))(q, k, v)
    expected, expected_gradients = jax.jit(lambda *x: both(theirs, x, g))(q, k, v)
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)
    for x, y in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5, rtol=0)


def both(function, inputs, g):
    y, pull = jax.vjp(function, *inputs)
    return y, pull(g)


def test_attention_survives_scores_that_overflow_exp():
    q = k = jnp.full((1, 1, 3, 4), 60.0)
    v = jnp.arange(12.0).reshape(1, 1, 3, 4)
    mask = jnp.array([[True, False, False], [True, True, False], [True, True, True]])[None, None]
    y = attention(q, k, v, mask)[0, 0]
    np.testing.assert_allclose(y, [v[0, 0, 0], v[0, 0, :2].mean(0), v[0, 0].mean(0)], rtol=1e-6)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(roberta: Pair):
    graph, shapes = structure(roberta.config, dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    tokens = roberta.tokens(2, 20)
    exact = roberta.states(tokens)
    rough = roberta.states(tokens, graph=graph)
    assert all(x.dtype == jnp.bfloat16 for x in rough)
    gap = max(float(np.abs(x - y.astype(np.float32)).mean()) for x, y in zip(exact, rough, strict=True))
    assert 1e-4 < gap < 0.02


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    x = jnp.ones((64, 333))  # an odd number of entries a row: the last word of random bits is cut
    y = dropout(x, 0.1, jax.random.key(0))
    assert abs(float((y == 0).mean()) - 26 / 256) < 0.01
    assert abs(float(y.mean()) - 1) < 0.01
    assert len(np.unique(y)) == 2
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)
    np.testing.assert_array_equal(dropout(x, 0.1, None), x)


def test_hashed_words_are_even_and_unlike_for_every_key_and_place():
    words = np.stack([hashed_words(jax.random.key(seed), (200, 300)) for seed in range(4)])
    octets = words.view(np.uint8)
    counts = np.bincount(octets.ravel(), minlength=256)
    assert 150 < ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 400  # chi-squared, 255 degrees of freedom
    bits = np.unpackbits(octets.reshape(4, -1), axis=1).astype(float) - 0.5
    pairs = [(bits[0], bits[seed]) for seed in range(1, 4)]  # keys
    pairs += [(bits[0, lag:], bits[0, :-lag]) for lag in (1, 8, 32, 64, 32 * 300)]  # bits, octets, words, rows
    assert max(abs((4 * a * b).mean()) for a, b in pairs) < 4 / np.sqrt(bits.shape[1])
    assert len(np.unique(words)) > 0.999 * words.size


def test_dropout_acts_on_trained_layers_only_and_follows_its_key(roberta: Pair):
    tokens = roberta.tokens(2, 10)
    plain = roberta.states(tokens)

    def run(key: int, freeze_layers: int):
        return roberta.states(tokens, freeze_layers=freeze_layers, dropout_rate=0.3, dropout_key=jax.random.key(key))

    for depth in range(3):
        frozen = [bool((x == y).all()) for x, y in zip(run(0, depth), plain, strict=True)]
        assert frozen == [True] * (depth + 1) + [False] * (2 - depth)
    assert all((x != y).any() for x, y in zip(run(0, -1), plain, strict=True))
    np.testing.assert_array_equal(run(0, 1)[-1], run(0, 1)[-1])
    assert (run(0, 1)[-1] != run(1, 1)[-1]).any()


def test_gelu_and_its_gradient_are_the_exact_ones():
    x = jnp.concatenate([jnp.linspace(-12, 12, 4001), jnp.array([0.0, -40.0, 40.0, 1e4, -1e4])])
    ours, theirs = jax.jit(gelu), jax.jit(lambda x: jax.nn.gelu(x, approximate=False))
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-6, rtol=1e-6)
    gradients = [jax.jit(jax.grad(lambda x, f=f: (f(x) * jnp.cos(x)).sum()))(x) for f in (gelu, theirs)]
    np.testing.assert_allclose(*gradients, atol=1e-6, rtol=1e-5)
    assert gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
