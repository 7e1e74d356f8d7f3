"""The packed row on disk: a tf.train.Example in ArrayRecord, as TFDS reads and writes it, without TensorFlow."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nuner_jax.errors import InputError

NAME, VERSION = "nuner", "1.0.0"
DTYPES = {"tokens": np.int32, "segment_ids": np.int16, "positions": np.int16, "mentions": np.int32}


def dataset_folder(data_dir: str | Path) -> Path:
    """Where the data set lies below a TFDS data_dir."""
    return Path(data_dir) / NAME / VERSION


FIELDS = (*sorted([*DTYPES, "num_mentions"]),)


def varints(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Numbers from 0 to 2**31 - 1 in protobuf's base-128 form, one after another, and where each ends."""
    sizes = np.ones(len(values), np.int64)
    for k in range(1, 5):
        sizes += values >= 1 << 7 * k
    ends = np.cumsum(sizes)
    form = np.empty(ends[-1] if len(ends) else 0, np.uint8)
    at, rest = ends - sizes, values
    form[at] = rest & 127
    while len(at := at[more := rest > 127]):
        form[at] |= 128
        at, rest = at + 1, rest[more] >> 7
        form[at] = rest & 127
    return form.tobytes(), ends


@lru_cache(maxsize=100_000)
def _varint(value: int) -> bytes:
    return varints(np.array([value]))[0]


def _tagged(tag: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varint(tag << 3 | 2) + _varint(len(payload)) + payload


@lru_cache(maxsize=100_000)
def _head(name: str, length: int) -> bytes:
    """All bytes of a feature before its `length` bytes of values: Feature.int64_list, Int64List.value, and what is around them."""
    packed = bytes(length)
    feature = _tagged(3, _tagged(1, packed))
    return _tagged(1, _tagged(1, name.encode()) + _tagged(2, feature))[:-length]  # Features.feature: key, value


def serialize(rows: Mapping[str, tuple[np.ndarray, np.ndarray]], row_length: int, mentions_per_row: int) -> Iterator[bytes]:
    """Rows (packing.fill_rows), padded with zeros, each as a serialised tf.train.Example with its features in the order of their names.

    Byte for byte what the protobuf library makes of them with deterministic=True, many times as fast.
    """
    sizes = {"mentions": 3 * mentions_per_row, "num_mentions": 1}
    columns = [_features(name, *rows[name], sizes.get(name, row_length)) for name in FIELDS]
    for parts in zip(*columns, strict=True):
        yield _tagged(1, b"".join(parts))  # Example.features


def _features(name: str, values: np.ndarray, counts: np.ndarray, size: int) -> Iterator[bytes]:
    """One feature of each row."""
    form, ends = varints(values)
    bounds = np.append(0, ends)[np.cumsum(counts)].tolist()
    start = 0
    for end, padding in zip(bounds, (size - counts).tolist(), strict=True):
        yield _head(name, end - start + padding) + form[start:end] + bytes(padding)
        start = end


def deserialize(records: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Rows stacked: tokens, segment_ids, positions [B, T]; mentions [B, M, 3]; num_mentions [B]."""
    rows = [_int64_lists(record) for record in records]
    stacked = {name: _decode([row[name] for row in rows]).astype(dtype) for name, dtype in DTYPES.items()}
    stacked["mentions"] = stacked["mentions"].reshape(len(rows), -1, 3)
    stacked["num_mentions"] = _decode([row["num_mentions"] for row in rows]).reshape(-1).astype(np.int32)
    return stacked


def _int64_lists(record: bytes) -> dict[str, bytes]:
    """The packed values of each feature of a serialised tf.train.Example, without a copy into Python numbers.

    Raises InputError if it is none, or holds features of another kind.
    """
    found: dict[str, bytes] = {}
    try:
        (example,) = _fields(record, 0, len(record))
        for _, start, end in _fields(record, *example[1:]):
            (_, *key), (_, *value) = _fields(record, start, end)
            ((tag, *values),) = _fields(record, *value)
            ((_, first, last),) = _fields(record, *values)
            if tag != 3:
                raise ValueError
            found[record[key[0] : key[1]].decode()] = record[first:last]
        if not found.keys() >= set(FIELDS):
            raise ValueError
    except (ValueError, IndexError):
        raise InputError("a row of the data set is damaged (not a tf.train.Example of integers)") from None
    return found


def _fields(record: bytes, at: int, end: int) -> list[tuple[int, int, int]]:
    """(number, start, end) of the length-delimited fields in a part of a message; ValueError for fields of another kind."""
    fields = []
    while at < end:
        tag, length = record[at], record[at + 1]
        at += 2
        if length > 127:
            shift, length = 7, length & 127
            while True:
                byte = record[at]
                at += 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
        if tag & 7 != 2 or at + length > end:
            raise ValueError
        fields.append((tag >> 3, at, at + length))
        at += length
    return fields


def _decode(rows: Sequence[bytes]) -> np.ndarray:
    """Equally many varints a row, as numbers [B, N]."""
    data = np.frombuffer(b"".join(rows), np.uint8)
    ends = np.flatnonzero(data < 128)
    if len(ends) == len(data):
        return data.reshape(len(rows), -1)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    values = (data[starts] & 127).astype(np.int64)
    for k in range(1, int(lengths.max())):
        longer = np.flatnonzero(lengths > k)
        values[longer] |= (data[starts[longer] + k] & 127).astype(np.int64) << 7 * k
    return values.reshape(len(rows), -1)


def shard_name(split: str, index: int, count: int) -> str:
    """TFDS's default file name of a shard."""
    return f"{NAME}-{split}.array_record-{index:05d}-of-{count:05d}"


def write_shard(path: Path, records: Iterable[bytes]) -> tuple[int, int]:
    """Writes one ArrayRecord file with a group a record, for random access; returns its (records, bytes).

    Raises OSError where the disk is full or refuses.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    count, size = 0, 0
    try:
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
            count, size = count + 1, size + len(record)
        writer.close()
    except RuntimeError as error:  # what the library makes of every failure to write
        raise OSError(str(error).split(";")[0]) from None
    return count, size


def write_metadata(folder: Path, row_length: int, mentions_per_row: int, shards: Mapping[str, Sequence[tuple[int, int]]]) -> None:
    """TFDS's dataset_info.json and features.json, as TFDS itself writes them; `shards` holds the (records, bytes) of each shard by
    split."""
    splits = [
        {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": split,
            "numBytes": str(sum(size for _, size in sizes)),
            "shardLengths": [str(records) for records, _ in sizes],
        }
        for split, sizes in shards.items()
    ]
    about = "Packed, tokenised sentences with concept mentions, for NuNER pre-training."
    info = {"description": about, "fileFormat": "array_record", "name": NAME, "splits": splits, "version": VERSION}
    shapes = {name: [row_length] for name in DTYPES} | {"mentions": [mentions_per_row, 3]}
    features = {name: _feature("tensor_feature.Tensor", str(np.dtype(dtype)), shapes[name]) for name, dtype in DTYPES.items()}
    features["num_mentions"] = _feature("scalar.Scalar", "int32", [])
    tree = {"featuresDict": {"features": features}, "pythonClassName": f"{FEATURES}.features_dict.FeaturesDict"}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2, sort_keys=True), encoding="utf8")
    (folder / "features.json").write_text(json.dumps(tree, indent=4, sort_keys=True), encoding="utf8")


FEATURES = "tensorflow_datasets.core.features"


def _feature(kind: str, dtype: str, shape: Sequence[int]) -> dict[str, Any]:
    dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
    return {"pythonClassName": f"{FEATURES}.{kind}", "tensor": {"dtype": dtype, "encoding": "none", "shape": dimensions}}


class RowReader:
    """Random access to the serialised rows of a split, over all its shards; may be read from several threads."""

    def __init__(self, folder: Path, split: str):
        """Raises InputError that names a shard that cannot be read."""
        from array_record.python.array_record_module import ArrayRecordReader

        self.readers = []
        for path in sorted(folder.glob(f"{NAME}-{split}.array_record-*")):
            try:
                self.readers.append(ArrayRecordReader(str(path), "readahead_buffer_size:0"))
            except (OSError, ValueError, RuntimeError) as error:
                raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
        self.starts = np.cumsum([0] + [reader.num_records() for reader in self.readers])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, indices: np.ndarray) -> list[bytes]:
        """The rows at `indices`, in their order."""
        shard_of = np.searchsorted(self.starts, indices, side="right") - 1
        rows: list[bytes] = [b""] * len(indices)
        for shard in np.unique(shard_of):
            members = np.nonzero(shard_of == shard)[0]
            found = self.readers[shard].read((indices[members] - self.starts[shard]).tolist())
            for i, row in zip(members, found, strict=True):
                rows[i] = row
        return rows
