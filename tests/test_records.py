"""Rows on disk: the bytes are the protobuf library's, and what is written is read back."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from nuner_jax.dataset.records import FIELDS, deserialize, serialize, varints, write_metadata
from nuner_jax.errors import InputError

numbers = st.integers(0, 300) | st.integers(0, 2**31 - 1)


def rows(length, mentions):
    tokens = st.integers(0, length)

    def lists(values, size):
        return st.lists(values, min_size=size, max_size=size)

    def row(sizes):
        per_token = {"tokens": numbers, "segment_ids": st.integers(0, 2**15 - 1), "positions": st.integers(0, 2**15 - 1)}
        fields = {name: lists(values, sizes[0]) for name, values in per_token.items()}
        return st.fixed_dictionaries({**fields, "mentions": lists(numbers, 3 * sizes[1]), "num_mentions": lists(numbers, 1)})

    return st.lists(st.tuples(tokens, st.integers(0, mentions)).flatmap(row), min_size=1, max_size=3)


def filled(batch):
    values = {name: [value for row in batch for value in row[name]] for name in FIELDS}
    return {name: (np.array(values[name], np.int64), np.array([len(row[name]) for row in batch])) for name in FIELDS}


def padded(row, length, mentions):
    sizes = {"mentions": 3 * mentions, "num_mentions": 1}
    return {name: values + [0] * (sizes.get(name, length) - len(values)) for name, values in row.items()}


def by_protobuf(row):
    feature = {n: tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=row[n])) for n in FIELDS}
    return tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=feature)).SerializeToString(deterministic=True)


@given(st.integers(1, 200), st.integers(1, 40), st.data())
def test_rows_are_serialised_as_by_protobuf_and_read_back(length, mentions, data):
    batch = data.draw(rows(length, mentions))
    serialised = list(serialize(filled(batch), length, mentions))
    batch = [padded(row, length, mentions) for row in batch]
    assert serialised == [by_protobuf(row) for row in batch]
    back = deserialize(serialised)
    assert back["mentions"].shape == (len(batch), mentions, 3)
    for name, values in back.items():
        np.testing.assert_array_equal(values.reshape(len(batch), -1), [row[name] for row in batch])


@given(st.lists(st.integers(0, 2**31 - 1) | st.sampled_from([127, 128, 16383, 16384, 2**21, 2**28 - 1, 2**28]), max_size=9))
def test_varints_end_where_they_say(values):
    form, ends = varints(np.array(values, np.int64))
    back = []
    for start, end in itertools.pairwise([0, *ends.tolist()]):
        assert [byte > 127 for byte in form[start:end]] == [True] * (end - start - 1) + [False]
        back.append(sum((byte & 127) << 7 * k for k, byte in enumerate(form[start:end])))
    assert back == values


def test_features_are_found_in_any_order():
    row = {"tokens": [5, 300], "segment_ids": [1, 1], "positions": [0, 1], "mentions": [0, 1, 2], "num_mentions": [1]}
    entries = []
    for name in reversed(FIELDS):
        feature = tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=row[name]))
        one = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature={name: feature})).SerializeToString()
        entries.append(one[2:])  # without tag and length of Example.features
    body = b"".join(entries)
    assert len(body) < 128
    for name, value in deserialize([b"\x0a" + bytes([len(body)]) + body]).items():
        np.testing.assert_array_equal(value.ravel(), row[name])


def test_a_damaged_row_is_an_input_error():
    row = {name: [1, 2, 3] for name in FIELDS} | {"num_mentions": [1]}
    (whole,) = serialize(filled([row]), 3, 1)
    for damaged in (b"\x00" + whole, whole[:-4], b"\x08\x01", b""):
        with pytest.raises(InputError, match="damaged"):
            deserialize([damaged])


def test_the_metadata_are_what_tfds_writes(tmp_path):
    import tensorflow_datasets as tfds
    from etils import epath

    shards = {"train": [(10, 1000), (11, 1200)], "validation": [(3, 400)]}
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    write_metadata(ours, 32, 12, shards)

    template = tfds.core.ShardedFileTemplate(data_dir=epath.Path(theirs), dataset_name="nuner", filetype_suffix="array_record")
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[rows for rows, _ in sizes],
            num_bytes=sum(size for _, size in sizes),
            filename_template=template.replace(split=split),
        )
        for split, sizes in shards.items()
    ]
    for split, sizes in shards.items():
        for n in range(len(sizes)):
            (theirs / f"nuner-{split}.array_record-{n:05d}-of-{len(sizes):05d}").touch()
    types = {"tokens": np.int32, "segment_ids": np.int16, "positions": np.int16}
    features = {name: tfds.features.Tensor(shape=(32,), dtype=dtype) for name, dtype in types.items()}
    features |= {"mentions": tfds.features.Tensor(shape=(12, 3), dtype=np.int32), "num_mentions": tfds.features.Scalar(np.int32)}
    tfds.folder_dataset.write_metadata(
        data_dir=theirs,
        features=tfds.features.FeaturesDict(features),
        split_infos=splits,
        version="1.0.0",
        filename_template=template,
        check_data=False,
        description="Packed, tokenised sentences with concept mentions, for NuNER pre-training.",
    )
    for name in ("dataset_info.json", "features.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
