"""Model FLOPs: the count agrees with the compiler's, frozen layers cost what they cost, padding costs nothing."""

import jax
import jax.numpy as jnp
import pytest

from nuner_jax import flops, hardware, parallel
from nuner_jax.config import MeshConfig, ModelConfig, TrainConfig
from nuner_jax.model.encoder import EncoderConfig
from nuner_jax.model.text_tower import usage
from nuner_jax.step import Program

B, T, M, C, R = 4, 32, 2, 24, 8
SHAPE = EncoderConfig("roberta", 50, 256, 4, 4, 1024, T + 2, 1, 1e-5, pad_token_id=1)


def batch():
    """Rows without padding, one segment each; R rows of three concepts each; every concept occurs."""
    ids = jnp.arange(C, dtype=jnp.int32)
    slots = jnp.repeat(ids, R * T // C + 1)[: R * T].reshape(1, R, T)
    return {
        "tokens": jnp.ones((B, T), jnp.int32),
        "segment_ids": jnp.ones((B, T), jnp.int32),
        "positions": jnp.tile(jnp.arange(T, dtype=jnp.int32), (B, 1)),
        "text_mask": jnp.ones((B, T), bool),
        "mentions": jnp.zeros((B, M, 3), jnp.int32),
        "concept_tokens": jnp.ones((1, R, T), jnp.int32),
        "concept_segment_ids": jnp.ones((1, R, T), jnp.int32),
        "concept_positions": jnp.tile(jnp.arange(T, dtype=jnp.int32), (1, R, 1)),
        "concept_slots": slots,
        "concept_ids": ids,
        "concept_weights": jnp.ones(len(ids), jnp.float32),
        "concepts_left_out": jnp.zeros(1, jnp.int32),
    }


@pytest.mark.parametrize("freeze", [-1, 0, 2, 4])
def test_the_count_agrees_with_the_compilers(freeze):
    config = TrainConfig(model=ModelConfig(freeze_layers=freeze, logit_chunk=0))
    program = Program.create(config, SHAPE, parallel.make_mesh(MeshConfig(), jax.devices()[:1]), 10)
    compiler = program.train_step.lower(program.abstract_state, batch()).cost_analysis()["flops"]
    sums = usage(batch()) | {"pairs": B * T * C}
    ours = flops.total(flops.training_costs(SHAPE, program.model.freeze_text, program.model.freeze_concept), sums)
    assert 1.0 < compiler / ours < 1.1  # the compiler counts norms, softmax and the optimizer too


def test_a_roberta_base_token_costs_what_the_paper_scale_says():
    base = EncoderConfig("roberta", 50265, 768, 12, 12, 3072, 514, 1, 1e-5, pad_token_id=1)
    full, _ = flops.tower_costs(base, -1)
    assert full == 6 * 12 * (12 * 768 * 768)  # six FLOPs a weight
    half, pairs = flops.tower_costs(base, 6)
    assert half == pytest.approx(full * (6 + 18) / 36, rel=0.03)
    assert half + 30 * pairs == pytest.approx(340e6, rel=0.03)
    everything, _ = flops.tower_costs(base, 12)
    assert everything == full / 3


def test_padding_and_other_segments_cost_nothing():
    one = batch()
    two = {**one, "segment_ids": jnp.ones((B, T), jnp.int32).at[:, T // 2 :].set(2)}
    padded = {**one, "segment_ids": jnp.ones((B, T), jnp.int32).at[:, T // 4 :].set(0)}
    assert (usage(one)["positions"], usage(one)["attended"], usage(one)["padding"]) == (B * T, B * T * T, 0)
    assert (usage(two)["positions"], usage(two)["attended"]) == (B * T, B * T * T / 2)
    assert (usage(padded)["positions"], usage(padded)["attended"], usage(padded)["padding"]) == (B * T / 4, B * T * T / 16, 0.75)
    assert usage(padded)["concept_padding"] == 0


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA GeForce RTX 3090", 71),
    ],
)
def test_peak_rates_are_found_by_the_name_that_jax_gives(kind, teraflops):
    assert hardware.of_kind(kind).bf16_flops == teraflops * 1e12


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA L400", "TPU v9", "NVIDIA GeForce RTX 3090 Ti", ""])
def test_what_is_not_in_the_table_has_no_peak(kind):
    assert hardware.of_kind(kind) is None
