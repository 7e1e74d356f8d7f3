"""`--compile_only TOPOLOGY`: the real training step, compiled for devices that are not there, and what it would need of them.

No data and no weights are read: shapes come from the config. A TPU topology needs libtpu (extra `tpu`) but no TPU.
"""

import os
import re
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from nuner_jax import flops, hardware, hlo, parallel
from nuner_jax.config import TrainConfig
from nuner_jax.dataset.concepts import Concept
from nuner_jax.dataset.loader import ConceptTokens
from nuner_jax.errors import DoesNotFitError, InputError
from nuner_jax.hardware import GiB, Hardware
from nuner_jax.model.encoder import EncoderConfig
from nuner_jax.model.hf import load_config
from nuner_jax.model.text_tower import SCOPES
from nuner_jax.step import Program

NUM_STEPS = 1000  # only the learning rate depends on it, no shape
_ROBERTA: dict[str, Any] = {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514}
_ROBERTA |= {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
# libtpu asks which machine it is on, and for its chips; nothing will run, so any machine will do and no chip is locked.
NO_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
NO_TPU |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
# Shapes that need neither a folder nor the hub.
KNOWN = {"roberta-base": _ROBERTA | _BASE, "roberta-large": _ROBERTA | _LARGE}


@dataclass(frozen=True)
class Report:
    """What the compiled step needs, for one device and one step."""

    device_kind: str
    mesh: dict[str, int]
    memory: dict[str, int]
    """Bytes by kind: arguments, outputs (beyond the donated arguments), temporaries, code."""
    flops: float
    """By the compiler's count; the body of a loop is counted once."""
    model_flops: float
    """By our own count (flops.py), with every row full."""
    bytes_accessed: float
    """By the compiler's count."""
    collectives: list[hlo.Collective]

    @property
    def total_memory(self) -> int:
        """Bytes in use at once, by kind and in all."""
        return sum(self.memory.values())

    def roofline(self, device: Hardware) -> dict[str, float]:
        """Seconds that the step takes at least: by arithmetic, by memory traffic, by traffic between devices."""
        wire = sum(c.wire_bytes for c in self.collectives)
        return {
            "arithmetic": max(self.flops, self.model_flops) / device.bf16_flops,
            "memory": self.bytes_accessed / device.memory_bandwidth,
            "links": wire / device.link_bandwidth if device.link_bandwidth else 0.0,
        }


def compile_only(config: TrainConfig) -> None:
    """Compiles and prints. Raises InputError; DoesNotFitError if a device has too little memory for the step."""
    devices = topology(config.compile_only)
    report = compile_step(config, devices)
    device = hardware.of_kind(report.device_kind)
    for line in render(config, report, device):
        print(line)
    check_fits(config.compile_only, report, device)


def topology(name: str) -> list[Any]:
    """The devices of `v5e:16x16` (TPU generation, chips along each axis) or `cpu:8`. Raises InputError."""
    found = re.fullmatch(r"cpu:(\d+)|(\w+):\d+(x\d+)*", name)
    if not found:
        raise InputError(f"compile_only {name}: expected a topology such as v5e:16x16, v6e:4x4, v5p:2x2x2 or cpu:8")
    jax.config.update("jax_platforms", "cpu")  # no accelerator is touched, one that is there may be busy
    if found[1]:
        return _cpus(int(found[1]))
    from jax.experimental import topologies

    os.environ.update(NO_TPU)
    try:
        return list(topologies.get_topology_desc(name, "tpu").devices)
    except Exception as error:  # XLA's errors share no base class; all mean that there is no such topology to compile for
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"compile_only {name}: no such TPU topology, or libtpu (extra tpu) is missing ({reason})") from None


def _cpus(count: int) -> list[Any]:
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise InputError(f"compile_only cpu:{count}: this process has {len(devices)} CPU devices")
    return devices[:count]


def encoder_shape(name: str) -> EncoderConfig:
    """The shape of the encoder that init_from names; roberta-base and roberta-large are known without their files."""
    known = KNOWN.get(name.removeprefix("FacebookAI/"))
    return EncoderConfig.from_hf(known) if known else load_config(name)


def compile_step(config: TrainConfig, devices: list[Any]) -> Report:
    """Lowers and compiles the training step over `devices`. Raises InputError, or DoesNotFitError where the compiler gives up."""
    mesh = parallel.make_mesh(config.mesh, devices)
    encoder_config = encoder_shape(config.init_from)
    program = Program.create(config, encoder_config, mesh, NUM_STEPS)
    batch = abstract_batch(config, encoder_config, mesh)
    try:
        compiled = program.train_step.lower(program.abstract_state, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFitError(f"{config.compile_only}: {_needed(str(error))}") from None
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    costs = flops.training_costs(encoder_config, program.model.freeze_text, program.freeze_concept)
    return Report(
        device_kind=devices[0].device_kind,
        mesh=dict(mesh.shape),
        memory={
            "arguments": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
        },
        flops=cost.get("flops", 0.0),
        model_flops=flops.total(costs, full_rows(config, batch)) / mesh.size,
        bytes_accessed=cost.get("bytes accessed", 0.0),
        collectives=hlo.collectives(compiled.as_text(), SCOPES),
    )


def _needed(message: str) -> str:
    """The sentence of the compiler's message that holds the numbers, such as "Used 20.00G of 15.75G hbm"."""
    found = re.search(r"Used [\w.]+ of [\w.]+ hbm[^.\n]*", message)
    return f"the step does not fit a device ({found[0] if found else message.strip().splitlines()[0]})"


def abstract_batch(config: TrainConfig, encoder_config: EncoderConfig, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of dataset.loader.Batches for such a config. Raises InputError."""
    data, shards = config.data, parallel.num_data_shards(mesh)
    B, T, M = config.batch_size, data.row_length, data.mentions_per_row
    if not data.max_concepts:
        raise InputError("data.max_concepts has to be set: --compile_only sees no data to size the concepts from")
    if B % shards:
        raise InputError(f"batch_size {B} is not divisible by {shards} data shards")
    if T > encoder_config.max_length:
        raise InputError(f"data.row_length {T}, but {config.init_from} has {encoder_config.max_length} positions")
    table = ConceptTokens([Concept(i, "", "", 1, (0,) * data.concept_length) for i in range(data.max_concepts)])
    ids = np.arange(data.max_concepts)
    concepts = table.pack(ids, table.capacity([ids], data.concept_group, data.max_concepts))
    shapes = {name: ((shards * len(value), *value.shape[1:]), value.dtype) for name, value in concepts.items()}
    shapes |= {name: ((B, T), np.int32) for name in ("tokens", "segment_ids", "positions")}
    shapes |= {"text_mask": ((B, T), np.bool_), "mentions": ((B, M, 3), np.int32)}
    sharding = NamedSharding(mesh, parallel.BATCH)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, (shape, dtype) in shapes.items()}


def full_rows(config: TrainConfig, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, float]:
    """The sums of flops.py for a batch without padding: sentences as long as a row, every concept slot filled and visible."""
    positions, slots = config.batch_size * config.data.row_length, batch["concept_ids"].size
    concept_positions = slots * config.data.concept_length
    return {
        "positions": positions,
        "attended": positions * config.data.row_length,
        "concept_positions": concept_positions,
        "concept_attended": concept_positions * config.data.concept_length,
        "pairs": positions * min(slots, config.model.max_negatives or slots),
    }


def render(config: TrainConfig, report: Report, device: Hardware | None) -> list[str]:
    """The report as lines for people."""
    layout = " x ".join(f"{axis} {size}" for axis, size in report.mesh.items())
    shards = report.mesh["data"] * report.mesh["fsdp"]
    data = config.data
    lines = [
        f"{config.init_from} on {config.compile_only}: {int(np.prod(list(report.mesh.values())))} x {report.device_kind}, {layout}",
        f"{config.batch_size} rows of {data.row_length} tokens a step, {config.batch_size // shards} a shard; "
        f"{data.max_concepts} concepts of {data.concept_length} tokens a shard",
        "memory of a device, MiB",
    ]
    lines += [f"  {kind:<12} {size / 2**20:>10.1f}" for kind, size in report.memory.items()]
    of = f" of {device.memory_bytes / 2**20:.0f}" if device else ""
    lines += [f"  {'total':<12} {report.total_memory / 2**20:>10.1f}{of}", "work of a device in a step"]
    lines += [f"  {report.flops / 1e9:.1f} GFLOP by the compiler, {report.model_flops / 1e9:.1f} by the model (rows full)"]
    lines += [f"  {report.bytes_accessed / 2**20:.1f} MiB accessed by the compiler's count (a loop's body counts once)"]
    lines += ["collectives of a step: kind, devices of a group, times, MiB in all, MiB of the largest, where"]
    lines += [
        f"  {c.kind:<18} {c.group_size:>4} {c.count:>6} {c.bytes / 2**20:>11.3f} {c.largest / 2**20:>11.3f}  {c.origin}"
        for c in report.collectives
    ]
    if device:
        times = report.roofline(device)
        parts = ", ".join(f"{name} {1e3 * seconds:.2f}" for name, seconds in times.items())
        lines += [f"roofline: {1e3 * max(times.values()):.2f} ms a step ({parts})"]
    return lines


def check_fits(name: str, report: Report, device: Hardware | None) -> None:
    """Raises DoesNotFitError, with the numbers, if the step needs more memory than a device has."""
    if device and report.total_memory > device.memory_bytes:
        needed, there = report.total_memory / GiB, device.memory_bytes / GiB
        raise DoesNotFitError(f"{name}: the step needs {needed:.2f} GiB of the {there:.2f} GiB that a {report.device_kind} has")
