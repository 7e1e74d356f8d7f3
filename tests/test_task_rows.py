"""Tasks as rows of YAML: every reader, presets, and one line that names file, line and key for whatever is wrong."""

import json
from collections import Counter

import pytest
import yaml

from nuner_jax.errors import InputError
from nuner_jax.evaluate.task_rows import find_rows, presets, read_rows
from nuner_jax.evaluate.tasks import load_tasks

WORDS, TAGS = [["Ada", "eats", "plum", "pie"], ["Bo", "sleeps"]], [["person", "O", "food", "food"], ["person", "O"]]
IOB = [["B-person", "O", "B-food", "I-food"], ["B-person", "O"]]


def rows_file(folder, **rows):
    path = folder / "tasks.yaml"
    path.write_text(yaml.safe_dump(rows), encoding="utf8")
    return path


def columns(sentences, form="{word}\t{tag}", tags=IOB):
    pairs = (zip(words, row, strict=True) for words, row in zip(sentences, tags, strict=True))
    return "\n".join("".join(form.format(word=word, tag=tag) + "\n" for word, tag in pair) for pair in pairs)


def check(task):
    for split in (task.train, task.test):
        assert [list(s.words) for s in split.sentences] == WORDS
        assert [list(s.tags) for s in split.sentences] == IOB
    assert task.types == ("food", "person")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (columns(WORDS), {"reader": "columns"}),
        (columns(WORDS, "{tag}\t{word}"), {"reader": "columns", "word_column": 1, "tag_column": 0}),
        (columns(WORDS, "{word} NN {tag} x"), {"reader": "columns", "tag_column": 2}),
        ("##id 7\n\n" + columns(WORDS), {"reader": "columns", "skip": "##id"}),
        (columns(WORDS, tags=TAGS), {"reader": "columns", "scheme": "io"}),
        ("[Ada](person) eats [plum pie](food)\n[Bo](person) sleeps\n", {"reader": "brackets"}),
    ],
)
def test_file_readers(tmp_path, text, options):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text(text, encoding="utf8")
    path = rows_file(tmp_path, toy={"path": "data", "train": "a.txt", "test": "a.txt", **options})
    (task,) = load_tasks(str(path))
    check(task)
    assert not task.notes


def test_gliner_files(tmp_path):
    ner = [[[0, 0, "person"], [2, 3, "food"]], [[0, 0, "person"]]]
    rows = [{"tokenized_text": words, "ner": spans} for words, spans in zip(WORDS, ner, strict=True)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    check(load_tasks(str(rows_file(tmp_path, toy={"train": "a.json", "test": "a.json"})))[0])


@pytest.mark.parametrize("form", ["labels", "texts", "numbers", "parquet"])
def test_hugging_face_data_sets_on_disk(tmp_path, form):
    datasets = pytest.importorskip("datasets")
    names = ["O", "B-person", "B-food", "I-food"]
    tags = IOB if form == "texts" else [[names.index(t) for t in row] for row in IOB]
    kind = {"texts": datasets.Value("string"), "numbers": datasets.Value("int64")}.get(form, datasets.ClassLabel(names=names))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "tags": datasets.List(kind)})
    data = datasets.Dataset.from_dict({"tokens": WORDS, "tags": tags}, features=features)
    if form == "parquet":
        (tmp_path / "set").mkdir()
        for split in ("train", "test"):
            data.to_parquet(tmp_path / "set" / f"{split}-00000-of-00001.parquet")
    else:
        datasets.DatasetDict(train=data, test=data).save_to_disk(tmp_path / "set")
    row = {"reader": "hf", "path": "set", "train": "train", "test": "test", "tags": "tags"}
    more = {"tag_names": names} if form == "numbers" else {}
    check(load_tasks(str(rows_file(tmp_path, toy={**row, **more})))[0])
    if form == "numbers":
        with pytest.raises(InputError, match="numbers without names; give tag_names"):
            load_tasks(str(rows_file(tmp_path, toy=row)))
    with pytest.raises(InputError, match=r"split train: has no feature ner_tags; it has tokens, tags"):
        load_tasks(str(rows_file(tmp_path, toy={k: v for k, v in row.items() if k != "tags"})))
    if form != "parquet":
        data.save_to_disk(tmp_path / "one")
        with pytest.raises(InputError, match="split train: the folder holds one data set without splits"):
            load_tasks(str(rows_file(tmp_path, toy={**row, "path": "one"})))
    with pytest.raises(InputError, match="split dev: cannot be loaded"):
        load_tasks(str(rows_file(tmp_path, toy={**row, "train": "dev"})))


def test_tfds_data_sets_prepared_on_disk(tmp_path):
    import tensorflow_datasets as tfds

    class Toy(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(names=["O", "B-person", "B-food", "I-food"])
            features = {"tokens": tfds.features.Sequence(tfds.features.Text()), "tags": tfds.features.Sequence(label)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self):
            for i, (words, tags) in enumerate(zip(WORDS, IOB, strict=True)):
                yield i, {"tokens": words, "tags": tags}

    builder = Toy(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    row = {"reader": "tfds", "path": str(builder.data_path), "train": "train", "test": "test", "tags": "tags"}
    (task,) = load_tasks(str(rows_file(tmp_path, toy=row)))
    for split in (task.train, task.test):
        assert sorted(
            zip((list(s.words) for s in split.sentences), (list(s.tags) for s in split.sentences), strict=True)
        ) == sorted(zip(WORDS, IOB, strict=True))
    with pytest.raises(InputError, match="cannot be opened as a prepared TFDS data set"):
        load_tasks(str(rows_file(tmp_path, toy={**row, "path": str(tmp_path / "nowhere")})))


def test_names_and_definitions_reach_the_task(tmp_path):
    (tmp_path / "a.bio").write_text(columns(WORDS))
    row = {
        "train": "a.bio",
        "test": "a.bio",
        "names": {"food": "thing to eat"},
        "definitions": {"person": "who eats", "dog": "?"},
    }
    (task,) = load_tasks(str(rows_file(tmp_path, toy=row)))
    assert task.words_for("food") == ("thing to eat", "")
    assert task.words_for("person") == ("person", "who eats")
    assert task.notes == Counter({"name or definition of type dog, which the task does not have": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("toy:\n  train: a\n  tets: b\n", "line 3: task toy: there is no key tets"),
        ("toy:\n  train: a\n", "line 1: task toy: test missing"),
        ("a: {train: x, test: y}\nb: 3\n", "line 2: task b: expected a mapping"),
        ("toy: {train: a, test: b, reader: magic}", "reader 'magic' is none of auto, columns"),
        ("toy: {train: a, test: b, scheme: x}", "scheme 'x' is neither"),
        ("toy: {train: a, test: b, tag_column: last}", "tag_column: expected an integer, got 'last'"),
        ("a: {train: x, test: y}\nb: {train: x, test: y}\na: {train: x, test: z}", "line 1: task a is there 2 times"),
        ("toy: {train: a, test: b, names: {PER: 3}}", "names: expected texts, got 3"),
        ("toy: {train: a, test: b, definitions: {no: negation}}", "definitions: expected texts, got False"),
        ("toy: {train: a, test: b, tag_names: [O, 1]}", "tag_names: expected texts, got 1"),
        ("toy: [1", "not valid YAML"),
        ("", "expected rows of the form"),
    ],
)
def test_bad_rows_are_named(tmp_path, text, message):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_rows(path)
    assert message in str(error.value)
    assert "t.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [("Bo", "line 3: expected 3 or more columns"), ("Bo x y Q-z", "line 3: tag 'Q-z' is outside the scheme")],
)
def test_bad_columns_are_named(tmp_path, line, message):
    (tmp_path / "a.txt").write_text(f"a b c O\nb b c B-x\n{line}\n")
    with pytest.raises(InputError, match=message):
        load_tasks(str(rows_file(tmp_path, toy={"train": "a.txt", "test": "a.txt", "reader": "columns", "word_column": -3})))


def test_every_preset_tells_its_terms_and_where_to_get_it(tmp_path):
    assert set(presets()) == {"mit_movie", "mit_restaurant", "jnlpba", "ontonotes5", "crossner", "wnut17", "few_nerd"}
    for name, path in presets().items():
        rows = find_rows(name, str(tmp_path))
        assert rows, name
        assert f"--tasks {name} --task_data DIR" in path.read_text(encoding="utf8")
        for task, row in rows:
            assert row.licence, task
            assert "https://" in row.get or "http://" in row.get, task
        with pytest.raises(InputError) as error:
            load_tasks(name, str(tmp_path))
        assert rows[0][1].get in str(error.value)
        assert "is missing" in str(error.value)


def test_crossner_is_five_tasks_and_each_has_its_name(tmp_path):
    assert [name.partition("_")[2] for name, _ in find_rows("crossner", "")] == [
        "ai",
        "literature",
        "music",
        "politics",
        "science",
    ]
    folder = tmp_path / "crossner" / "music"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.txt").write_text(columns(WORDS))
    (task,) = load_tasks("crossner_music", str(tmp_path))
    assert task.name == "crossner_music"
    check(task)


def test_unknown_tasks_are_told_the_known_ones():
    with pytest.raises(InputError, match=r"FILE\.yaml or one of kitchen, helpdesk, crossner"):
        load_tasks("mit_moive")
