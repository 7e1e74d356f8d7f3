"""The dataset stage as a whole: where its data comes from, what it says about it, and what a failure leaves."""

import json
import multiprocessing
import os
import resource
import signal
import sys

import pytest
from helpers import write_mentions

from nuner_jax.config import DatasetConfig
from nuner_jax.dataset import local
from nuner_jax.dataset.builder import build, num_positions, replaced
from nuner_jax.dataset.loader import PackedDataset
from nuner_jax.dataset.records import dataset_folder
from nuner_jax.errors import InputError, NunerError
from nuner_jax.lists import Strs

TEXT = "alpha beta gamma"


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf8")
    return str(path)


def annotated(text, *spans):
    return {"text": text, "mentions": [{"start": a, "end": b, "concept": c} for a, b, c in spans]}


@pytest.fixture
def settings(tmp_path, tiny_encoder):
    return {"out": str(tmp_path / "data"), "tokenizer": str(tiny_encoder), "row_length": 32, "validation_fraction": 0.0}


def test_every_input_is_named_with_format_licence_source_and_hash(tmp_path, settings):
    first = write(tmp_path / "a.jsonl", [annotated(TEXT, (0, 5, "letter"))])
    conversation = [{"from": "human", "value": "Text: delta iota"}, {"from": "gpt", "value": "read"}]
    conversation += [{"from": "human", "value": "What describes word in the text?"}, {"from": "gpt", "value": '["iota"]'}]
    second = write(tmp_path / "b.jsonl", [{"id": "1", "conversations": conversation}])
    folder = build(DatasetConfig(input=Strs([first, second]), **settings))
    inputs = json.loads((folder / "manifest.json").read_text())["inputs"]
    assert [(i["path"], i["format"], i["licence"], i["sentences"]) for i in inputs] == [
        ("a.jsonl", "annotated", "that of the text and its annotator", 1),
        ("b.jsonl", "pilener", "CC BY-NC 4.0", 1),
    ]
    assert len({i["sha256"] for i in inputs}) == 2
    summary = (folder / "summary.md").read_text()
    assert "| b.jsonl | pilener | 1 | CC BY-NC 4.0 |" in summary


def test_the_bundled_corpus_names_its_own_licence(settings):
    folder = build(DatasetConfig(input=Strs(["demo"]), limit=20, **settings))
    (entry,) = json.loads((folder / "manifest.json").read_text())["inputs"]
    assert (entry["licence"], entry["sentences"]) == ("Apache-2.0", 20)


@pytest.mark.parametrize(
    ("merge", "concepts", "dropped"),
    [
        ("none", ["letter", "greek", "word"], {}),
        ("union", ["letter", "greek", "word"], {}),
        ("agreement", ["letter", "greek"], {"mention: one annotator only": 1, "text: one annotator only": 1}),
    ],
)
def test_two_annotators_of_the_same_texts(tmp_path, settings, merge, concepts, dropped):
    first = write(tmp_path / "a.jsonl", [annotated(TEXT, (0, 5, "letter"))])
    second = write(tmp_path / "b.jsonl", [annotated(TEXT, (0, 5, "greek"), (6, 10, "word")), annotated("zeta")])
    folder = build(DatasetConfig(input=Strs([first, second]), merge=merge, **settings))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {c.name for c in PackedDataset(settings["out"]).concepts} == set(concepts)
    assert manifest["dropped"] == dropped
    assert [i["sentences"] for i in manifest["inputs"]] == [1, 2]
    assert manifest["sentences"] == {"none": 3, "union": 2, "agreement": 1}[merge]


def test_an_annotator_may_have_several_files(tmp_path, settings):
    texts = ["alpha beta", "gamma delta", "epsilon zeta"]
    for who in ("a", "b"):
        write(tmp_path / f"{who}-0.jsonl", [annotated(text, (0, 5, "first")) for text in texts[:2]])
        write(tmp_path / f"{who}-1.jsonl", [annotated(text, (0, 5, "first")) for text in texts[2:]])
    folder = build(DatasetConfig(input=Strs([f"{tmp_path}/a-*.jsonl", f"{tmp_path}/b-*.jsonl"]), merge="agreement", **settings))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["sentences"], manifest["mentions"], manifest["dropped"]) == (3, 3, {})
    assert [i["sentences"] for i in manifest["inputs"]] == [2, 1, 2, 1]


def test_two_builds_at_one_place_do_not_mix(tmp_path, settings):
    path = write(tmp_path / "a.jsonl", [annotated(TEXT, (0, 5, "letter"))])
    with replaced(dataset_folder(settings["out"])) as other:
        with pytest.raises(InputError, match="in use by another process"):
            build(DatasetConfig(input=Strs([path]), **settings))
        (other / "mine").touch()
    assert [file.name for file in dataset_folder(settings["out"]).iterdir()] == ["mine"]


def test_merging_needs_two_inputs(tmp_path, settings):
    path = write(tmp_path / "a.jsonl", [annotated(TEXT)])
    with pytest.raises(InputError, match="merge union is about two or more inputs"):
        build(DatasetConfig(input=Strs([path]), merge="union", **settings))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.jsonl", '{"text": "x"}\n{"text": 3}\n', r'b\.jsonl, line 2: "text" is missing'),
        ("b.csv", "text,label\na,b\n", r"b\.csv, line 2: expected the columns input and output"),
        ("b.jsonl", None, r"b\.jsonl: cannot be read \(No such file"),
    ],
)
@pytest.mark.parametrize("merge", ["none", "union"])
def test_one_bad_input_among_good_ones_ends_the_build_without_a_trace(tmp_path, settings, name, content, message, merge):
    good = write_mentions(tmp_path / "a.jsonl", 20)
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        build(DatasetConfig(input=Strs([str(good), str(tmp_path / name)]), merge=merge, **settings))
    assert not (tmp_path / "data").exists()


def test_an_empty_file_among_others_is_counted_and_alone_is_refused(tmp_path, settings):
    good, empty = str(write_mentions(tmp_path / "a.jsonl", 20)), write(tmp_path / "empty.jsonl", [])
    folder = build(DatasetConfig(input=Strs([good, empty]), **settings))
    assert [i["sentences"] for i in json.loads((folder / "manifest.json").read_text())["inputs"]] == [20, 0]
    with pytest.raises(InputError, match=r"empty\.jsonl: no sentence to train on"):
        build(DatasetConfig(input=Strs([empty]), **settings | {"out": str(tmp_path / "other")}))
    assert not (tmp_path / "other").exists()


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, settings):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/data: cannot be written"):
        build(DatasetConfig(input=Strs(["nowhere.jsonl"]), **settings | {"out": str(tmp_path / "file/data")}))


def test_a_full_disk_leaves_no_half_data_set_and_the_earlier_one_stays(tmp_path, settings):
    path = str(write_mentions(tmp_path / "a.jsonl", 2000))
    small = str(write_mentions(tmp_path / "small.jsonl", 3))
    folder = build(DatasetConfig(input=Strs([small]), **settings))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(InputError, match="cannot be written"):
            build(DatasetConfig(input=Strs([path]), **settings))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert not folder.with_name("1.0.0.partial").exists()


def test_a_single_shard_is_the_same_by_processes_as_without(tmp_path, settings, monkeypatch):
    source = str(write_mentions(tmp_path / "a.jsonl", 40))
    alone = build(DatasetConfig(input=Strs([source]), num_workers=1, **settings))
    monkeypatch.setattr(local, "MIN_CHUNKS_FOR_PROCESSES", 1)
    by_two = build(DatasetConfig(input=Strs([source]), num_workers=2, **settings | {"out": str(tmp_path / "two")}))
    assert {p.name: p.read_bytes() for p in alone.iterdir()} == {p.name: p.read_bytes() for p in by_two.iterdir()}


def test_only_so_many_concepts_are_kept_and_the_mentions_of_others_counted(tmp_path, settings):
    spans = [(0, 5, "letter"), (0, 5, "greek"), (6, 10, "letter"), (11, 16, "letter"), (11, 16, "greek"), (6, 16, "phrase")]
    path = write(tmp_path / "a.jsonl", [annotated(TEXT, *spans), annotated("delta beta", (0, 5, "river"))])

    def concepts(**options):
        folder = build(DatasetConfig(input=Strs([path]), **options, **settings))
        manifest = json.loads((folder / "manifest.json").read_text())
        names = [json.loads(line)["name"] for line in (folder / "concepts.jsonl").read_text().splitlines()]
        return names, manifest["dropped"].get("mention: concept beyond num_concepts", 0), manifest["mentions"]

    assert concepts() == (["letter", "greek", "phrase", "river"], 0, 7)
    assert concepts(num_concepts=2) == (["letter", "greek"], 2, 5)
    assert concepts(num_concepts=9)[1] == 0
    random = {tuple(concepts(num_concepts=2, concept_choice="random", concept_seed=seed)[0]) for seed in range(6)}
    assert len(random) > 1
    assert concepts(num_concepts=2, concept_choice="random") == concepts(num_concepts=2, concept_choice="random")
    with pytest.raises(InputError, match="num_concepts -1"):
        concepts(num_concepts=-1)


def killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_ends_the_build_with_a_line_that_says_so():
    with (
        multiprocessing.get_context("spawn").Pool(2) as pool,
        pytest.raises(NunerError, match=r"a worker process ended \(status -9\)"),
    ):
        list(local.run(pool, killed, [1]))


def test_a_process_with_threads_is_not_copied(monkeypatch):
    loaded = {name: module for name, module in sys.modules.items() if name not in ("jax", "torch", "tensorflow", "grpc")}
    monkeypatch.setattr(local.sys, "modules", loaded)
    monkeypatch.setattr(local.sys, "platform", "linux")
    monkeypatch.setattr(local.threading, "active_count", lambda: 1)
    assert local._context().get_start_method() == "fork"
    loaded["jax"] = sys
    assert local._context().get_start_method() == "spawn"
    del loaded["jax"]
    monkeypatch.setattr(local.threading, "active_count", lambda: 2)
    assert local._context().get_start_method() == "spawn"


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "camembert"])
def test_rows_may_be_as_long_as_the_positions_of_the_encoder(tmp_path, tiny_encoder, kind):
    from nuner_jax.model.encoder import EncoderConfig

    told = json.loads((tiny_encoder / "config.json").read_text()) | {"model_type": kind}
    (tmp_path / "config.json").write_text(json.dumps(told))
    assert num_positions(tmp_path / "config.json") == EncoderConfig.from_hf(told).max_length
