"""The contrastive loss against its definition, written out with loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nuner_jax.config import LossConfig
from nuner_jax.model.losses import PLAIN, Concepts, Texts, first_occurrences, positives
from nuner_jax.model.losses import contrastive_sums as sums_of


def example(seed=0, B=3, T=7, M=4, C=6, D=5):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, T, (B, M))
    last = np.minimum(first + rng.integers(0, 3, (B, M)), T - 1)
    concept = rng.integers(-1, C, (B, M))
    return {
        "text": rng.normal(size=(B, T, D)).astype(np.float32),
        "text_mask": rng.random((B, T)) < 0.8,
        "mentions": np.stack([first, last, concept], -1).astype(np.int32),
        "concepts": rng.normal(size=(C, D)).astype(np.float32),
        "concept_ids": np.arange(C, dtype=np.int32),
        "concept_weights": rng.uniform(0.5, 2, C).astype(np.float32),
        "scale": np.float32(1.7),
        "bias": np.float32(-0.4),
    }


def contrastive_sums(text, text_mask, mentions, concepts, concept_ids, concept_weights, scale, bias, **options):
    return sums_of(Texts(text, text_mask, mentions), Concepts(concepts, concept_ids, concept_weights), scale, bias, **options)


def by_definition(text, text_mask, mentions, concepts, concept_ids, concept_weights, scale, bias, config=PLAIN):
    total, unit = 0.0, concepts / np.linalg.norm(concepts, axis=1, keepdims=True)
    for b, t in zip(*np.nonzero(text_mask), strict=True):
        for c, concept_id in enumerate(concept_ids):
            if concept_id < 0 or concept_id in concept_ids[:c]:
                continue
            logit = float(scale) * float(text[b, t] @ concepts[c]) + float(bias)
            here = [i for first, last, i in mentions[b] if first <= t <= last and i >= 0]
            probability = 1 / (1 + np.exp(-logit))
            right = probability if concept_id in here else 1 - probability
            weight = (1 - right) ** config.focal_exponent * (1.0 if here else config.unlabelled_weight)
            if concept_id in here:
                weight *= concept_weights[c] if config.frequency_exponent else 1
            elif config.duplicate_cosine and any(unit[i] @ unit[c] > config.duplicate_cosine for i in here):
                weight = 0.0
            total -= weight * np.log(right)
    return total / text_mask.sum()


@pytest.mark.parametrize("seed", range(3))
def test_loss_equals_its_definition(seed):
    batch = example(seed)
    sums = contrastive_sums(**batch)
    np.testing.assert_allclose(sums["loss"] / sums["tokens"], by_definition(**batch), rtol=1e-5)
    assert sums["tokens"] == batch["text_mask"].sum()


SWITCHES = [
    LossConfig(unlabelled_weight=0.3),
    LossConfig(duplicate_cosine=0.1),
    LossConfig(focal_exponent=2.0),
    LossConfig(frequency_exponent=0.5),
    LossConfig(unlabelled_weight=0.7, duplicate_cosine=0.2, focal_exponent=1.0, frequency_exponent=1.0),
]


@pytest.mark.parametrize("config", SWITCHES)
def test_every_switch_equals_its_definition_and_changes_the_loss_only(config):
    batch = example(1)
    sums, plain = contrastive_sums(**batch, config=config), contrastive_sums(**batch)
    np.testing.assert_allclose(sums["loss"] / sums["tokens"], by_definition(**batch, config=config), rtol=1e-5)
    assert abs(sums["loss"] - plain["loss"]) > 0.005 * plain["loss"]
    assert all(sums[name] == plain[name] for name in ("tokens", "positives", "pairs"))


@pytest.mark.parametrize("config", [LossConfig(), SWITCHES[-1]], ids=["plain", "all switches"])
@pytest.mark.parametrize("chunk", [1, 2, 4, 6, 100])
def test_chunked_equals_unchunked_with_gradients(chunk, config):
    batch = example()

    def loss(arrays, chunk):
        return contrastive_sums(**batch | arrays, chunk=chunk, config=config)["loss"]

    arrays = {name: batch[name] for name in ("text", "concepts", "scale", "bias")}
    whole, whole_grads = jax.value_and_grad(loss)(arrays, 0)
    parts, parts_grads = jax.value_and_grad(loss)(arrays, chunk)
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
    for name in arrays:
        np.testing.assert_allclose(parts_grads[name], whole_grads[name], rtol=1e-5, atol=1e-6)


def test_empty_slots_and_repeated_concepts_change_nothing():
    batch = example()
    sums = contrastive_sums(**batch)
    concepts = np.concatenate([batch["concepts"], batch["concepts"][2:4], np.full((3, 5), 9.0, np.float32)])
    ids = np.concatenate([batch["concept_ids"], [2, 3, -1, -1, -1]]).astype(np.int32)
    weights = np.concatenate([batch["concept_weights"], np.ones(5, np.float32)])
    padded = contrastive_sums(**batch | {"concepts": concepts, "concept_ids": ids, "concept_weights": weights})
    for name, value in sums.items():
        np.testing.assert_allclose(padded[name], value, rtol=1e-6)
    assert padded["pairs"] == 6 * padded["tokens"]


def test_masked_tokens_have_no_gradient():
    batch = example()
    grad = jax.grad(lambda text: contrastive_sums(**batch | {"text": text})["loss"])(batch["text"])
    assert np.all(np.asarray(grad)[~batch["text_mask"]] == 0)
    assert np.all(np.abs(np.asarray(grad)[batch["text_mask"]]).sum(-1) > 0)


def test_overlapping_mentions_of_several_concepts_are_all_positive():
    mentions = jnp.array([[[0, 2, 5], [1, 1, 8], [1, 3, 8]]])
    target = positives(mentions, jnp.array([8, 5, -1]), 5)
    np.testing.assert_array_equal(target[0, :, 0], [False, True, True, True, False])
    np.testing.assert_array_equal(target[0, :, 1], [True, True, True, False, False])
    assert not target[..., 2].any()


def test_first_occurrences_in_any_order():
    ids = jnp.array([4, -1, 2, 4, 2, 7, -1])
    np.testing.assert_array_equal(first_occurrences(ids), [True, False, True, False, False, True, False])
