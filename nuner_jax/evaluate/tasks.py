"""A task: a named pair of train and test sentences with its types, as arrays that sampling, heads and metrics work on."""

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nuner_jax.config import Labels, Sampling
from nuner_jax.errors import InputError
from nuner_jax.evaluate.readers import read_tagged
from nuner_jax.schema import TaggedSentence, WordSpan, spans_from_tags

if TYPE_CHECKING:
    from nuner_jax.evaluate.task_rows import TaskRow

BUNDLED = ("kitchen", "helpdesk")


@dataclass(frozen=True)
class Split:
    """Sentences with their tags as codes: 0 is O, 1 + 2t is B- of type t, 2 + 2t is I- of type t."""

    sentences: tuple[TaggedSentence, ...]
    codes: np.ndarray  # [W] int32, all words in a row
    offsets: np.ndarray  # [S + 1] int64: sentence s holds words offsets[s]:offsets[s + 1]

    def __len__(self) -> int:
        return len(self.sentences)

    @property
    def words(self) -> list[tuple[str, ...]]:
        """The words of each sentence."""
        return [sentence.words for sentence in self.sentences]

    @cached_property
    def spans(self) -> list[list[WordSpan]]:
        """The mentions of each sentence, left to right."""
        return [spans_from_tags(sentence.tags) for sentence in self.sentences]

    @cached_property
    def surfaces(self) -> list[tuple[tuple[str, ...], str]]:
        """(words, type) of every mention."""
        return [
            (sentence.words[span.start : span.end], span.type)
            for sentence, spans in zip(self.sentences, self.spans, strict=True)
            for span in spans
        ]

    @cached_property
    def mention_counts(self) -> list[Counter[str]]:
        """How many mentions of each type stand in each sentence."""
        return [Counter(span.type for span in spans) for spans in self.spans]

    @cached_property
    def word_counts(self) -> list[Counter[str]]:
        """How many words of each type stand in each sentence."""
        counts = []
        for spans in self.spans:
            count: Counter[str] = Counter()
            for span in spans:
                count[span.type] += span.end - span.start
            counts.append(count)
        return counts

    def counts(self, sampling: Sampling) -> list[Counter[str]]:
        """What a way of sampling counts."""
        return self.word_counts if sampling == "words" else self.mention_counts

    def take(self, indices: Sequence[int]) -> "Split":
        """The sentences at `indices`, in that order."""
        sentences = tuple(self.sentences[i] for i in indices)
        parts = [self.codes[self.offsets[i] : self.offsets[i + 1]] for i in indices]
        codes = np.concatenate(parts) if parts else self.codes[:0]
        return Split(sentences, codes, _offsets([len(part) for part in parts]))


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)


def word_types(codes: np.ndarray) -> np.ndarray:
    """Codes to IO labels: 0 is O, 1 + t is type t."""
    return (codes + 1) // 2


def label_codes(codes: np.ndarray, labels: Labels) -> np.ndarray:
    """Codes as the labels that a head learns: themselves for iob2, types for io."""
    return codes if labels == "iob2" else word_types(codes)


def num_labels(num_types: int, labels: Labels) -> int:
    """Classes of a head, O included."""
    return 1 + num_types * (2 if labels == "iob2" else 1)


@dataclass(frozen=True)
class Task:
    """Train and test sentences over the sorted `types` of both."""

    name: str
    types: tuple[str, ...]
    train: Split
    test: Split
    notes: Counter[str] = field(default_factory=Counter)  # what a reader had to repair or leave out, by reason
    names: Mapping[str, str] = field(default_factory=dict)  # type -> what people call it, for systems that read names
    definitions: Mapping[str, str] = field(default_factory=dict)  # type -> what it means

    def words_for(self, kind: str) -> tuple[str, str]:
        """(name, definition or empty) of a type in plain words."""
        return self.names.get(kind) or kind.replace("_", " ").lower(), self.definitions.get(kind, "")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over words and tags of both splits."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            for sentence in split.sentences:
                digest.update("\t".join(sentence.words).encode() + b"\n" + "\t".join(sentence.tags).encode() + b"\n")
            digest.update(b"\0")
        return digest.hexdigest()

    def type_counts(self, sampling: Sampling = "k_to_2k") -> dict[str, int]:
        """Mentions (or words, as the way of sampling counts) of each type in train."""
        total: Counter[str] = Counter()
        for counts in self.train.counts(sampling):
            total.update(counts)
        return {kind: total[kind] for kind in self.types}

    @cached_property
    def repeated(self) -> int:
        """Test sentences whose words also stand in train."""
        known = set(self.train.words)
        return sum(words in known for words in self.test.words)


def make_split(sentences: Sequence[TaggedSentence], types: Sequence[str]) -> Split:
    """Tagged sentences as a Split; tags must be strict IOB2 over `types`."""
    code = {"O": 0}
    for t, kind in enumerate(types):
        code[f"B-{kind}"], code[f"I-{kind}"] = 1 + 2 * t, 2 + 2 * t
    codes = np.array([code[tag] for sentence in sentences for tag in sentence.tags], np.int32)
    return Split(tuple(sentences), codes, _offsets([len(sentence.words) for sentence in sentences]))


def make_task(
    name: str,
    train: Sequence[TaggedSentence],
    test: Sequence[TaggedSentence],
    notes: Counter[str] | None = None,
    files: Sequence[Path | str] = ("", ""),
) -> Task:
    """A task over the types of both splits. Raises InputError, with the file if it is known, if a split has no mention."""
    for split, sentences, file in (("train", train, files[0]), ("test", test, files[1])):
        where = f"task {name}: its {split} file {file}".rstrip()
        if not sentences:
            raise InputError(f"{where} holds no sentence")
        if all(tag == "O" for sentence in sentences for tag in sentence.tags):
            raise InputError(f"{where} holds no mention")
    types = tuple(sorted({tag[2:] for sentence in (*train, *test) for tag in sentence.tags if tag != "O"}))
    return Task(name, types, make_split(train, types), make_split(test, types), notes or Counter())


def limited(task: Task, num_test: int) -> Task:
    """The task with only `num_test` of its test sentences (0: all), always the same ones, spread over the whole test set."""
    if not 0 < num_test < len(task.test):
        return task
    chosen = sorted(random.Random(0).sample(range(len(task.test)), num_test))
    return replace(task, test=task.test.take(chosen))


def bundled(name: str) -> tuple[Path, Path]:
    """Train and test file of a bundled demo task."""
    folder = Path(str(resources.files("nuner_jax.demo"))) / "data" / "tasks"
    return folder / f"{name}_train.txt", folder / f"{name}_test.txt"


def load_tasks(spec: str, task_data: str = "data") -> list[Task]:
    """The tasks that one word stands for: as load_task, or the rows of FILE.yaml or of a preset. Raises InputError."""
    if "=" in spec or spec in BUNDLED:
        return [load_task(spec)]
    from nuner_jax.evaluate.task_rows import read_split

    tasks = []
    for name, row in task_rows(spec, task_data):
        notes: Counter[str] = Counter()
        train, test = (read_split(name, row, split, notes) for split in ("train", "test"))
        task = make_task(name, train, test, notes)
        for kind in {*row.names, *row.definitions} - {*task.types}:
            task.notes[f"name or definition of type {kind}, which the task does not have"] += 1
        tasks.append(replace(task, names=row.names, definitions=row.definitions))
    return tasks


def task_rows(spec: str, task_data: str) -> "list[tuple[str, TaskRow]]":
    """The rows of FILE.yaml or of a preset. Raises InputError if there is none of the name."""
    from nuner_jax.evaluate.task_rows import find_rows, presets

    rows = find_rows(spec, task_data)
    if not rows:
        known = ", ".join((*BUNDLED, *presets()))
        raise InputError(f"task {spec!r}: expected NAME=TRAIN,TEST, FILE.yaml or one of {known}")
    return rows


def split_spec(spec: str) -> tuple[str, tuple[Path, Path]]:
    """NAME=TRAIN,TEST as name and files. Raises InputError."""
    name, _, paths = spec.partition("=")
    parts = paths.split(",")
    if not name or len(parts) != 2 or not all(parts):
        raise InputError(f"task {spec!r}: expected NAME=TRAIN,TEST")
    return name, (Path(parts[0]), Path(parts[1]))


def load_task(spec: str) -> Task:
    """NAME=TRAIN,TEST with two files of any form that readers.read_tagged knows, or the name of a bundled task.

    Raises InputError with file and line.
    """
    if "=" in spec:
        name, files = split_spec(spec)
    elif spec in BUNDLED:
        name, files = spec, bundled(spec)
    else:
        raise InputError(f"task {spec!r}: expected NAME=TRAIN,TEST or one of {', '.join(BUNDLED)}")
    notes: Counter[str] = Counter()
    train, test = (read_tagged(file, notes) for file in files)
    return make_task(name, train, test, notes, files)
