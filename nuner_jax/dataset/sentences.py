"""What happens to sentences between a file and a shard, as functions that the local build and the Beam pipeline share.

Sentences go to hash groups and are packed within their group, a shard a group; so the rows depend on the set of sentences
only, neither on their order nor on who works on them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from itertools import chain, islice
from typing import NamedTuple

from nuner_jax.config import DatasetConfig
from nuner_jax.dataset import concepts, records
from nuner_jax.dataset.backend import Backend
from nuner_jax.dataset.importers import LINE_FORMATS, detect, parse_lines, read_any
from nuner_jax.dataset.merge import merge_texts
from nuner_jax.dataset.packing import TokenSpans, fill_rows, pack
from nuner_jax.dataset.tokenize import TextTokenizer
from nuner_jax.demo import REPLIES
from nuner_jax.errors import InputError
from nuner_jax.files import matching, open_raw
from nuner_jax.lists import Strs
from nuner_jax.schema import AnnotatedText

HASH_BYTES = 16
CHUNK = 1_000  # sentences that are worked on at once
SENTENCES_PER_GROUP = 20_000
MAX_GROUPS = 1_024

Keyed = tuple[bytes, TokenSpans]  # with the hash of the text
Group = tuple[str, int]  # (split, number)


class Chunk(NamedTuple):
    """Texts as they were read; or lines of a file that hold one each, for whoever works on them to parse."""

    texts: Sequence[AnnotatedText]
    path: str = ""
    format: str = ""
    first: int = 0  # number of the first line
    lines: Sequence[bytes] = ()


@dataclass(slots=True)
class Encoded:
    """What is made of chunks: sentences with mentions by concept name, and what was counted."""

    sentences: list[Keyed] = field(default_factory=list)
    descriptions: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)  # texts by path, of chunks of lines

    def add(self, other: "Encoded") -> None:
        """Takes in another chunk's."""
        self.sentences.extend(other.sentences)
        self.descriptions.update(other.descriptions)
        self.dropped.update(other.dropped)
        self.read.update(other.read)


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


def input_files(names: Sequence[str]) -> Strs:
    """The files that names, patterns and addresses stand for; a name that stands for none is kept, and fails when it is read."""
    found = [[str(REPLIES)] if name == "demo" else matching(name) or [name] for name in names]
    return Strs(path for paths in found for path in paths)


def read_chunks(config: DatasetConfig, paths: Sequence[str], dropped: Counter[str], read: Counter[str]) -> Iterator[Chunk]:
    """The sentences of the input files in order, or of each annotator's (a word or pattern of config.input) merged if so configured;
    the first config.limit of them.

    What is parsed here is counted in `read` by path, and its drops in `dropped`; chunks of lines are counted by encode_chunk.
    """
    if config.merge == "none" and not config.limit:
        for path in paths:
            kind = detect(path)
            yield from _line_chunks(path, kind) if kind in LINE_FORMATS else _text_chunks(_counted(path, dropped, read))
        return

    def texts_of(paths: Sequence[str]) -> Iterator[AnnotatedText]:
        return chain.from_iterable(_counted(path, dropped, read) for path in paths)

    how = config.merge
    if how == "none":
        texts = texts_of(paths)
    else:  # a word may be a pattern: the shards of one annotator
        annotators = [texts_of(input_files([word])) for word in paths]
        texts = reduce(lambda a, b: merge_texts(a, b, how, dropped), annotators)
    yield from _text_chunks(islice(texts, config.limit) if config.limit else texts)


def _counted(path: str, dropped: Counter[str], read: Counter[str]) -> Iterator[AnnotatedText]:
    for record in read_any(path, counts=dropped):
        read[path] += 1
        yield record


def _text_chunks(texts: Iterable[AnnotatedText]) -> Iterator[Chunk]:
    iterator = iter(texts)
    while chunk := list(islice(iterator, CHUNK)):
        yield Chunk(chunk)


def _line_chunks(path: str, kind: str) -> Iterator[Chunk]:
    first = 1
    try:
        with open_raw(path) as file:
            while lines := list(islice(file, CHUNK)):
                yield Chunk((), path, kind, first, lines)
                first += len(lines)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def encode_chunk(config: DatasetConfig, tokenizer: TextTokenizer, chunk: Chunk) -> Encoded:
    """Parses, cleans and tokenises: the part of the stage that needs no other sentence."""
    result = Encoded()
    texts = chunk.texts
    if chunk.lines:
        texts = parse_lines(chunk.path, chunk.format, chunk.first, chunk.lines, result.dropped)
        result.read[chunk.path] += len(texts)
    cleaned = [concepts.clean(record, config.filter == "paper", result.dropped) for record in texts]
    kept = [record for record in cleaned if record is not None]
    found = tokenizer(kept, result.dropped, max_length=config.row_length, max_mentions=config.mentions_per_row)
    descriptions: list[tuple[str, str]] = []
    for record, sentence in zip(kept, found, strict=True):
        if sentence is not None:
            result.sentences.append((sentence_hash(record.text), sentence))
            descriptions += [(m.concept, m.description) for m in record.mentions if m.description]
    result.descriptions.update(descriptions)
    return result


def sentence_hash(text: str) -> bytes:
    """HASH_BYTES bytes that decide split, group and order of a sentence."""
    return hashlib.blake2b(text.encode("utf8", "surrogatepass"), digest_size=HASH_BYTES).digest()


def ordered(sentences: Iterable[Keyed]) -> list[Keyed]:
    """Sorted by hash, the same text by its mentions."""
    return sorted(sentences, key=lambda item: (item[0], item[1].mentions))


def unique(sentences: Iterable[Keyed], dropped: Counter[str]) -> list[Keyed]:
    """The same text with the same mentions once, in order."""
    kept: list[Keyed] = []
    for item in ordered(sentences):
        if kept and kept[-1][0] == item[0] and kept[-1][1].mentions == item[1].mentions:
            dropped["sentence: duplicate"] += 1
        else:
            kept.append(item)
    return kept


def concept_ids(frequency: Counter[str], config: DatasetConfig, dropped: Counter[str]) -> Counter[str]:
    """The concepts that have at least min_concept_count mentions, num_concepts of them (0: all): the most frequent, ties by name, or
    any, by a hash of concept_seed and name. The mentions of the others are counted as dropped."""
    kept = Counter({name: count for name, count in frequency.items() if count >= config.min_concept_count})
    if lost := frequency.total() - kept.total():
        dropped["mention: concept below min_concept_count"] += lost
    if config.num_concepts and len(kept) > config.num_concepts:
        if config.concept_choice == "random":
            order = sorted(kept, key=lambda name: hashlib.sha256(f"{config.concept_seed} {name}".encode()).digest())
        else:
            order = sorted(kept, key=lambda name: (-kept[name], name))
        chosen = Counter({name: kept[name] for name in order[: config.num_concepts]})
        dropped["mention: concept beyond num_concepts"] += kept.total() - chosen.total()
        kept = chosen
    return kept


def build_table(
    config: DatasetConfig,
    backend: Backend,
    frequency: Mapping[str, int],
    descriptions: Mapping[tuple[str, str], int],
) -> list[concepts.Concept]:
    """The concept table as configured."""
    told = config.concept_text == "name_and_description"
    return concepts.build_table(frequency, descriptions, backend, max_length=config.max_concept_length, with_description=told)


def split_of(key: bytes, validation_fraction: float) -> str:
    """The split of a sentence, by the hash of its text."""
    return "validation" if key < _bound(validation_fraction) else "train"


@lru_cache
def _bound(fraction: float) -> bytes:
    """What that share of all hashes is below."""
    return int(fraction * 2**64).to_bytes(8, "big")


def group_of(key: bytes, validation_fraction: float, sizes: Mapping[str, int], num_groups: int) -> Group:
    """The hash group of a sentence; `sizes` are the sentences of each split, and if none is left to train on, all are for that."""
    split = split_of(key, validation_fraction)
    size = sizes[split]
    if not sizes.get("train"):
        split = "train"
    count = num_groups or min(MAX_GROUPS, -(-size // SENTENCES_PER_GROUP))
    return split, int.from_bytes(key[8:16], "big") % count


def shard_names(groups: Iterable[Group]) -> dict[Group, str]:
    """The file of each group; an empty group has none."""
    ordered = sorted(groups)
    count = Counter(split for split, _ in ordered)
    done: Counter[str] = Counter()
    names = {}
    for split, number in ordered:
        names[split, number] = records.shard_name(split, done[split], count[split])
        done[split] += 1
    return names


def with_ids(sentences: Iterable[TokenSpans], ids: Mapping[str, int]) -> list[TokenSpans]:
    """Concept names replaced by their ids; mentions of concepts without one are left out."""
    return [TokenSpans(tokens, tuple([(a, b, ids[c]) for a, b, c in mentions if c in ids])) for tokens, mentions in sentences]


def packed_records(sentences: Sequence[TokenSpans], row_length: int, mentions_per_row: int) -> Iterator[bytes]:
    """The serialised rows of one group, whose mentions have concept ids."""
    lengths, counts = [len(s.tokens) for s in sentences], [len(s.mentions) for s in sentences]
    rows = pack(lengths, counts, row_length, mentions_per_row)
    yield from records.serialize(fill_rows(sentences, rows), row_length, mentions_per_row)
