"""The dataset stage: annotated text to a TFDS data set of packed rows, with concept table, manifest and summary.

What happens to the sentences is in sentences.py; this module brings them there and the results to disk, on the cores of one machine.
Two builds of the same input are byte-equal.
"""

import json
import multiprocessing
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuner_jax.cli import Strs
from nuner_jax.config import DatasetConfig
from nuner_jax.dataset import concepts, records
from nuner_jax.dataset.manifest import build_manifest, describe_input, save_manifest
from nuner_jax.dataset.packing import TokenSpans
from nuner_jax.dataset.sentences import (
    Chunk,
    Encoded,
    concept_ids,
    encode_chunk,
    group_sentences,
    packed_records,
    read_chunks,
    shard_names,
    unique,
    with_ids,
)
from nuner_jax.dataset.summary import write_summary
from nuner_jax.dataset.tokenize import TextTokenizer
from nuner_jax.demo import REPLIES
from nuner_jax.errors import InputError
from nuner_jax.pretrained import load_tokenizer, resolve

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

    from transformers import PreTrainedTokenizerFast

MIN_CHUNKS_FOR_PROCESSES = 8  # less work is done sooner than a process starts


@dataclass
class Built:
    """What a build has counted, beside the shards that it has written."""

    table: Sequence[concepts.Concept] = ()
    shards: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # (rows, bytes) of each, by split
    sentences: int = 0
    tokens: int = 0
    mentions: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)  # texts by path


def build(config: DatasetConfig) -> Path:
    """Builds the data set of `config` and returns its folder; nothing is left under its name if the build fails.

    Raises InputError for unreadable input, input without a sentence, and settings that contradict each other.
    """
    check(config)
    config = replace(config, input=Strs(str(REPLIES) if name == "demo" else name for name in config.input))
    tokenizer = load_tokenizer(config.tokenizer)
    with replaced(records.dataset_folder(config.out)) as folder:
        built = build_locally(config, tokenizer, folder)
        records.write_metadata(folder, config.row_length, config.mentions_per_row, built.shards)
        concepts.save_table(folder / "concepts.jsonl", built.table)
        manifest = build_manifest(
            config,
            tokenizer,
            inputs=[describe_input(path, built.read[path]) for path in config.input],
            counts={
                "sentences": built.sentences,
                "mentions": built.mentions,
                "concepts": len(built.table),
                "tokens": built.tokens,
            },
            rows={split: sum(count for count, _ in sizes) for split, sizes in built.shards.items()},
            dropped=built.dropped,
        )
        save_manifest(folder / "manifest.json", manifest)
        write_summary(folder / "summary.md", manifest, built.table)
    return records.dataset_folder(config.out)


def build_locally(config: DatasetConfig, tokenizer: "PreTrainedTokenizerFast", folder: Path) -> Built:
    """Writes the shards on config.num_workers processes (0: one a core). Raises InputError if there is no sentence."""
    built = Built()
    chunks = read_chunks(config, config.input, built.dropped, built.read)
    with processes(config, tokenizer, chunks) as (pool, chunks):
        encoded = Encoded()
        for result in run(pool, _encode, chunks):
            encoded.add(result)
        built.dropped.update(encoded.dropped)
        built.read.update(encoded.read)
        sentences = unique(encoded.sentences, built.dropped)
        if not sentences:
            raise no_sentence(config, built.dropped)
        frequency = Counter([concept for _, sentence in sentences for _, _, concept in sentence.mentions])
        frequency = concept_ids(frequency, config.min_concept_count, built.dropped)
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


def no_sentence(config: DatasetConfig, dropped: Mapping[str, int]) -> InputError:
    """The error of a build that has nothing to write."""
    return InputError(f"{', '.join(config.input)}: no sentence to train on ({dict(dropped)})")


def build_table(
    config: DatasetConfig,
    tokenizer: "PreTrainedTokenizerFast",
    frequency: Mapping[str, int],
    descriptions: Mapping[tuple[str, str], int],
) -> list[concepts.Concept]:
    """The concept table as configured."""
    told = config.concept_text == "name_and_description"
    return concepts.build_table(frequency, descriptions, tokenizer, max_length=config.max_concept_length, with_description=told)


# What a process keeps between its jobs.
_config: DatasetConfig
_tokenizer: TextTokenizer


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
        with multiprocessing.get_context("spawn").Pool(workers, _start, (config, backend)) as pool:
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


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` at the end; after an error there is nothing of it.

    Raises InputError where it cannot be written.
    """
    partial_folder = folder.with_name(folder.name + ".partial")
    new = [parent for parent in folder.parents if not parent.exists()]
    try:
        shutil.rmtree(partial_folder, ignore_errors=True)
        partial_folder.mkdir(parents=True)
        yield partial_folder
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial_folder, folder)
    except BaseException as error:
        shutil.rmtree(partial_folder, ignore_errors=True)
        for parent in new:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from None
        raise


def check(config: DatasetConfig) -> None:
    """Raises InputError where settings cannot work, before anything is read."""
    if not config.input:
        raise InputError("input: name at least one file (--input FILE ...)")
    if config.merge != "none" and len(config.input) < 2:
        raise InputError(f"merge {config.merge} is about two or more inputs, one an annotator; there is {len(config.input)}")
    if not 8 <= config.row_length <= 32_767:
        raise InputError(f"row_length {config.row_length} is not between 8 and 32767")
    if config.mentions_per_row < 1:
        raise InputError(f"mentions_per_row {config.mentions_per_row} is below 1")
    if not 0 <= config.validation_fraction < 1:
        raise InputError(f"validation_fraction {config.validation_fraction} is not in [0, 1)")
    positions = json.loads((resolve(config.tokenizer) / "config.json").read_text(encoding="utf8")).get("max_position_embeddings")
    if positions and config.row_length > positions:
        raise InputError(f"row_length {config.row_length} exceeds the {positions} positions of {config.tokenizer}")
    out = records.dataset_folder(config.out).absolute()
    there = next(folder for folder in [out, *out.parents] if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"out {config.out}: cannot be written ({there} is no folder that this user may write)")
