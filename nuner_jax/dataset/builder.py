"""The dataset stage: annotated text to a TFDS data set of packed rows, with concept table, manifest and summary.

Sentences go to hash groups and are packed within their group, a shard a group; so the rows depend on the set of sentences
only, neither on their order nor on the number of workers, and two builds are byte-equal.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuner_jax.cli import Strs
from nuner_jax.config import DatasetConfig
from nuner_jax.dataset import concepts, records
from nuner_jax.dataset.importers import read_any
from nuner_jax.dataset.manifest import build_manifest, describe_input, save_manifest
from nuner_jax.dataset.merge import merge_texts
from nuner_jax.dataset.packing import TokenSpans, fill_row, pack
from nuner_jax.dataset.summary import write_summary
from nuner_jax.dataset.tokenize import tokenize
from nuner_jax.demo import REPLIES
from nuner_jax.errors import InputError
from nuner_jax.pretrained import load_tokenizer, resolve
from nuner_jax.schema import AnnotatedText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHUNK = 1_000  # sentences a worker takes at once
MIN_CHUNKS_FOR_PROCESSES = 8  # less work is done sooner than a process starts
SENTENCES_PER_GROUP = 20_000
MAX_GROUPS = 1_024


Group = tuple[str, int]  # (split, index of the shard)


@dataclass(slots=True)
class Encoded:
    """What is made of a chunk: (hash of the text, tokens and mentions by concept name) a sentence, and what was counted."""

    sentences: list[tuple[bytes, TokenSpans]] = field(default_factory=list)
    descriptions: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Encoded") -> None:
        """Takes in another chunk's."""
        self.sentences.extend(other.sentences)
        self.descriptions.update(other.descriptions)
        self.dropped.update(other.dropped)


def build(config: DatasetConfig) -> Path:
    """Builds the data set of `config` and returns its folder; nothing is left under its name if the build fails.

    Raises InputError for unreadable input, input without a sentence, and settings that contradict each other.
    """
    check(config)
    config = replace(config, input=Strs(str(REPLIES) if name == "demo" else name for name in config.input))
    tokenizer = load_tokenizer(config.tokenizer)
    dropped: Counter[str] = Counter()
    counts: Counter[int] = Counter()
    encoded = encode(config, read(config, dropped, counts))
    encoded.dropped.update(dropped)
    sentences = unique(encoded.sentences, encoded.dropped)
    frequency = count_concepts(sentences, config.min_concept_count, encoded.dropped)
    if not sentences:
        raise InputError(f"{', '.join(config.input)}: no sentence to train on ({dict(encoded.dropped)})")
    table = concepts.build_table(
        frequency,
        encoded.descriptions,
        tokenizer,
        max_length=config.max_concept_length,
        with_description=config.concept_text == "name_and_description",
    )
    groups = group_sentences(sentences, config)
    with replaced(records.dataset_folder(config.out)) as folder:
        shards = write_groups(config, folder, groups, {concept.name: concept.id for concept in table})
        records.write_metadata(folder, config.row_length, config.mentions_per_row, shards)
        concepts.save_table(folder / "concepts.jsonl", table)
        manifest = build_manifest(
            config,
            tokenizer,
            inputs=[describe_input(path, counts[i]) for i, path in enumerate(config.input)],
            counts={
                "sentences": len(sentences),
                "mentions": sum(len(sentence.mentions) for _, sentence in sentences),
                "concepts": len(table),
                "tokens": sum(len(sentence.tokens) for _, sentence in sentences),
            },
            rows={split: sum(count for count, _ in sizes) for split, sizes in shards.items()},
            dropped=encoded.dropped,
        )
        save_manifest(folder / "manifest.json", manifest)
        write_summary(folder / "summary.md", manifest, table)
    return records.dataset_folder(config.out)


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` at the end; after an error there is nothing of it.

    Raises InputError where it cannot be written.
    """
    partial_folder = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial_folder, ignore_errors=True)
        partial_folder.mkdir(parents=True)
        yield partial_folder
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial_folder, folder)
    except BaseException as error:
        shutil.rmtree(partial_folder, ignore_errors=True)
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


def read(config: DatasetConfig, dropped: Counter[str], counts: Counter[int]) -> Iterator[AnnotatedText]:
    """The sentences of all input files in order, merged if so configured, the first config.limit of them.

    `counts` gets the number of sentences that were read from each input.
    """

    def counted(index: int, path: str) -> Iterator[AnnotatedText]:
        for record in read_any(path, counts=dropped):
            counts[index] += 1
            yield record

    files = [counted(index, path) for index, path in enumerate(config.input)]
    how = config.merge
    everything = chain.from_iterable(files) if how == "none" else reduce(lambda a, b: merge_texts(a, b, how, dropped), files)
    return islice(everything, config.limit) if config.limit else everything


def encode_chunk(config: DatasetConfig, tokenizer: "PreTrainedTokenizerFast", chunk: Sequence[AnnotatedText]) -> Encoded:
    """Cleans and tokenises sentences: the part of the stage that needs no other sentence."""
    result = Encoded()
    cleaned = [concepts.clean(record, config.filter == "paper", result.dropped) for record in chunk]
    kept = [record for record in cleaned if record is not None]
    lengths = {"max_length": config.row_length, "max_mentions": config.mentions_per_row}
    for record, sentence in zip(kept, tokenize(kept, tokenizer, result.dropped, **lengths), strict=True):
        if sentence is not None:
            result.sentences.append((sentence_hash(record.text), sentence))
            result.descriptions.update((m.concept, m.description) for m in record.mentions if m.description)
    return result


def sentence_hash(text: str) -> bytes:
    """16 bytes that decide split, group and order of a sentence."""
    return hashlib.blake2b(text.encode("utf8", "surrogatepass"), digest_size=16).digest()


_worker: dict[str, Any] = {}  # what a worker process keeps between chunks


def _start_worker(config: DatasetConfig) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker["config"], _worker["tokenizer"] = config, load_tokenizer(config.tokenizer)


def _encode_in_worker(chunk: Sequence[AnnotatedText]) -> Encoded:
    return encode_chunk(_worker["config"], _worker["tokenizer"], chunk)


def encode(config: DatasetConfig, sentences: Iterable[AnnotatedText]) -> Encoded:
    """All sentences cleaned and tokenised, on config.num_workers processes (0: one a core); the order of input is kept."""
    iterator = iter(sentences)
    chunks = iter(lambda: list(islice(iterator, CHUNK)), [])
    first = list(islice(chunks, MIN_CHUNKS_FOR_PROCESSES))
    workers = config.num_workers or len(os.sched_getaffinity(0))
    total = Encoded()
    if workers == 1 or len(first) < MIN_CHUNKS_FOR_PROCESSES:
        _start_worker(config)
        for chunk in chain(first, chunks):
            total.add(_encode_in_worker(chunk))
        return total
    context = multiprocessing.get_context("spawn")  # the tokenizer's threads do not survive a fork
    with context.Pool(workers, _start_worker, (config,)) as pool:
        under_way: deque[Any] = deque()
        for chunk in chain(first, chunks):
            if len(under_way) > 2 * workers:  # reading does not run ahead of the workers
                total.add(under_way.popleft().get())
            under_way.append(pool.apply_async(_encode_in_worker, (chunk,)))
        for result in under_way:
            total.add(result.get())
    return total


def unique(sentences: Iterable[tuple[bytes, TokenSpans]], dropped: Counter[str]) -> list[tuple[bytes, TokenSpans]]:
    """Sorted by hash, the same text with the same mentions once."""
    ordered = sorted(sentences, key=lambda item: (item[0], item[1].mentions))
    kept: list[tuple[bytes, TokenSpans]] = []
    for key, sentence in ordered:
        if kept and kept[-1][0] == key and kept[-1][1].mentions == sentence.mentions:
            dropped["sentence: duplicate"] += 1
        else:
            kept.append((key, sentence))
    return kept


def count_concepts(sentences: list[tuple[bytes, TokenSpans]], min_count: int, dropped: Counter[str]) -> Counter[str]:
    """Mentions by concept; concepts below min_count are taken out of `sentences` in place."""
    frequency = Counter(concept for _, sentence in sentences for _, _, concept in sentence.mentions)
    rare = {concept for concept, count in frequency.items() if count < min_count}
    if rare:
        for i, (key, sentence) in enumerate(sentences):
            mentions = tuple(m for m in sentence.mentions if m[2] not in rare)
            dropped["mention: concept below min_concept_count"] += len(sentence.mentions) - len(mentions)
            sentences[i] = (key, TokenSpans(sentence.tokens, mentions))
        for concept in rare:
            del frequency[concept]
    return frequency


def group_sentences(sentences: Sequence[tuple[bytes, TokenSpans]], config: DatasetConfig) -> dict[Group, list[TokenSpans]]:
    """Sentences by (split, group), each decided by the hash of the text alone."""
    threshold = int(config.validation_fraction * 2**64)
    splits: dict[str, list[tuple[bytes, TokenSpans]]] = {"train": [], "validation": []}
    for item in sentences:
        splits["validation" if int.from_bytes(item[0][:8], "big") < threshold else "train"].append(item)
    if not splits["train"]:
        splits = {"train": splits["validation"], "validation": []}
    groups: dict[Group, list[TokenSpans]] = {}
    for split, members in splits.items():
        count = config.num_groups or min(MAX_GROUPS, -(-len(members) // SENTENCES_PER_GROUP))
        for key, sentence in members:
            groups.setdefault((split, int.from_bytes(key[8:], "big") % count), []).append(sentence)
    return dict(sorted(groups.items()))


def write_groups(
    config: DatasetConfig, folder: Path, groups: Mapping[Group, list[TokenSpans]], ids: Mapping[str, int]
) -> dict[str, list[tuple[int, int]]]:
    """Packs and writes a shard a group; returns (rows, bytes) of the shards by split. An empty group has no shard."""
    shards: dict[str, list[tuple[int, int]]] = {}
    count = Counter(split for split, _ in groups)
    for (split, _), members in groups.items():
        done = shards.setdefault(split, [])
        path = folder / records.shard_name(split, len(done), count[split])
        done.append(records.write_shard(path, packed_records(config, members, ids)))
    return shards


def packed_records(config: DatasetConfig, sentences: Sequence[TokenSpans], ids: Mapping[str, int]) -> Iterator[bytes]:
    """The serialised rows of one group."""
    lengths, counts = [len(s.tokens) for s in sentences], [len(s.mentions) for s in sentences]
    for row in pack(lengths, counts, config.row_length, config.mentions_per_row):
        members = [
            TokenSpans(sentences[i].tokens, tuple((first, last, ids[concept]) for first, last, concept in sentences[i].mentions))
            for i in row
        ]
        yield records.serialize(fill_row(members, config.row_length, config.mentions_per_row))
