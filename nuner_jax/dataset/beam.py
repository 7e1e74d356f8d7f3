"""The dataset stage as an Apache Beam pipeline: what sentences.py does, on whatever runner the user has.

Sentences are spread by the hash of their text, first to find those that are there twice, then to be packed in their hash groups.
Counts are summed under keys such as ("dropped", reason), so that one sum serves all of them. What a user can mend (a broken line,
a full disk) travels as a message to the end of the pipeline, as a runner would try again and then show a traceback.
"""

# Beam has an environment of its own.
# pyright: reportMissingImports=false

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from nuner_jax import files
from nuner_jax.config import DatasetConfig
from nuner_jax.dataset import concepts, records, sentences
from nuner_jax.dataset.backend import Backend
from nuner_jax.dataset.sentences import Built, Group
from nuner_jax.dataset.tokenize import TextTokenizer
from nuner_jax.errors import InputError

REPORT = "built.json"
"""What the pipeline has counted, from whoever wrote it to the process that started the pipeline."""

Count = tuple[tuple[str, Hashable], int]


def build_on_beam(config: DatasetConfig, backend: Backend, folder: str) -> Built:
    """Writes the shards to the folder or address. Raises InputError for broken input, missing extra, wrong flags."""
    with _pipeline(config) as pipeline:
        _add_steps(pipeline, config, backend, folder)
    place = f"{folder}/{REPORT}"
    with files.open_text(place) as file:
        report = json.load(file)
    system, inner = files.file_system(place)
    system.rm(inner)
    if report["errors"]:
        raise InputError(min(report["errors"])[1])
    counts: dict[str, Counter[Any]] = {kind: Counter() for kind in ("dropped", "read", "total")}
    for kind, key, n in report["counts"]:
        counts[kind][key] = n
    shards: dict[str, list[tuple[int, int]]] = {}
    for split, _, rows, size in sorted(report["shards"]):
        shards.setdefault(split, []).append((rows, size))
    table = [concepts.Concept(*row[:4], tokens=tuple(row[4])) for row in report["table"]]
    total = counts["total"]
    numbers = {"sentences": total["sentences"], "tokens": total["tokens"], "mentions": total["mentions"]}
    return Built(table, shards, **numbers, dropped=counts["dropped"], read=counts["read"])


def _pipeline(config: DatasetConfig) -> Any:
    """A pipeline with the flags of config.beam_args. Raises InputError."""
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise InputError(f"runner beam needs the extra beam: pip install 'nuner-jax[beam]' ({error})") from None
    flags = [flag if flag.startswith("--") else f"--{flag}" for flag in config.beam_args]
    try:
        return apache_beam.Pipeline(options=PipelineOptions(flags))
    except (ValueError, ImportError, SystemExit) as error:
        raise InputError(f"beam_args {' '.join(config.beam_args)}: {error}") from None


def _add_steps(pipeline: Any, config: DatasetConfig, backend: Backend, folder: str) -> None:
    import apache_beam as beam
    from apache_beam.pvalue import AsIter, AsSingleton

    def step(name: str, function: Callable[..., Any], *args: Any) -> Any:
        """A step whose outputs carry a tag: the values without one, counts and errors."""
        return name >> beam.FlatMap(function, *args).with_outputs("counts", "errors", main="values")

    together = config.merge != "none" or config.limit > 0  # then a file is not read without the others
    jobs = [tuple(config.input)] if together else [(path,) for path in config.input]
    chunks = pipeline | "files" >> beam.Create(list(enumerate(jobs))) | step("read", _read, config)
    encoded = chunks["values"] | beam.Reshuffle() | step("encode", _encode, config, backend.tokenizer.to_str())
    unique = encoded["values"] | "by text" >> beam.GroupByKey() | step("unique", _unique, config)
    counted = (chunks["counts"], encoded["counts"], unique["counts"]) | "all counts" >> beam.Flatten()
    counts = counted | "sum" >> beam.CombinePerKey(sum)

    def only(*kinds: str) -> Any:
        return AsIter(counts | f"only {'and '.join(kinds)}" >> beam.Filter(lambda count: count[0][0] in kinds))

    start = pipeline | "start" >> beam.Create([None])
    table = start | "table" >> beam.Map(_table, config, backend, only("concept"), only("description"))
    by_group = unique["values"] | "group" >> beam.Map(_with_group, config, only("split")) | "by group" >> beam.GroupByKey()
    groups = AsIter(by_group | "groups" >> beam.Keys())
    shards = by_group | step("pack", _pack, config, folder, AsSingleton(table), groups)
    errors = (chunks["errors"], encoded["errors"], shards["errors"]) | "all errors" >> beam.Flatten()
    told = (only("dropped", "read", "total"), AsSingleton(table), AsIter(shards["values"]), AsIter(errors))
    _ = start | "report" >> beam.Map(_report, f"{folder}/{REPORT}", *told)


def _counts(kind: str, counter: Counter[Any]) -> Iterator[Any]:
    from apache_beam.pvalue import TaggedOutput

    for key, n in counter.items():
        yield TaggedOutput("counts", ((kind, key), n))


def _failed(order: Any, error: Exception) -> Any:
    from apache_beam.pvalue import TaggedOutput

    return TaggedOutput("errors", (order, str(error)))


def _read(job: Any, config: DatasetConfig) -> Iterator[Any]:
    """(place in the order of the input, chunk) of files."""
    number, paths = job
    dropped: Counter[str] = Counter()
    read: Counter[str] = Counter()
    position = -1
    try:
        for position, chunk in enumerate(sentences.read_chunks(config, paths, dropped, read)):
            yield (number, position), chunk
    except InputError as error:
        yield _failed((0, number, position + 1), error)
    yield from _counts("dropped", dropped)
    yield from _counts("read", read)


@lru_cache(maxsize=1)
def _text_tokenizer(tokenizer: str) -> TextTokenizer:
    """One a process."""
    from tokenizers import Tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return TextTokenizer(Tokenizer.from_str(tokenizer))


def _encode(item: Any, config: DatasetConfig, tokenizer: str) -> Iterator[Any]:
    """(hash, sentence)."""
    order, chunk = item
    try:
        encoded = sentences.encode_chunk(config, _text_tokenizer(tokenizer), chunk)
    except InputError as error:
        yield _failed((0, *order), error)
        return
    for key, sentence in encoded.sentences:
        yield key, tuple(sentence)
    yield from _counts("dropped", encoded.dropped)
    yield from _counts("read", encoded.read)
    yield from _counts("description", encoded.descriptions)


def _unique(item: Any, config: DatasetConfig) -> Iterator[Any]:
    """The different sentences of one text."""
    key, same = item
    dropped: Counter[str] = Counter()
    kept = sentences.unique([(key, sentences.TokenSpans(*sentence)) for sentence in same], dropped)
    for _, sentence in kept:
        yield key, tuple(sentence)
    yield from _counts("dropped", dropped)
    yield from _counts("split", Counter({sentences.split_of(key, config.validation_fraction): len(kept)}))
    yield from _counts("concept", Counter([concept for _, sentence in kept for _, _, concept in sentence.mentions]))
    tokens = sum(len(sentence.tokens) for _, sentence in kept)
    yield from _counts("total", Counter({"sentences": len(kept), "tokens": tokens}))


def _by_key(counts: Iterable[Count]) -> Counter[Any]:
    return Counter({key: n for (_, key), n in counts})


def _table(_: None, config: DatasetConfig, backend: Backend, frequency: Iterable[Count], descriptions: Iterable[Count]) -> Any:
    """The concept table, and the mentions that are dropped for want of company."""
    dropped: Counter[str] = Counter()
    mentions, told = (_by_key(counts) for counts in (frequency, descriptions))
    kept = sentences.concept_ids(mentions, config, dropped)
    return sentences.build_table(config, backend, kept, told), dropped


def _with_group(item: Any, config: DatasetConfig, sizes: Iterable[Count]) -> Any:
    """((split, group), (hash, sentence))."""
    return sentences.group_of(item[0], config.validation_fraction, _by_key(sizes), config.num_groups), item


def _pack(item: Any, config: DatasetConfig, folder: str, made: Any, groups: Iterable[Group]) -> Iterator[Any]:
    """(split, number of the group, rows, bytes) of a shard that has been written."""
    (split, number), members = item
    ids = {concept.name: concept.id for concept in made[0]}
    ordered = sentences.ordered([(key, sentences.TokenSpans(*sentence)) for key, sentence in members])
    rows = partial(sentences.packed_records, row_length=config.row_length, mentions_per_row=config.mentions_per_row)
    name = sentences.shard_names(groups)[split, number]
    try:
        written = _write_shard(folder, name, rows(sentences.with_ids([sentence for _, sentence in ordered], ids)))
    except (OSError, InputError) as error:
        yield _failed((1, split, number), InputError(f"{folder}/{name}: cannot be written ({error})"))
        return
    yield split, number, *written


def _write_shard(folder: str, name: str, rows: Iterable[bytes]) -> tuple[int, int]:
    """Writes a shard whole or not at all, as a runner may write it twice at once. Returns its (rows, bytes)."""
    if not files.is_address(folder):
        with tempfile.TemporaryDirectory(dir=folder) as private:
            written = records.write_shard(Path(private) / name, rows)
            os.replace(Path(private) / name, Path(folder) / name)
        return written
    system, inner = files.file_system(f"{folder}/{name}")
    with tempfile.TemporaryDirectory() as private:
        written = records.write_shard(Path(private) / name, rows)
        system.put_file(str(Path(private) / name), inner)
    return written


def _report(_: None, place: str, counts: Iterable[Count], made: Any, shards: Iterable[Any], errors: Iterable[Any]) -> None:
    """Writes what the starting process has to know."""
    table, dropped = made
    mentions = sum(concept.frequency for concept in table)
    found: list[Sequence[Any]] = [(kind, key, n) for (kind, key), n in counts]
    found += [("dropped", reason, n) for reason, n in dropped.items()] + [("total", "mentions", mentions)]
    rows = [(c.id, c.name, c.description, c.frequency, c.tokens) for c in table]
    report = {"errors": list(errors), "counts": found, "shards": list(shards), "table": rows}
    system, inner = files.file_system(place)
    system.pipe_file(inner, json.dumps(report).encode())
