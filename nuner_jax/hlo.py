"""Collectives of a compiled program, read from its HLO text: what devices say to each other in one execution."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all", "ragged-all-to-all")
KINDS += ("collective-broadcast",)
BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8} | {f"{s}{8 * n}": n for s in "su" for n in (1, 2, 4, 8)}


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind, group size and origin in one execution."""

    kind: str
    group_size: int
    """Devices that take part in each."""
    origin: str
    """The named scope of the program that it comes from."""
    count: int
    """Executions; those in a loop with a known number of rounds count that often."""
    bytes: int
    """Sum of the sizes of the whole arrays: what an all-gather results in, what is given to a reduction, what is passed on."""
    largest: int
    """Bytes of the largest of them."""

    @property
    def wire_bytes(self) -> float:
        """Bytes that a device sends at least."""
        share = (self.group_size - 1) / self.group_size
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return factor * self.bytes


class Instruction(NamedTuple):
    """One line of a computation."""

    type: str
    opcode: str
    rest: str


@dataclass
class _Computation:
    name: str
    instructions: list[Instruction] = field(default_factory=list)


_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.+?) ([a-z][\w\-]*)\((.*)$")
_CALLS = re.compile(r"(body|calls|to_apply|true_computation|false_computation|branch_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


def collectives(text: str, scopes: tuple[str, ...] = ()) -> list[Collective]:
    """The collectives of a compiled module (`compiled.as_text()`), the largest sums first.

    An origin is the first of `scopes` (jax.named_scope) in the instruction's path, with "backward" if it was transposed.
    """
    computations, entry = _parse(text)
    devices = re.search(r"num_partitions=(\d+)", text)
    groups: dict[tuple[str, int, str], list[tuple[int, int]]] = {}
    chains: set[tuple[str, str, str]] = set()
    for name, times in _executions(computations, entry).items():
        for instruction in computations[name].instructions:
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            chain = re.search(r"channel_id=(\d+).*chain_id=\"(\d+)\"", instruction.rest)
            if chain and (kind, chain[1], chain[2]) in chains:
                continue  # the next stretch of one that runs beside several fusions
            if chain:
                chains.add((kind, chain[1], chain[2]))
            size = _size(kind, instruction)
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"  # an all-reduce of which each device keeps its part, as TPUs fuse it
            group = _group_size(instruction.rest, int(devices[1]) if devices else 1)
            if kind == "reduce-scatter" and instruction.opcode.startswith("reduce-scatter"):
                size *= group  # the result is a part of what is given
            groups.setdefault((kind, group, _origin(instruction.rest, scopes)), []).append((times, size))
    found = [
        Collective(*key, sum(n for n, _ in sizes), sum(n * size for n, size in sizes), max(size for _, size in sizes))
        for key, sizes in groups.items()
    ]
    return sorted(found, key=lambda c: -c.bytes)


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations[header[2]] = _Computation(header[2])
            entry = header[2] if header[1] else entry
        elif current is not None:
            found = _INSTRUCTION.match(line)
            if found:
                current.instructions.append(Instruction(*found.groups()))
    return computations, entry


def _executions(computations: dict[str, _Computation], entry: str) -> dict[str, int]:
    """How often each computation runs in one execution of the program."""
    times: dict[str, int] = {}

    def run(name: str, count: int) -> None:
        times[name] = times.get(name, 0) + count
        for instruction in computations[name].instructions:
            for called, rounds in _called(instruction):
                if called in computations:
                    run(called, count * rounds)

    run(entry, 1)
    return times


def _called(instruction: Instruction) -> Iterator[tuple[str, int]]:
    if instruction.opcode.endswith(("-done", "-update")):
        return  # the second half of what its -start has called
    rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.rest)
    for role, several, one in _CALLS.findall(instruction.rest):
        for name in several.split(",") if several else [one]:
            yield name.strip().lstrip("%"), int(rounds[1]) if rounds and role == "body" else 1


def _size(kind: str, instruction: Instruction) -> int:
    """Bytes of the arrays that a collective is about."""
    sizes = [
        BYTES.get(dtype, 4) * math.prod(int(n) for n in dims.split(",") if n) for dtype, dims in _ARRAY.findall(instruction.type)
    ]
    if instruction.opcode.endswith("-start") and kind in ("all-gather", "collective-permute") and len(sizes) > 1:
        # (operands, results, and for a permute two counters)
        sizes = [size for size in sizes if size > 4] or sizes
        return sum(sizes[len(sizes) // 2 :])
    return sum(sizes)


def _group_size(rest: str, num_devices: int) -> int:
    if "source_target_pairs=" in rest:
        return 2
    shape = re.search(r"replica_groups=\[\d+,(\d+)\]", rest)
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    axes = re.search(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}", rest)
    if axes:
        sizes = dict(part.split("=") for part in axes[1].split(","))
        return math.prod(int(sizes[name.strip()]) for name in axes[2].split(",") if name.strip())
    return int(shape[1]) if shape else len(listed[1].split(",")) if listed else num_devices


def _origin(rest: str, scopes: tuple[str, ...]) -> str:
    path = re.search(r'op_name="([^"]*)"', rest)
    name = next((scope for scope in scopes if path and re.search(rf"\b{scope}\b", path[1])), "")
    return f"{name}, backward" if name and path and "transpose(" in path[1] else name
