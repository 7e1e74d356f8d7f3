import gzip
import json
import struct
import sys
from collections import Counter

import pytest

from nuner_jax.annotate.corpus import Document, detect, list_files, read_corpus
from nuner_jax.errors import InputError

ROWS = [
    {
        "text": f"Document {i} – with “quotes”.\nSecond line.",
        "url": f"http://example.org/{i}",
        "timestamp": "2019-04-25T12:57:54Z",
    }
    for i in range(10)
]


def read(path, **options):
    counts = Counter()
    return list(read_corpus(str(path), counts, **options)), counts


def write_c4(path, rows):
    with gzip.open(path, "wt", encoding="utf8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_c4_in_its_own_form(tmp_path):
    write_c4(tmp_path / "c4-train.00001-of-00002.json.gz", ROWS[6:])
    write_c4(tmp_path / "c4-train.00000-of-00002.json.gz", ROWS[:6])
    documents, counts = read(tmp_path / "c4-train.*.json.gz")
    assert [d.text for d in documents] == [row["text"] for row in ROWS]
    assert documents[7] == Document("c4-train.00001-of-00002.json.gz:2", ROWS[7]["text"], "http://example.org/7")
    assert not counts


def test_an_fsspec_address_is_a_path_like_any_other(tmp_path):
    write_c4(tmp_path / "a.json.gz", ROWS[:3])
    write_c4(tmp_path / "b.json.gz", ROWS[3:])
    assert len(read(f"file://{tmp_path}/a.json.gz")[0]) == 3
    assert [d.text for d in read(f"file://{tmp_path}/*.json.gz")[0]] == [row["text"] for row in ROWS]


def test_plain_json_lines_keep_their_ids(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "id": 7}\n\n{"text": "two", "title": "T"}\n', encoding="utf8")
    assert read(path)[0] == [Document("7", "one", "a.jsonl"), Document("a.jsonl:3", "two", "T")]


def test_plain_text_has_a_document_a_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"First.\r\n\r\nZweiter Satz.\n" + b"Caf\xe9.\n")
    documents, counts = read(path)
    assert [d.text for d in documents] == ["First.", "Zweiter Satz.", "Caf\ufffd."]
    assert documents[1].id == "a.txt:3"
    assert counts == Counter({"document: characters that are not UTF-8 replaced": 1})


def test_the_bundled_corpus():
    documents, _ = read("demo")
    assert len(documents) == 1400
    assert all(d.text.strip() for d in documents)


def test_a_pattern_that_matches_nothing_is_refused(tmp_path):
    for path in (f"{tmp_path}/*.json.gz", f"{tmp_path}/none.json", f"file://{tmp_path}/*.json.gz"):
        with pytest.raises(InputError, match=r"no such file, and nothing matches"):
            list_files(path)
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        read(f"file://{tmp_path}/none.json")
    with pytest.raises(InputError, match=r"is a folder; name its files"):
        read(tmp_path, format="c4")


def test_a_name_that_tells_no_format_is_refused():
    with pytest.raises(InputError, match=r"corpus\.path a/b/c\.parquet: its name does not tell the format"):
        detect("a/b/c.parquet")
    with pytest.raises(InputError, match="nosuchprotocol"):
        read("nosuchprotocol://bucket/a.json")


def damage(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def test_a_corrupt_gzip_file_is_fatal_and_named(tmp_path):
    damage(write_c4(tmp_path / "c4.json.gz", ROWS * 100))
    with pytest.raises(InputError, match=r"c4\.json\.gz: damaged after line \d+"):
        read(tmp_path / "c4.json.gz")


def test_a_corrupt_gzip_file_is_skipped_and_named(tmp_path, capsys):
    damage(write_c4(tmp_path / "a.json.gz", ROWS * 100))
    (tmp_path / "b.json.gz").write_bytes(b"this is no gzip")
    write_c4(tmp_path / "c.json.gz", ROWS)
    documents, counts = read(tmp_path / "*.json.gz", on_corrupt="skip")
    assert [d.text for d in documents[-10:]] == [row["text"] for row in ROWS]
    assert 10 < len(documents) < 1010
    assert [any(name in key for key in counts) for name in ("a.json.gz", "b.json.gz", "c.json.gz")] == [True, True, False]
    assert "a.json.gz: damaged after line" in capsys.readouterr().err


def test_a_broken_line_is_fatal_or_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "tw\n{"text": "three"}\n', encoding="utf8")
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: not valid JSON"):
        read(path)
    documents, counts = read(path, on_corrupt="skip")
    assert [d.text for d in documents] == ["one", "three"]
    assert sum(counts.values()) == 1


def test_a_record_without_text_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "one", "url": "x"}\n', encoding="utf8")
    with pytest.raises(InputError, match=r'line 1: expected an object with the string "text", got content, url'):
        read(path, on_corrupt="skip")


# Prepared TFDS data sets in the shape of c4/en


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def framed(record):
    """A record of a TFRecord file: length, its masked CRC, the bytes, their masked CRC."""

    def masked(data):
        crc = crc32c(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


@pytest.fixture(scope="module")
def array_record(tmp_path_factory):
    import tensorflow_datasets as tfds

    class C4(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("3.1.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="en")]

        def _info(self):
            features = {name: tfds.features.Text() for name in ("text", "url", "content-type", "content-length", "timestamp")}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(ROWS[:8]), "validation": self._generate_examples(ROWS[8:])}

        def _generate_examples(self, rows):
            for row in rows:
                yield row["url"], {"content-type": "text/html", "content-length": "9", **row}

    folder = tmp_path_factory.mktemp("tfds")
    builder = C4(data_dir=str(folder), config="en", file_format="array_record")
    builder.download_and_prepare()
    return folder / "c4" / "en" / "3.1.0"


@pytest.fixture(scope="module")
def tf_record(array_record, tmp_path_factory):
    """The same data set as TFRecord files, written without TensorFlow."""
    from array_record.python.array_record_module import ArrayRecordReader

    folder = tmp_path_factory.mktemp("tfrecord") / "c4" / "en" / "3.1.0"
    folder.mkdir(parents=True)
    for file in array_record.iterdir():
        if file.suffix == ".json":
            folder.joinpath(file.name).write_text(file.read_text().replace('"array_record"', '"tfrecord"'))
        else:
            reader = ArrayRecordReader(str(file))
            records = reader.read_all()
            reader.close()
            folder.joinpath(file.name.replace("array_record", "tfrecord")).write_bytes(b"".join(map(framed, records)))
    return folder


@pytest.fixture(params=["array_record", "tf_record"])
def prepared(request):
    return request.getfixturevalue(request.param)


def test_a_prepared_data_set_is_read_without_tensorflow(prepared):
    documents, _ = read(prepared)
    assert sorted((d.text, d.source) for d in documents) == sorted((row["text"], row["url"]) for row in ROWS[:8])
    assert documents[0].id == "c4/en/3.1.0/train:0"
    assert "tensorflow" not in sys.modules


def test_both_file_formats_give_the_same_documents(array_record, tf_record):
    assert read(array_record) == read(tf_record)


def test_splits_and_parts_of_splits(prepared):
    assert len(read(f"{prepared}#validation")[0]) == 2
    whole = read(prepared)[0]
    assert [d.text for d in read(f"{prepared}#train[2:5]")[0]] == [d.text for d in whole[2:5]]
    assert len(read(f"{prepared}#train[:50%]")[0]) == 4
    with pytest.raises(InputError, match=r"'train\[:1%\]' selects no record"):
        read(f"{prepared}#train[:1%]")
    with pytest.raises(InputError, match=r"no split 'test'"):
        read(f"{prepared}#test")


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no prepared TFDS data set"):
        read(tmp_path)


def test_a_damaged_tfrecord_file_is_named(tf_record, tmp_path):
    folder = tmp_path / "3.1.0"
    folder.mkdir()
    for file in tf_record.iterdir():
        data = file.read_bytes()
        folder.joinpath(file.name).write_bytes(data[:-10] if "train" in file.name else data)
    with pytest.raises(InputError, match=r"train\.tfrecord.*: damaged"):
        read(folder)


def test_a_hub_data_set_is_streamed(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf8")
    documents, _ = read(tmp_path, format="hf")
    assert [(d.text, d.source) for d in documents] == [(row["text"], row["url"]) for row in ROWS]
    with pytest.raises(InputError, match="cannot be streamed"):
        read(f"{tmp_path}##nosplit", format="hf")
    assert detect("allenai/c4#en") == "hf"
