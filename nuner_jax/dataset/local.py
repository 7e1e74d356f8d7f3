"""The dataset stage on the cores of one machine."""

import gc
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuner_jax.config import DatasetConfig
from nuner_jax.dataset import records
from nuner_jax.dataset.packing import TokenSpans
from nuner_jax.dataset.sentences import (
    Built,
    Chunk,
    Encoded,
    build_table,
    concept_ids,
    encode_chunk,
    group_sentences,
    packed_records,
    read_chunks,
    shard_names,
    unique,
    with_ids,
)
from nuner_jax.dataset.tokenize import TextTokenizer

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

    from transformers import PreTrainedTokenizerFast

MIN_CHUNKS_FOR_PROCESSES = 8  # less work is done sooner than a process starts


def build_locally(config: DatasetConfig, tokenizer: "PreTrainedTokenizerFast", folder: Path) -> Built:
    """Writes the shards on config.num_workers processes (0: one a core). Raises InputError for input that is broken."""
    built = Built()
    chunks = read_chunks(config, config.input, built.dropped, built.read)
    with no_search_for_cycles(), processes(config, tokenizer, chunks) as (pool, chunks):
        encoded = Encoded()
        for result in run(pool, _encode, chunks):
            encoded.add(result)
        built.dropped.update(encoded.dropped)
        built.read.update(encoded.read)
        sentences = unique(encoded.sentences, built.dropped)
        frequency = Counter([concept for _, sentence in sentences for _, _, concept in sentence.mentions])
        frequency = concept_ids(frequency, config, built.dropped)
        built.table = build_table(config, tokenizer, frequency, encoded.descriptions)
        built.sentences, built.mentions = len(sentences), frequency.total()
        built.tokens = sum([len(sentence.tokens) for _, sentence in sentences])
        ids = {concept.name: concept.id for concept in built.table}
        groups = group_sentences(sentences, config)
        names = shard_names(groups)
        jobs = ((str(folder / names[group]), with_ids(members, ids)) for group, members in groups.items())
        for (split, _), size in zip(groups, run(pool, _write, jobs), strict=True):
            built.shards.setdefault(split, []).append(size)
    return built


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


def _start_worker(config: DatasetConfig, backend: Any) -> None:
    gc.disable()
    _start(config, backend)


def _start(config: DatasetConfig, backend: Any) -> None:
    global _config, _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _config, _tokenizer = config, TextTokenizer(backend)


def _encode(chunk: Chunk) -> Encoded:
    return encode_chunk(_config, _tokenizer, chunk)


def _write(job: tuple[str, list[TokenSpans]]) -> tuple[int, int]:
    path, sentences = job
    return records.write_shard(Path(path), packed_records(sentences, _config.row_length, _config.mentions_per_row))


@contextmanager
def processes(
    config: DatasetConfig, tokenizer: "PreTrainedTokenizerFast", chunks: Iterator[Chunk]
) -> Iterator[tuple["Pool | None", Iterator[Chunk]]]:
    """Worker processes if there is work for several, else none; and the chunks, of which some had to be read to know."""
    first = list(islice(chunks, MIN_CHUNKS_FOR_PROCESSES))
    chunks = chain(first, chunks)
    workers = config.num_workers or len(os.sched_getaffinity(0))
    # A tokenizer of its own, as ours may not be changed; as text, as its threads do not survive a fork.
    backend = tokenizer.backend_tokenizer
    if workers == 1 or len(first) < MIN_CHUNKS_FOR_PROCESSES:
        _start(config, backend)
        yield None, chunks
    else:
        with multiprocessing.get_context("spawn").Pool(workers, _start_worker, (config, backend)) as pool:
            yield pool, chunks


def run(pool: "Pool | None", function: Any, jobs: Iterable[Any]) -> Iterator[Any]:
    """The results of the jobs in their order; jobs are not made far ahead of the workers."""
    if pool is None:
        yield from map(function, jobs)
        return
    under_way: deque[Any] = deque()
    for job in jobs:
        under_way.append(pool.apply_async(function, (job,)))
        if len(under_way) > 2 * pool._processes + 2:  # type: ignore[attr-defined]
            yield under_way.popleft().get()
    while under_way:
        yield under_way.popleft().get()
