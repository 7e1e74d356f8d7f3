"""Devices: the mesh (data, fsdp, tensor), where each parameter lives on it, and batches from host to devices.

One table says how parameters are split; the step itself is written for one device and partitioned by `jax.jit`.
"""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from nuner_jax.config import DistributedConfig, MeshConfig
from nuner_jax.errors import InputError

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))

# Parameter path -> how it is split. D width, F MLP width, V vocabulary; exactly one row fits each parameter.
RULES: list[tuple[str, P]] = [
    (r"embeddings/(word|position|token_type)", P(None, "fsdp")),  # [V, D]
    (r"qkv/kernel", P("fsdp", None, "tensor")),  # [D, 3, D]
    (r"qkv/bias", P(None, "tensor")),  # [3, D]
    (r"attention_output/kernel", P("tensor", "fsdp")),  # [D, D]
    (r"mlp_input/kernel", P("fsdp", "tensor")),  # [D, F]
    (r"mlp_input/bias", P("tensor")),  # [F]
    (r"mlp_output/kernel", P("tensor", "fsdp")),  # [F, D]
    (r"(attention_output|mlp_output)/bias", P()),  # [D]
    (r"norm/(scale|bias)", P()),  # [D]
    (r"logit_(scale|bias)", P()),  # []
    (r"head/kernel", P("fsdp")),  # [D, N]
    (r"head/bias", P()),  # [N]
]


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """The mesh over `devices` (default: all). Raises InputError, with the numbers, if they cannot be laid out so."""
    devices = list(jax.devices()) if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise InputError(f"mesh: sizes {sizes} must be positive, one of them at most -1")
    known = int(np.prod([size for size in sizes if size != -1]))
    if len(devices) % known or (-1 not in sizes and known != len(devices)):
        layout = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
        raise InputError(f"mesh: {layout} does not fit {len(devices)} devices")
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def num_data_shards(mesh: Mesh) -> int:
    """Parts that the batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def spec_of(path: str) -> P:
    """The row of RULES for a parameter path such as text/layers/0/qkv/kernel. Raises KeyError if not exactly one row fits."""
    fits = [spec for pattern, spec in RULES if re.search(rf"(^|/|_){pattern}$", path)]
    if len(fits) != 1:
        raise KeyError(f"{len(fits)} sharding rules fit parameter {path}, expected 1")
    return fits[0]


def param_shardings(tree: Any, mesh: Mesh) -> Any:
    """Shardings for parameters, or anything that holds parameter trees (optimizer state): scalars and counters are replicated.

    A leaf is recognised by the end of its path; a dimension that an axis does not divide stays whole.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        if leaf.ndim == 0:
            return NamedSharding(mesh, P())
        spec = spec_of("/".join(str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path))
        return NamedSharding(
            mesh, P(*(axis if _divides(mesh, axis, n) else None for axis, n in zip(spec, leaf.shape, strict=False)))
        )

    return jax.tree.map_with_path(sharding, tree)


def _divides(mesh: Mesh, axis: str | None, size: int) -> bool:
    return axis is not None and size % mesh.shape[axis] == 0


def local_shards(mesh: Mesh) -> list[int]:
    """The parts of the batch that this process's devices hold, in order."""
    tensor = mesh.shape["tensor"]
    own = [i for i, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    return sorted({i // tensor for i in own})


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, shards: list[int]) -> dict[str, jax.Array]:
    """This process's `shards` of a batch, one after another in its arrays, onto its devices as part of the global batch."""
    sharding, total = NamedSharding(mesh, BATCH), num_data_shards(mesh)
    place = {shard: i for i, shard in enumerate(shards)}

    def put(value: np.ndarray) -> jax.Array:
        size = len(value) // len(shards)

        def part(index: Any) -> np.ndarray:  # a tuple of slices
            start = place[(index[0].start or 0) // size] * size
            return value[start : start + size]

        return jax.make_array_from_callback((size * total, *value.shape[1:]), sharding, part)

    return {name: put(value) for name, value in batch.items()}


def to_host(tree: Any, mesh: Mesh) -> Any:
    """Whole arrays on the host of every process, however they are split. All processes have to call it."""
    return jax.device_get(jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))(tree))


def initialize(config: DistributedConfig) -> None:
    """Joins the processes of a multi-host run. Raises InputError if the settings are incomplete. Where a peer never comes JAX ends
    the process itself (SIGABRT, 134), which launchers take for a failure worth another start.

    auto: from the environment (TPU pod, Slurm, Open MPI, Kubernetes); explicit: from the config; off: one process.
    """
    if config.kind == "off":
        return
    settings: dict[str, Any] = {}
    if config.kind == "explicit":
        settings = {name: getattr(config, name) for name in ("coordinator_address", "num_processes", "process_id")}
        missing = [name for name, value in settings.items() if value in (None, "")]
        if missing:
            raise InputError(f"distributed.kind explicit needs distributed.{missing[0]}")
    try:
        jax.distributed.initialize(**settings, heartbeat_timeout_seconds=config.heartbeat_seconds)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"distributed: {str(error).splitlines()[0]}") from None
