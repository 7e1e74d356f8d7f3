"""Rows on disk: the bytes are the protobuf library's, and what is written is read back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from nuner_jax.dataset.records import FIELDS, deserialize, serialize
from nuner_jax.errors import InputError

numbers = st.integers(0, 300) | st.integers(0, 2**31 - 1)


def rows(length, mentions):
    lists = {name: st.lists(numbers, min_size=length, max_size=length) for name in ("tokens", "segment_ids", "positions")}
    lists["segment_ids"] = lists["positions"] = st.lists(st.integers(0, 2**15 - 1), min_size=length, max_size=length)
    lists["mentions"] = st.lists(numbers, min_size=3 * mentions, max_size=3 * mentions)
    return st.fixed_dictionaries({**lists, "num_mentions": st.lists(st.integers(0, mentions), min_size=1, max_size=1)})


def by_protobuf(row):
    feature = {n: tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=row[n])) for n in FIELDS}
    return tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=feature)).SerializeToString(deterministic=True)


@given(st.integers(1, 200), st.integers(1, 40), st.data())
def test_a_row_is_serialised_as_by_protobuf_and_read_back(length, mentions, data):
    batch = [data.draw(rows(length, mentions)) for _ in range(2)]
    serialised = [serialize(row) for row in batch]
    assert serialised == [by_protobuf(row) for row in batch]
    back = deserialize(serialised)
    assert back["mentions"].shape == (2, mentions, 3)
    for name, values in back.items():
        np.testing.assert_array_equal(values.reshape(2, -1), [row[name] for row in batch])


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
    whole = serialize(row)
    for damaged in (b"\x00" + whole, whole[:-4], b"\x08\x01", b""):
        with pytest.raises(InputError, match="damaged"):
            deserialize([damaged])
