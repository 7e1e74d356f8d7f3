"""Tasks as rows of YAML: NAME: {train, test, reader, ...}. Presets are such files in configs/tasks, known by file or row name."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from nuner_jax import options
from nuner_jax.config.evaluate import TaskReader
from nuner_jax.errors import InputError
from nuner_jax.evaluate import readers
from nuner_jax.evaluate.library_readers import read_hf, read_tfds
from nuner_jax.schema import TaggedSentence


@dataclass(frozen=True)
class TaskRow:
    """Where a task's sentences are, how they are read, and whose they are."""

    train: str
    """File with the training sentences, or the name of a split (hf, tfds)."""
    test: str
    """File or split with the test sentences."""
    reader: TaskReader = "auto"
    """columns, brackets, gliner (files), hf, tfds (data sets); auto: by the ending of the file."""
    path: str = ""
    """Folder of the files; hf: name on the hub or local folder; tfds: directory of the prepared data set, version included."""
    config: str = ""
    """hf: configuration of the data set."""
    word_column: int = 0
    """columns: which column holds the word; -1 is the last one."""
    tag_column: int = -1
    """columns: which column holds the tag."""
    scheme: str = "iob"
    """iob: B-, I- and their relatives (IOB1, BIOES); io: bare types, a run of one type is one mention."""
    skip: str = ""
    """columns: lines that begin with this are left out."""
    words: str = "tokens"
    """hf, tfds: the feature with the words."""
    tags: str = "ner_tags"
    """hf, tfds: the feature with the tags, as class labels, texts, or numbers into tag_names."""
    tag_names: Sequence[str] = ()
    """hf, tfds: the tags in the order of their numbers, where the data set does not say."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Type -> what it is called in prompts; a type without a name is called as it is, in small letters."""
    definitions: Mapping[str, str] = field(default_factory=dict)
    """Type -> what it means, for prompts."""
    licence: str = ""
    """Terms of the data."""
    get: str = ""
    """Where the files come from and where they go, told when they are missing."""


LIBRARIES = ("hf", "tfds")
"""Readers that get a data set from a library, not from files that are named."""


def presets() -> dict[str, Path]:
    """File -> path of every packaged file of tasks."""
    return {path.stem: path for path in sorted(options.config_path("tasks/mit_movie").parent.glob("*.yaml"))}


def find_rows(spec: str, task_data: str) -> list[tuple[str, TaskRow]]:
    """The rows that FILE.yaml, a preset's file name or a row's name stands for; none if it is none of them. Raises InputError.

    Paths of a preset are taken from `task_data`, those of any other file from the file's own folder.
    """
    if spec.endswith((".yaml", ".yml")):
        return list(_placed(read_rows(Path(spec)), Path(spec).parent))
    found = []
    for stem, path in presets().items():
        rows = read_rows(path)
        found += [(name, row) for name, row in rows.items() if spec in (stem, name)]
    return list(_placed(dict(found), Path(task_data)))


def _placed(rows: Mapping[str, TaskRow], folder: Path) -> Iterator[tuple[str, TaskRow]]:
    for name, row in rows.items():
        local = row.reader not in LIBRARIES or (folder / row.path).exists()
        yield name, dataclasses.replace(row, path=str(folder / row.path)) if local else row


def read_rows(path: Path) -> dict[str, TaskRow]:
    """The rows of a file. Raises InputError with file and line."""
    try:
        text = path.read_text(encoding="utf8")
        root, value = yaml.compose(text), yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(f"{path}{f', line {mark.line + 1}' if mark else ''}: not valid YAML") from None
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise InputError(f"{path}: expected rows of the form NAME: {{train: ..., test: ...}}")
    rows = {}
    names = [key.value for key, _ in root.value]
    for key, _ in root.value:
        if names.count(key.value) > 1:
            raise InputError(f"{path}, line {key.start_mark.line + 1}: task {key.value} is there {names.count(key.value)} times")
    for (key, node), (name, fields) in zip(root.value, value.items(), strict=True):
        where = f"{path}, line {key.start_mark.line + 1}: task {name}"
        if not isinstance(fields, dict):
            raise InputError(f"{where}: expected a mapping with train and test")
        places = {k.value: k.start_mark.line + 1 for k, _ in node.value}
        for field_name, given in fields.items():
            line = places.get(str(field_name), key.start_mark.line + 1)  # a merged one (<<) has no line of its own
            _check(f"{path}, line {line}: task {name}", str(field_name), given)
        missing = {"train", "test"} - fields.keys()
        if missing:
            raise InputError(f"{where}: {' and '.join(sorted(missing))} missing")
        rows[str(name)] = TaskRow(**fields)
    return rows


def _check(where: str, name: str, value: Any) -> None:
    """Raises InputError for a key that rows do not have, or a value of another kind."""
    kinds = get_type_hints(TaskRow)
    if name not in kinds:
        raise InputError(f"{where}: there is no key {name}; there are {', '.join(kinds)}")
    default = next(f for f in dataclasses.fields(TaskRow) if f.name == name)
    example = default.default_factory() if default.default_factory is not dataclasses.MISSING else default.default
    if name == "reader" and value not in get_args(TaskReader):
        raise InputError(f"{where}: reader {value!r} is none of {', '.join(get_args(TaskReader))}")
    if name == "scheme" and value not in ("iob", "io"):
        raise InputError(f"{where}: scheme {value!r} is neither iob nor io")
    expected = list if isinstance(example, tuple) else str if example is dataclasses.MISSING else type(example)
    if not isinstance(value, expected):
        word = {str: "a text", int: "an integer", dict: "a mapping", list: "a list"}[expected]
        raise InputError(f"{where}: {name}: expected {word}, got {value!r:.60}")
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    for part in parts:
        if not isinstance(part, str):
            raise InputError(f"{where}: {name}: expected texts, got {part!r:.60} (quotes make a text of it)")


def file_of(name: str, row: TaskRow, split: str) -> Path:
    """The file of a split. Raises InputError that says where to get it if it is missing."""
    path = Path(row.path) / (row.train if split == "train" else row.test)
    if not path.is_file():
        raise InputError(f"task {name}: {path} is missing" + (f"; {row.get}" if row.get else ""))
    return path


def read_split(name: str, row: TaskRow, split: str, notes: Counter[str]) -> list[TaggedSentence]:
    """The sentences of a split. Raises InputError; where files are missing it says where to get them."""
    which = row.train if split == "train" else row.test
    if row.reader == "hf":
        return read_hf(row.path, row.config, which, row.words, row.tags, row.tag_names, row.scheme, notes)
    if row.reader == "tfds":
        return read_tfds(row.path, which, row.words, row.tags, row.tag_names, row.scheme, notes)
    path = file_of(name, row, split)
    if row.reader == "columns":
        separator = readers.separator_of(path)
        return readers.read_columns(path, notes, separator, row.word_column, row.tag_column, row.scheme, row.skip)
    if row.reader == "auto":
        return readers.read_tagged(path, notes)
    return {"brackets": readers.read_brackets, "gliner": readers.read_gliner}[row.reader](path, notes)
