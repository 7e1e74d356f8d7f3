"""The packed row on disk: a tf.train.Example in ArrayRecord, as TFDS reads and writes it, without TensorFlow."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nuner_jax.errors import InputError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

NAME, VERSION = "nuner", "1.0.0"
DTYPES = {"tokens": np.int32, "segment_ids": np.int16, "positions": np.int16, "mentions": np.int32}


def dataset_folder(data_dir: str | Path) -> Path:
    """Where the data set lies below a TFDS data_dir."""
    return Path(data_dir) / NAME / VERSION


def features(row_length: int, mentions_per_row: int) -> "tfds.features.FeaturesDict":
    """The TFDS features of a packed row (see packing.fill_row)."""
    import tensorflow_datasets as tfds

    shapes = {name: (row_length,) for name in DTYPES} | {"mentions": (mentions_per_row, 3)}
    connectors: dict[str, Any] = {n: tfds.features.Tensor(shape=shapes[n], dtype=t) for n, t in DTYPES.items()}
    return tfds.features.FeaturesDict({**connectors, "num_mentions": tfds.features.Scalar(np.int32)})


def _protos() -> tuple[Any, Any]:
    """The generated modules of tf.train.Example and of its features, whose contents no type checker sees."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    return tf_example_pb2, tf_feature_pb2


class _Varints(dict[int, bytes]):
    """Non-negative integers in protobuf's base-128 form, each made once."""

    def __missing__(self, value: int) -> bytes:
        rest, form = value, bytearray()
        while rest > 127:
            form.append(rest & 127 | 128)
            rest >>= 7
        form.append(rest)
        self[value] = bytes(form)
        return self[value]


_varints = _Varints()
FIELDS = (*sorted([*DTYPES, "num_mentions"]),)


def _tagged(tag: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varints[tag << 3 | 2] + _varints[len(payload)] + payload


@lru_cache(maxsize=100_000)
def _head(name: str, length: int) -> bytes:
    """All bytes of a feature before its `length` bytes of values: Feature.int64_list, Int64List.value, and what is around them."""
    packed = bytes(length)
    feature = _tagged(3, _tagged(1, packed))
    return _tagged(1, _tagged(1, name.encode()) + _tagged(2, feature))[:-length]  # Features.feature: key, value


def serialize(row: Mapping[str, Sequence[int]]) -> bytes:
    """A row (packing.fill_row) as a serialised tf.train.Example, its features in the order of their names.

    Byte for byte what the protobuf library makes of it with deterministic=True, several times as fast.
    """
    parts = []
    for name in FIELDS:
        values = row[name]
        packed = bytes(values) if max(values) < 128 else b"".join([_varints[value] for value in values])
        parts += _head(name, len(packed)), packed
    return _tagged(1, b"".join(parts))  # Example.features


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
    """TFDS's dataset_info.json and features.json; `shards` holds the (records, bytes) of each shard by split.

    The shards may lie elsewhere: TFDS looks at their names only, for which empty files stand in.
    """
    import tensorflow_datasets as tfds
    from etils import epath

    template = tfds.core.ShardedFileTemplate(data_dir=epath.Path(folder), dataset_name=NAME, filetype_suffix="array_record")
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[records for records, _ in sizes],
            num_bytes=sum(size for _, size in sizes),
            filename_template=template.replace(split=split),
        )
        for split, sizes in shards.items()
    ]
    paths = [folder / shard_name(split, i, len(sizes)) for split, sizes in shards.items() for i in range(len(sizes))]
    stand_ins = [path for path in paths if not path.exists()]
    for path in stand_ins:
        path.touch()
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(row_length, mentions_per_row),
        split_infos=splits,
        version=VERSION,
        filename_template=template,
        check_data=False,
        description="Packed, tokenised sentences with concept mentions, for NuNER pre-training.",
    )
    for path in stand_ins:
        path.unlink()


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
