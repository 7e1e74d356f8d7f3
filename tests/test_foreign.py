"""Samples for systems that run elsewhere, and their predictions as rows."""

import importlib.util
import json
from pathlib import Path

import pytest
from helpers import write_json_lines

from nuner_jax.errors import InputError
from nuner_jax.evaluate.__main__ import main
from nuner_jax.evaluate.readers import read_gliner
from nuner_jax.evaluate.tasks import load_task

pytestmark = pytest.mark.usefixtures("without_plots")
TRAIN = "[Ada](person) eats [plum pie](hot_dish)\n[Bo](person) eats\n"
TEST = "[Kurt](person) likes [pea soup](hot_dish)\nnobody came\n"
RIGHT = [{"start": 0, "end": 1, "label": "person"}, {"start": 2, "end": 4, "label": "hot dish"}]
CHARACTERS = [{"start": 0, "end": 4, "label": "PERSON"}, {"start": 11, "end": 19, "label": "hot_dish"}]


@pytest.fixture
def world(tmp_path):
    (tmp_path / "train.txt").write_text(TRAIN, encoding="utf8")
    (tmp_path / "test.txt").write_text(TEST, encoding="utf8")
    return tmp_path


def evaluate(world, *more):
    words = ["--encoders", "none", "--tasks", f"toy={world / 'train.txt'},{world / 'test.txt'}", "--ks", "1", "--seeds", "2"]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--out", str(world / "out"), *map(str, more)])
    return stop.value.code


def rows(world):
    return [json.loads(text) for text in (world / "out" / "results.jsonl").read_text(encoding="utf8").splitlines()]


def lines(first, seeds=(0, 1), **more):
    cells = [{"k": 1, "seed": seed} for seed in seeds] if seeds else [{}]
    return [{"task": "toy", **cell, "index": i, "entities": e, **more} for cell in cells for i, e in enumerate([first, []])]


def test_the_samples_are_files_that_gliner_reads(world):
    assert evaluate(world, "--export", world / "x", "--encoders", "none") == 0
    (entry,) = json.loads((world / "x" / "tasks.json").read_text())
    assert entry["types"] == {"hot_dish": "hot dish", "person": "person"}
    task = load_task(f"toy={world / 'train.txt'},{world / 'test.txt'}")
    samples = [json.loads(text)["indices"] for text in (world / "out" / "samples.jsonl").read_text().splitlines()]
    for support, indices in zip(entry["supports"], samples, strict=True):
        sentences = read_gliner(world / "x" / support["train"], task.notes)
        assert [s.words for s in sentences] == [task.train.sentences[i].words for i in indices]
    (first, _) = json.loads((world / "x" / entry["test"]).read_text())
    assert first == {"tokenized_text": ["Kurt", "likes", "pea", "soup"], "ner": [[0, 0, "person"], [2, 3, "hot dish"]]}


@pytest.mark.parametrize(
    "given",
    [lines(RIGHT), lines(CHARACTERS, unit="characters"), lines(RIGHT, seeds=()), [*lines(RIGHT), {"task": "other", "index": 9}]],
    ids=["words", "characters", "for every cell", "beside another task"],
)
def test_right_predictions_score_one(world, given):
    assert evaluate(world, "--predictions", f"other={write_json_lines(world / 'p.jsonl', given)}") == 0
    assert [(r["system"], r["protocol"], r["k"], r["seed"], r["entity_micro_f1"]) for r in rows(world)] == [
        ("other", "predictions", 1, seed, 1.0) for seed in (0, 1)
    ]


def test_wrong_ones_score_by_hand_and_what_does_not_fit_is_counted(world):
    wrong = [
        {"start": 0, "end": 2, "label": "person"},
        {"start": 1, "end": 3, "label": "person"},
        {"start": 3, "end": 4, "label": "dog"},
    ]
    path = write_json_lines(world / "p.jsonl", lines([*wrong, RIGHT[1]], seeds=(1,)))
    assert evaluate(world, "--predictions", f"other={path}") == 0
    (row,) = rows(world)
    assert row["entity_micro_f1"] == pytest.approx(0.5)  # of two found one right, of two wanted one found
    assert row["left_out"] == {"label that the task does not have": 1, "overlapping mention left out": 1}
    write_json_lines(path, lines(RIGHT, seeds=(1,)))
    assert evaluate(world, "--predictions", f"other={path}") == 2  # other predictions under the same name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lines(RIGHT)[:1], "task toy, k=1, seed=0: 1 test sentences have no line, the first is 1"),
        ([*lines(RIGHT), *lines(RIGHT)], "line 5: sentence 0 of toy stands there for the second time"),
        ([{"task": "toy", "index": 2, "entities": []}], "line 1: index 2 is not in 0..1"),
        ([{"task": "toy", "index": 0}], 'line 1: expected {"task", "k", "seed", "index", "entities"'),
        (
            [{"task": "toy", "index": 0, "entities": [{"start": 0, "end": 9, "label": "person"}]}],
            "line 1: span 0..9 is not inside",
        ),
        ([{"task": "toy", "index": 0, "entities": [], "unit": "bytes"}], "line 1: unit 'bytes'"),
        ([[1]], "line 1: expected"),
    ],
)
def test_what_is_wrong_is_named(world, capsys, given, message):
    assert evaluate(world, "--predictions", f"other={write_json_lines(world / 'p.jsonl', given)}") == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_predictions_need_a_name(world, capsys):
    assert evaluate(world, "--predictions", "p.jsonl") == 2
    assert "expected NAME=FILE.jsonl" in capsys.readouterr().err
    from nuner_jax.evaluate.foreign import read_predictions

    with pytest.raises(InputError, match="cannot be read"):
        read_predictions(world / "none.jsonl", {})


class FakeGliner:
    """Finds again what it was trained on, as GLiNER's interface gives it."""

    def __init__(self):
        self.known = {}

    def train_model(self, rows, eval_rows, output_dir, **options):
        assert options["max_steps"] == 3
        assert eval_rows == rows
        for row in rows:
            for first, last, label in row["ner"]:
                self.known[" ".join(row["tokenized_text"][first : last + 1])] = label

    def eval(self):
        return self

    def inference(self, texts, labels, threshold, batch_size):
        found = []
        for text in texts:
            spans = [(text.find(mention), mention, label) for mention, label in self.known.items() if mention in text]
            found.append(
                [{"start": s, "end": s + len(m), "text": m, "label": la, "score": 0.9} for s, m, la in spans if la in labels]
            )
        return found


@pytest.mark.parametrize(("steps", "score"), [(0, 0.0), (3, 1.0)])
def test_gliners_script_reads_the_samples_and_its_file_becomes_rows(world, steps, score):
    (world / "test.txt").write_text(TRAIN, encoding="utf8")  # what the fake has seen
    spec = importlib.util.spec_from_file_location(
        "gliner_predict", Path(__file__).parents[1] / "benchmarks" / "gliner_predict.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert evaluate(world, "--export", world / "x", "--ks", "2") == 0
    words = ["--samples", world / "x", "--out", world / "p.jsonl", "--steps", steps]
    script.main([str(word) for word in words], load=FakeGliner)
    assert evaluate(world, "--ks", "2", "--predictions", f"gliner={world / 'p.jsonl'}") == 0
    assert [row["entity_micro_f1"] for row in rows(world)] == [score, score]
