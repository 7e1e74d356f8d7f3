"""Where the text comes from: C4 as published, JSON lines, plain text, prepared TFDS data sets, Hugging Face streams."""

import itertools
import json
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from typing import Any, Literal, NamedTuple

from nuner_jax import files
from nuner_jax.errors import InputError

Format = Literal["auto", "c4", "jsonl", "text", "tfds", "hf"]
OnCorrupt = Literal["skip", "fail"]


class Document(NamedTuple):
    """A text of a corpus; `id` names its place in the corpus, `source` where it comes from (a URL, if known)."""

    id: str
    text: str
    source: str


def read_corpus(path: str, counts: Counter[str], format: Format = "auto", on_corrupt: OnCorrupt = "fail") -> Iterator[Document]:
    """The documents of a corpus, one at a time, in the order of its files.

    - c4, jsonl: JSON lines with a "text", compressed or not; `path` is a file, a glob, or an fsspec address (gs://, https://).
    - text: every line that is not blank is a document; the same paths.
    - tfds: the folder of a prepared data set (the one with dataset_info.json), ArrayRecord or TFRecord, without TensorFlow;
      `FOLDER#SPLIT` names another split than train, `FOLDER#train[:10%]` a part of one.
    - hf: NAME, NAME#CONFIG or NAME#CONFIG#SPLIT of a data set on the Hugging Face hub, streamed (extra hf).
    - "demo" is the bundled corpus.

    A damaged file (broken gzip, a line that is no JSON) is an InputError with its name, or with on_corrupt="skip" what can be
    read of it is used and the rest counted with its name. A path that leads to no file is an InputError.
    """
    if path == "demo":
        path = str(resources.files("nuner_jax") / "demo" / "data" / "replies.jsonl")
    kind = detect(path) if format == "auto" else format
    if kind == "tfds":
        return _read_tfds(path, counts)
    if kind == "hf":
        return _read_hf(path, counts)
    lines = _plain_lines if kind == "text" else _json_lines
    return itertools.chain.from_iterable(lines(file, counts, on_corrupt) for file in list_files(path))


def detect(path: str) -> Format:
    """The format that a path's name tells."""
    name = path.partition("#")[0]
    if os.path.isdir(name):
        return "tfds"
    plain = path.removesuffix(".gz")
    if re.search(r"\.txt$", plain):
        return "text"
    if re.search(r"\.(json|jsonl|ndjson)$", plain):
        return "jsonl"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not os.path.exists(name):
        return "hf"
    raise InputError(
        f"corpus.path {path}: its name does not tell the format (.json, .jsonl, .txt, TFDS folder, hub name); set corpus.format"
    )


def list_files(path: str) -> list[str]:
    """The files of a path, a glob or an fsspec address, sorted. Raises InputError if there is none."""
    found = files.matching(path)
    if not found:
        raise InputError(f"corpus.path {path}: no such file, and nothing matches it as a pattern")
    if os.path.isdir(found[0]):
        raise InputError(f"corpus.path {path}: is a folder; name its files, such as {os.path.join(path, '*.json.gz')}")
    return found


def _lines(path: str, counts: Counter[str], on_corrupt: OnCorrupt) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of a file; where the file is damaged it ends, or the run does."""
    number = 0
    with files.open_bytes(path) as file:
        lines = iter(file)
        while True:
            try:
                line = next(lines, None)
            except (OSError, EOFError, zlib.error) as error:
                _corrupt(f"{path}: damaged after line {number} ({error})", counts, on_corrupt)
                return
            if line is None:
                return
            number += 1
            yield number, line


def _corrupt(message: str, counts: Counter[str], on_corrupt: OnCorrupt) -> None:
    """Ends the run, or names and counts what is skipped."""
    if on_corrupt == "fail":
        raise InputError(message + "; corpus.on_corrupt skip reads on")
    counts[f"skipped: {message}"] += 1
    sys.stderr.write(f"skipped: {message}\n")


def _json_lines(path: str, counts: Counter[str], on_corrupt: OnCorrupt) -> Iterator[Document]:
    name = os.path.basename(path)
    for number, line in _lines(path, counts, on_corrupt):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            _corrupt(f"{path}, line {number}: not valid JSON ({error})", counts, on_corrupt)
            continue
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise InputError(f'{path}, line {number}: expected an object with the string "text", got {_keys(record)}')
        yield Document(str(record.get("id") or f"{name}:{number}"), record["text"], _source(record, name))


def _plain_lines(path: str, counts: Counter[str], on_corrupt: OnCorrupt) -> Iterator[Document]:
    name = os.path.basename(path)
    for number, line in _lines(path, counts, on_corrupt):
        text = line.decode("utf8", "replace").strip("\r\n\ufeff")
        if "\ufffd" in text:
            counts["document: characters that are not UTF-8 replaced"] += 1
        if text.strip():
            yield Document(f"{name}:{number}", text, name)


def _source(record: dict[str, Any], default: str) -> str:
    return next((str(record[key]) for key in ("source", "url", "title") if record.get(key)), default)


def _keys(record: Any) -> str:
    return ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__


def _documents(records: Iterable[dict[str, Any]], name: str, counts: Counter[str], place: str) -> Iterator[Document]:
    """Records of a data set library as documents; strings may come as bytes."""
    for number, record in enumerate(records):
        plain: dict[str, Any] = {}
        for key in ("id", "text", "source", "url", "title"):
            value = record.get(key)
            if isinstance(value, bytes):
                plain[key] = value.decode("utf8", "replace")
                if "\ufffd" in plain[key] and key == "text":
                    counts["document: characters that are not UTF-8 replaced"] += 1
            elif value is not None:
                plain[key] = value
        if not isinstance(plain.get("text"), str):
            raise InputError(f'{place}: expected the feature "text", got {_keys(record)}')
        yield Document(str(plain.get("id") or f"{name}:{number}"), plain["text"], _source(plain, name))


def _read_tfds(path: str, counts: Counter[str]) -> Iterator[Document]:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.dataset_info import DatasetInfoFileError

    folder, _, split = path.partition("#")
    split = split or "train"
    try:
        builder: Any = tfds.builder_from_directory(folder)
        name = f"{builder.info.full_name}/{split}"
        instructions = builder.info.splits[split].file_instructions
    except (tfds.core.DatasetNotFoundError, DatasetInfoFileError, FileNotFoundError) as error:
        raise InputError(f"corpus.path {folder}: no prepared TFDS data set ({str(error).splitlines()[0]})") from None
    except (ValueError, KeyError) as error:
        raise InputError(f"corpus.path {path}: no split {split!r} ({str(error).splitlines()[0]})") from None
    if not instructions:
        raise InputError(f"corpus.path {path}: {split!r} selects no record")
    if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
        records = _tfrecords(instructions, builder.info.features.deserialize_example_np)
    else:
        records = _random_access(builder.as_data_source(split))
    return _documents(records, name, counts, f"corpus.path {path}")


def _random_access(source: Any, block: int = 256) -> Iterator[dict[str, Any]]:
    """A data source's records in blocks, which is several times as fast as one by one."""
    for start in range(0, len(source), block):
        yield from source.__getitems__(list(range(start, min(start + block, len(source)))))


def _tfrecords(instructions: Iterable[Any], deserialize: Callable[[bytes], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The records of TFRecord files, read by Grain: TFDS itself would need TensorFlow for them."""
    import grain

    for instruction in instructions:
        stop = None if instruction.take < 0 else instruction.skip + instruction.take
        dataset: Any = grain.experimental.TFRecordIterDataset(os.fspath(instruction.filename))
        try:
            for record in itertools.islice(iter(dataset), instruction.skip, stop):
                yield deserialize(record)
        except (ValueError, OSError) as error:
            raise InputError(f"{instruction.filename}: damaged ({str(error).splitlines()[0]})") from None


def _read_hf(path: str, counts: Counter[str]) -> Iterator[Document]:
    try:
        import datasets
    except ImportError:
        raise InputError(f"corpus.path {path}: streaming from the hub needs datasets: pip install 'nuner-jax[hf]'") from None

    name, config, split = (*path.split("#"), "", "")[:3]
    try:
        stream = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
    except (OSError, ValueError) as error:
        raise InputError(f"corpus.path {path}: cannot be streamed ({str(error).splitlines()[0]})") from None
    return _documents(stream, "/".join(filter(None, (name, config, split or "train"))), counts, f"corpus.path {path}")
