"""The dataset stage on the cores of one machine.

Sentences pass between processes, and wait for their group, as bytes that this process never opens: the hash of the text, then
tokens and mentions. What it has to know of them, the workers have counted.
"""

import gc
import marshal
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nuner_jax.config import DatasetConfig
from nuner_jax.dataset import records
from nuner_jax.dataset.backend import Backend
from nuner_jax.dataset.packing import TokenSpans
from nuner_jax.dataset.sentences import (
    HASH_BYTES,
    Built,
    Chunk,
    Encoded,
    Group,
    Keyed,
    build_table,
    concept_ids,
    encode_chunk,
    group_of,
    ordered,
    packed_records,
    read_chunks,
    shard_names,
    split_of,
    with_ids,
)
from nuner_jax.dataset.tokenize import TextTokenizer
from nuner_jax.errors import NunerError

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

MIN_CHUNKS_FOR_PROCESSES = 8  # less work is done sooner than a process starts


def build_locally(config: DatasetConfig, backend: Backend, folder: Path) -> Built:
    """Writes the shards on config.num_workers processes (0: one a core). Raises InputError for input that is broken."""
    built = Built()
    chunks = read_chunks(config, config.input, built.dropped, built.read)
    with no_search_for_cycles(), processes(config, backend, chunks) as (pool, chunks):
        total = Encoded()
        frequency: Counter[str] = Counter()
        sentences: set[bytes] = set()
        for encoded, stored in run(pool, _encode, chunks):
            total.add(encoded)
            fresh = _without_doubles(stored, sentences, built.dropped)
            frequency.update(stored.frequency if fresh is stored.sentences else _frequency(map(_restored, fresh)))
        built.dropped.update(total.dropped)
        built.read.update(total.read)
        frequency = concept_ids(frequency, config, built.dropped)
        built.table = build_table(config, backend, frequency, total.descriptions)
        built.sentences, built.mentions = len(sentences), frequency.total()
        ids = pickle.dumps({concept.name: concept.id for concept in built.table})
        groups = _groups(sentences, config)
        del sentences
        names = shard_names(groups)
        jobs = ((str(folder / names[group]), ids, members) for group, members in groups.items())
        for (split, _), (size, tokens) in zip(groups, run(pool, _write, jobs), strict=True):
            built.shards.setdefault(split, []).append(size)
            built.tokens += tokens
    return built


class Stored(NamedTuple):
    """The sentences of a chunk as bytes, and how many mentions of each concept they have."""

    sentences: list[bytes]
    frequency: Counter[str]


def _stored(item: Keyed) -> bytes:
    key, (tokens, mentions) = item
    return key + marshal.dumps((tokens, mentions), 2)  # from version 3 on equal values may differ in their bytes


def _restored(stored: bytes) -> Keyed:
    tokens, mentions = marshal.loads(memoryview(stored)[HASH_BYTES:])
    return stored[:HASH_BYTES], TokenSpans(array("i", tokens), mentions)


def _frequency(sentences: Iterable[Keyed]) -> Counter[str]:
    return Counter([concept for _, sentence in sentences for _, _, concept in sentence.mentions])


def _without_doubles(stored: Stored, seen: set[bytes], dropped: Counter[str]) -> list[bytes]:
    """The sentences that are not in `seen`, to which they are added; the list itself if these are all."""
    before = len(seen)
    fresh = [item for item in dict.fromkeys(stored.sentences) if item not in seen]
    seen.update(fresh)
    if lost := len(stored.sentences) - (len(seen) - before):
        dropped["sentence: duplicate"] += lost
        return fresh
    return stored.sentences


def _groups(sentences: Iterable[bytes], config: DatasetConfig) -> dict[Group, list[bytes]]:
    """Sentences by (split, group), each decided by the hash of the text alone."""
    sizes = Counter([split_of(item, config.validation_fraction) for item in sentences])
    groups: dict[Group, list[bytes]] = {}
    for item in sentences:
        groups.setdefault(group_of(item, config.validation_fraction, sizes, config.num_groups), []).append(item)
    return dict(sorted(groups.items()))


# What a process keeps between its jobs.
_config: DatasetConfig
_tokenizer: TextTokenizer


@contextmanager
def no_search_for_cycles() -> Iterator[None]:
    """The garbage collector off: among millions of small objects that hold each other in no circle it costs a third of the time."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _start_worker(config: DatasetConfig, tokenizer: Any) -> None:
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _start(config, tokenizer)


def _start(config: DatasetConfig, tokenizer: Any) -> None:
    global _config, _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _config, _tokenizer = config, TextTokenizer(tokenizer)


def _encode(chunk: Chunk) -> tuple[Encoded, Stored]:
    encoded = encode_chunk(_config, _tokenizer, chunk)
    sentences, encoded.sentences = encoded.sentences, []
    return encoded, Stored(list(map(_stored, sentences)), _frequency(sentences))


def _write(job: tuple[str, bytes, list[bytes]]) -> tuple[tuple[int, int], int]:
    """Writes a shard; returns its size and the tokens in it."""
    path, ids, stored = job
    sentences = with_ids([sentence for _, sentence in ordered(map(_restored, stored))], _unpickled(ids))
    size = records.write_shard(Path(path), packed_records(sentences, _config.row_length, _config.mentions_per_row))
    return size, sum([len(sentence.tokens) for sentence in sentences])


@lru_cache(maxsize=1)
def _unpickled(ids: bytes) -> dict[str, int]:
    return pickle.loads(ids)


@contextmanager
def processes(
    config: DatasetConfig, backend: Backend, chunks: Iterator[Chunk]
) -> Iterator[tuple["Pool | None", Iterator[Chunk]]]:
    """Worker processes if there is work for several, else none; and the chunks, of which some had to be read to know."""
    first = list(islice(chunks, MIN_CHUNKS_FOR_PROCESSES))
    chunks = chain(first, chunks)
    workers = config.num_workers or len(os.sched_getaffinity(0))
    if workers == 1 or len(first) < MIN_CHUNKS_FOR_PROCESSES:
        _start(config, backend.tokenizer)
        yield None, chunks
    else:
        with _context().Pool(workers, _start_worker, (config, backend.tokenizer)) as pool:
            yield pool, chunks


def _context() -> Any:
    """How processes start: as a copy of this one, at once, unless it has threads, of which a copy would be left without."""
    threads = threading.active_count() > 1 or {"jax", "torch", "tensorflow", "grpc"} & sys.modules.keys()
    return multiprocessing.get_context("spawn" if threads or sys.platform != "linux" else "fork")


def run(pool: "Pool | None", function: Any, jobs: Iterable[Any]) -> Iterator[Any]:
    """The results of the jobs in their order; jobs are not made far ahead of the workers. Raises NunerError if a worker dies."""
    if pool is None:
        yield from map(function, jobs)
        return
    workers = [*pool._pool]  # type: ignore[attr-defined]
    under_way: deque[Any] = deque()
    for job in jobs:
        under_way.append(pool.apply_async(function, (job,)))
        if len(under_way) > 2 * len(workers) + 2:
            yield _result(under_way.popleft(), workers)
    while under_way:
        yield _result(under_way.popleft(), workers)


def _result(result: Any, workers: list[Any]) -> Any:
    """Waits as long as all workers live: a pool replaces a dead one, but not the job that it had."""
    while True:
        try:
            return result.get(timeout=1)
        except multiprocessing.TimeoutError:
            if dead := [worker for worker in workers if not worker.is_alive()]:
                status = dead[0].exitcode
                raise NunerError(
                    f"a worker process ended (status {status}); where memory is short, fewer num_workers need less"
                ) from None
