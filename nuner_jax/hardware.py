"""What accelerators can do, by the name that JAX gives them: published peak rates, dense, of one device."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """Peak rates of a device as JAX counts them (a TPU chip from v4 on, a GPU)."""

    bf16_flops: float
    """Dense bfloat16 operations a second, accumulated in float32."""
    memory_bytes: float
    """Device memory."""
    memory_bandwidth: float
    """Bytes a second between memory and cores."""
    link_bandwidth: float = 0.0
    """Bytes a second that a device sends to its neighbours, over all links; 0: not a torus, depends on the machine."""


GiB = 2**30
# Pattern of jax.Device.device_kind -> rates. TPU: Google Cloud's system architecture pages (links: one direction, all of a chip's).
# GPU: NVIDIA's data sheets, without sparsity.
TABLE: list[tuple[str, Hardware]] = [
    (r"TPU v4$", Hardware(275e12, 32 * GiB, 1.228e12, 6 * 45e9)),
    (r"TPU v5( lite|e)$", Hardware(197e12, 16 * GiB, 0.819e12, 4 * 45e9)),
    (r"TPU v5p?$", Hardware(459e12, 95 * GiB, 2.765e12, 6 * 90e9)),
    (r"TPU v6( lite|e)$", Hardware(918e12, 32 * GiB, 1.64e12, 4 * 90e9)),
    (r"H200", Hardware(989e12, 141e9, 4.8e12)),
    (r"H100 PCIe", Hardware(756e12, 80e9, 2.0e12)),
    (r"H100 NVL", Hardware(835e12, 94e9, 3.9e12)),
    (r"H100", Hardware(989e12, 80e9, 3.35e12)),
    (r"A100.*80GB", Hardware(312e12, 80e9, 1.935e12)),
    (r"A100", Hardware(312e12, 40e9, 1.555e12)),
    (r"L40S", Hardware(362e12, 48e9, 0.864e12)),
    (r"\bL4\b", Hardware(121e12, 24e9, 0.3e12)),
    (r"\bA10\b", Hardware(125e12, 24e9, 0.6e12)),
    (r"RTX 4090", Hardware(165e12, 24e9, 1.008e12)),
    (r"RTX 3090$", Hardware(71e12, 24e9, 0.936e12)),
]


def of_kind(device_kind: str) -> Hardware | None:
    """The rates of a jax.Device.device_kind; None for a CPU or a device that is not in the table."""
    for pattern, hardware in TABLE:
        if re.search(pattern, device_kind):
            return hardware
    return None
