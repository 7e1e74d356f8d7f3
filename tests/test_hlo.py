"""Collectives are read from HLO text with their sizes, group sizes and the number of times that loops repeat them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nuner_jax import hlo

PATH = 'metadata={op_name="jit(step)/'
TPU = f"""HloModule jit_step, is_scheduled=true, num_partitions=4

%sum (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[]{{:T(128)}} add(%a, %b)
}}

%all-reduce-scatter.2 (p: bf16[64,8]) -> bf16[16,8] {{
  %p = bf16[64,8]{{1,0:T(8,128)(2,1)}} parameter(0)
  %ar = bf16[64,8]{{1,0:T(8,128)(2,1)}} all-reduce(%p), channel_id=3, replica_groups=[1,4]<=[4], {PATH}transpose(jvp(text_encoder))/dot"}}
  ROOT %ds = bf16[16,8]{{1,0:T(8,128)(2,1)}} dynamic-slice(%ar, %p)
}}

%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %t = (s32[], f32[8]{{0:T(256)S(1)}}) parameter(0)
  %cp = (f32[8]{{0}}, f32[8]{{0}}, u32[], u32[]) collective-permute-start(%t), source_target_pairs={{{{0,1}},{{1,2}},{{2,3}},{{3,0}}}}
  %cpd = f32[8]{{0}} collective-permute-done(%cp)
  ROOT %r = (s32[], f32[8]{{0}}) tuple(%t, %cpd)
}}

%condition (t: (s32[], f32[8])) -> pred[] {{
  %t = (s32[], f32[8]{{0}}) parameter(0)
  ROOT %lt = pred[]{{:T(512)}} compare(%t, %t), direction=LT
}}

%stretch.1 (p: bf16[16,8]) -> bf16[64,8] {{
  %p = bf16[16,8] parameter(0)
  ROOT %ag.1 = bf16[64,8] all-gather(%p), channel_id=7, replica_groups={{{{0,1,2,3}}}}, frontend_attributes={{chain_id="0"}}
}}

%stretch.2 (p: bf16[16,8]) -> bf16[64,8] {{
  %p = bf16[16,8] parameter(0)
  ROOT %ag.2 = bf16[64,8] all-gather(%p), channel_id=7, replica_groups={{{{0,1,2,3}}}}, frontend_attributes={{chain_id="0"}}
}}

ENTRY %main.9 (x: f32[8], w: bf16[64,8]) -> f32[] {{
  %x = f32[8]{{0}} parameter(0)
  %w = bf16[64,8]{{1,0}} parameter(1)
  %init = (s32[], f32[8]{{0}}) tuple(%x, %x)
  %while.1 = (s32[], f32[8]) while(%init), condition=%condition, body=%body, backend_config={{"known_trip_count":{{"n":"5"}}}}
  %fusion = bf16[16,8]{{1,0:T(8,128)(2,1)}} fusion(%w), kind=kCustom, calls=%all-reduce-scatter.2
  %ag = (bf16[16,8], bf16[32,8]) all-gather-start(%fusion), replica_groups={{{{0,1}},{{2,3}}}}, {PATH}jvp(text_encoder)/dot"}}
  %agd = bf16[32,8]{{1,0}} all-gather-done(%ag)
  %one = bf16[64,8] fusion(%fusion), kind=kOutput, calls=%stretch.1
  %two = bf16[64,8] fusion(%fusion), kind=kOutput, calls=%stretch.2
  ROOT %loss = f32[]{{:T(128)}} all-reduce(%x), replica_groups=mesh['a'=2,'b'=2,'c'=9] {{'a','b'}}, to_apply=%sum, {PATH}metrics/sum"}}
}}
"""


def test_collectives_of_a_module_as_tpus_write_it():
    every = hlo.collectives(TPU, ("text_encoder", "metrics"))
    (in_stretches,) = [c for c in every if c.kind == "all-gather" and not c.origin]
    assert (in_stretches.count, in_stretches.bytes, in_stretches.group_size) == (1, 64 * 8 * 2, 4)
    found = {c.kind: c for c in every if c != in_stretches}
    assert found.keys() == {"collective-permute", "reduce-scatter", "all-gather", "all-reduce"}
    permute, scatter, gather, reduce = (found[k] for k in ("collective-permute", "reduce-scatter", "all-gather", "all-reduce"))
    assert (permute.count, permute.bytes, permute.largest, permute.wire_bytes) == (5, 5 * 32, 32, 5 * 32)
    assert (scatter.count, scatter.bytes, scatter.group_size) == (1, 64 * 8 * 2, 4)
    assert scatter.origin == "text_encoder, backward"
    assert scatter.wire_bytes == 64 * 8 * 2 * 3 / 4
    assert (gather.count, gather.bytes, gather.group_size, gather.origin) == (1, 32 * 8 * 2, 2, "text_encoder")
    assert gather.wire_bytes == 32 * 8 * 2 / 2
    assert (reduce.bytes, reduce.group_size, reduce.origin) == (4, 4, "metrics")
    assert reduce.wire_bytes == 4 * 2 * 3 / 4


@pytest.fixture
def mesh():
    return jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))


def test_collectives_of_a_compiled_program(mesh):
    split, whole = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())

    def step(x):
        with jax.named_scope("inner"):
            y = jax.lax.with_sharding_constraint(x * 2, whole)
        return (y * y[::-1]).sum()

    compiled = jax.jit(step, in_shardings=split, out_shardings=whole).lower(jnp.zeros((64, 16))).compile()
    (gather,) = [c for c in hlo.collectives(compiled.as_text(), ("inner",)) if c.kind == "all-gather"]
    assert (gather.count, gather.bytes, gather.largest, gather.group_size) == (1, 64 * 16 * 4, 64 * 16 * 4, 8)
    assert gather.wire_bytes == pytest.approx(64 * 16 * 4 * 7 / 8)


def test_a_collective_in_a_loop_counts_once_a_round(mesh):
    split = NamedSharding(mesh, P("x"))

    def local(x):
        def one(x, _):
            return jax.lax.ppermute(x, "x", [(i, (i + 1) % 8) for i in range(8)]) * 1.5, None

        return jax.lax.scan(one, x, None, length=6)[0]

    step = jax.shard_map(local, mesh=mesh, in_specs=P("x"), out_specs=P("x"), check_vma=False)
    compiled = jax.jit(step, in_shardings=split).lower(np.zeros((8, 10), np.float32)).compile()
    (permute,) = hlo.collectives(compiled.as_text())
    assert (permute.kind, permute.count, permute.bytes) == ("collective-permute", 6, 6 * 40)


def test_a_program_on_one_device_has_none():
    assert hlo.collectives(jax.jit(lambda x: x @ x).lower(jnp.zeros((4, 4))).compile().as_text()) == []
