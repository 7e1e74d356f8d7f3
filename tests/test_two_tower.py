"""Parts of the model: masked mentions, the split of parameters, the middle layer's share of the loss."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax import parallel
from nuner_jax.config import MeshConfig, ModelConfig
from nuner_jax.errors import InputError
from nuner_jax.model import hf
from nuner_jax.model.text_tower import combine, mask_mentions, partition
from nuner_jax.model.two_tower import TwoTower

MASK = 99


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.3, 1.0]))
def test_masking_hides_whole_mentions_and_nothing_else(seed, rate):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 50, (3, 10)).astype(np.int32)
    first = rng.integers(0, 10, (3, 4))
    mentions = np.stack([first, np.minimum(first + rng.integers(0, 3, (3, 4)), 9), rng.integers(-1, 5, (3, 4))], -1)
    masked = np.asarray(mask_mentions(tokens, mentions, rate, MASK, jax.random.key(seed)))
    inside = np.zeros((3, 10), bool)
    for b in range(3):
        for first, last, concept in mentions[b]:
            if concept >= 0:
                inside[b, first : last + 1] = True
    hidden = masked == MASK
    np.testing.assert_array_equal(masked[~hidden], tokens[~hidden])
    assert not (hidden & ~inside).any()
    if rate in (0.0, 1.0):
        np.testing.assert_array_equal(hidden, inside if rate else np.zeros_like(inside))


def test_masking_without_a_mask_token_is_refused(tiny_encoder):
    config, _, _ = hf.load_encoder(tiny_encoder)
    with pytest.raises(InputError, match="no mask token"):
        TwoTower.create(config, ModelConfig(mention_mask=0.1), parallel.make_mesh(MeshConfig()))


trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3), max_leaves=8
)


@given(st.dictionaries(st.sampled_from("abcd"), trees, min_size=1), st.integers(0, 3))
def test_partition_and_combine_are_inverse(tree, seed):
    trained, frozen = partition(tree, lambda path: (len(path) + ord(path[-1]) + seed) % 2 == 0)
    assert combine(trained, frozen) == tree
    assert not set(map(str, jax.tree.leaves_with_path(trained))) & set(map(str, jax.tree.leaves_with_path(frozen)))
