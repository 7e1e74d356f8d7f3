"""The evaluate command from end to end on tiny encoders: agreement with plain PyTorch, resuming, caching, refusals."""

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest
from helpers import make_encoder

from nuner_jax.evaluate.__main__ import main
from nuner_jax.files import held
from nuner_jax.report import main as report_main

pytestmark = pytest.mark.usefixtures("without_plots")  # but the fixture `done` has them
REFERENCE = Path(__file__).parents[1] / "benchmarks" / "reference" / "fewshot_torch.py"
NAMES = {"person": ["Ada", "Alan", "Grace", "Kurt"], "food": ["rice", "bread", "soup", "plum pie"]}


def make_bio(path, count, seed):
    rng = random.Random(seed)
    blocks = []
    for _ in range(count):
        who, what = rng.choice(NAMES["person"]), rng.choice(NAMES["food"])
        words = [(who, "B-person"), (rng.choice(["eats", "likes"]), "O")]
        words += [(w, "IB"[i == 0] + "-food") for i, w in enumerate(what.split())]
        rng.random() < 0.3 and words.reverse() and None
        blocks.append("".join(f"{word}\t{tag}\n" for word, tag in [*words, (".", "O")]))
    path.write_text("\n".join(blocks), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_encoder(folder / "one", seed=1)
    make_encoder(folder / "two", seed=2, layers=4)
    make_bio(folder / "train.bio", 60, 0)
    make_bio(folder / "test.bio", 40, 1)
    return folder


def arguments(world, out, *more, encoders=("base=ONE", "ours=TWO"), tasks=("toy=TRAIN,TEST",)):
    paths = {"ONE": world / "one", "TWO": world / "two", "TRAIN": world / "train.bio", "TEST": world / "test.bio"}
    words = ["--encoders", *encoders, "--tasks", *tasks, "--ks", "1,4", "--seeds", "2", "--out", str(out), *more]
    for name, path in paths.items():
        words = [word.replace(name, str(path)) for word in words]
    return words


def run(main, argv):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    return stop.value.code


def rows_of(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf8").splitlines()]


@pytest.fixture(scope="module")
def done(world):
    out = world / "done"
    assert run(main, arguments(world, out)) == 0
    return out


def test_every_cell_has_a_row_that_can_be_traced(done):
    rows = rows_of(done)
    assert {(r["system"], r["k"], r["seed"]) for r in rows} == {
        (s, k, i) for s in ("base", "ours") for k in (1, 4) for i in (0, 1)
    }
    for row in rows:
        assert row["layers"] == ([-1, -2] if row["system"] == "base" else [-1, -3])
        assert len(row["encoder_hash"]) == len(row["data_hash"]) == 64
        scores = [row[m] for m in ("token_macro_f1", "token_micro_f1", "entity_micro_f1", "entity_macro_f1", "partial_f1")]
        assert all(0 <= score <= 1 for score in scores)
        assert set(row["per_type"]) == {"food", "person"}
        assert row["settings"]["head.num_steps"] == 300
    table = (done / "report.md").read_text(encoding="utf8")
    assert "ours: gain over base" in table
    assert (done / "curves.png").stat().st_size > 10_000


def test_the_linear_head_agrees_with_the_plain_pytorch_evaluation_on_the_stored_samples(world, monkeypatch):
    out = world / "linear"
    assert run(main, arguments(world, out, "--head.kind", "linear")) == 0
    spec = importlib.util.spec_from_file_location("fewshot_torch", REFERENCE)
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    from transformers import AutoModel, AutoTokenizer

    plain.torch.set_num_threads(1)  # more of them only wait for each other on so little
    tokenizer = AutoTokenizer.from_pretrained(world / "one", add_prefix_space=True)
    model = AutoModel.from_pretrained(world / "one", add_pooling_layer=False)
    train, test = plain.read_bio(world / "train.bio"), plain.read_bio(world / "test.bio")
    linear = plain.torch.nn.Linear
    monkeypatch.setattr(linear, "reset_parameters", lambda self: plain.torch.nn.init.zeros_(self.bias))  # else random by torch
    index = {"food": 1, "person": 2}
    labels = [[index[tag[2:]] if tag != "O" else 0 for tag in tags] for _, tags in train + test]
    x = plain.word_features(model, tokenizer, train + test, [-1, -2])
    samples = {(row["k"], row["seed"]): row["indices"] for row in map(json.loads, (out / "samples.jsonl").open(encoding="utf8"))}
    for row in rows_of(out):
        if row["system"] != "base":
            continue
        chosen = samples[row["k"], row["seed"]]
        assert chosen == plain.sample_k_shot(train, row["k"], random.Random(1000 * row["k"] + row["seed"]))
        y = [plain.torch.tensor(labels[i]) for i in chosen]
        predicted = plain.fit_predict([x[i] for i in chosen], y, x[len(train) :], 3, row["seed"])
        expected = plain.token_macro_f1(labels[len(train) :], predicted, 2)
        assert row["token_macro_f1"] == pytest.approx(expected, abs=0.005)


def test_the_same_command_again_does_nothing_and_more_seeds_only_the_rest(world, done, capsys, monkeypatch):
    def written():
        files = [path for path in done.glob("re*.*") if path.suffix != ".lock"]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = written()
    with monkeypatch.context() as patch:
        for module in ("jax", "flax", "torch", "transformers", "matplotlib"):
            patch.setitem(sys.modules, module, None)  # importing it fails: with nothing to do a run needs none of them
        for module in [name for name in sys.modules if name.startswith("nuner_jax.model")]:
            patch.delitem(sys.modules, module)
        assert run(main, arguments(world, done)) == 0
    said = capsys.readouterr().out
    assert "all 4 cells are done" in said
    assert "ours: gain over base" in said
    assert written() == before
    assert run(main, arguments(world, done, "--seeds", "3")) == 0
    assert "2 cells in" in capsys.readouterr().out
    assert rows_of(done)[:8] == [json.loads(line) for line in before[done / "results.jsonl"][0].splitlines()]


def test_cached_features_give_the_same_numbers(world, done):
    cache = ["--cache", str(world / "cache")]
    assert run(main, arguments(world, world / "first", *cache)) == 0
    files = {path: path.stat().st_mtime_ns for path in (world / "cache").rglob("*.npy")}
    assert files
    assert run(main, arguments(world, world / "second", *cache)) == 0
    assert {path: path.stat().st_mtime_ns for path in (world / "cache").rglob("*.npy")} == files
    strip = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows_of(world / name)] for name in ("first", "second")]
    assert strip[0] == strip[1]


def test_changed_settings_and_weights_are_refused_by_name(world, tmp_path, capsys):
    few, one = ["--ks", "1", "--seeds", "1"], ["base=ONE"]
    assert run(main, arguments(world, tmp_path, *few, encoders=one)) == 0
    assert run(main, arguments(world, tmp_path, *few, "--head.learning_rate", "0.1", encoders=one)) == 2
    assert "head.learning_rate (0.01, now 0.1)" in capsys.readouterr().err
    assert run(main, arguments(world, tmp_path, *few, "--layers=-1,-2", encoders=["base=TWO"])) == 2
    assert "state of the encoder" in capsys.readouterr().err


def test_support_sets_of_an_earlier_run_are_not_written_over(world, tmp_path, capsys):
    few, one = ["--ks", "4", "--seeds", "1"], ["base=ONE"]
    assert run(main, arguments(world, tmp_path, *few, encoders=one)) == 0
    before = (tmp_path / "samples.jsonl").read_text()
    assert run(main, arguments(world, tmp_path, *few, encoders=one, tasks=["toy=TEST,TEST"])) == 2
    assert "task toy, k=4, seed=0 is another support set" in capsys.readouterr().err
    assert (tmp_path / "samples.jsonl").read_text() == before


def test_samples_of_another_system_can_be_used(world, done, tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"task": "toy", "k": 1, "seed": 0, "indices": [3, 5]}\n', encoding="utf8")
    more = ["--samples", str(tmp_path / "samples.jsonl"), "--ks", "1", "--seeds", "1"]
    assert run(main, arguments(world, tmp_path / "out", *more)) == 0
    assert {row["support_sentences"] for row in rows_of(tmp_path / "out")} == {2}


@pytest.mark.parametrize(
    ("more", "lists", "message"),
    [
        (["--layers=-1,-9"], {}, "layers -9"),
        (["--ks", "0"], {}, "must be 1 or more"),
        ([], {"encoders": ["base=nowhere/at/all"]}, "no such folder"),
        ([], {"tasks": ["x=missing.bio,missing.bio"]}, "missing.bio: cannot be read"),
        (["--head.kind", "magic"], {}, "head.kind"),
        (["--sedes", "3"], {}, "seeds"),
        ([], {"encoders": ["a=ONE", "a=ONE"]}, "given twice"),
        (["--samples", "missing.jsonl"], {}, "missing.jsonl: cannot be read"),
        (["--predictions", "x=missing.jsonl"], {}, "missing.jsonl: cannot be read"),
        (["--llms", "gpt=fwe:gpt"], {}, "expected NAME=KIND:MODEL"),
    ],
)
def test_bad_input_ends_with_one_line(world, tmp_path, capsys, more, lists, message):
    assert run(main, arguments(world, tmp_path, *more, **lists)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_an_encoder_without_tokenizer_is_refused(world, tmp_path, capsys):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((world / "one" / name).read_bytes())
    assert run(main, arguments(world, tmp_path / "out", encoders=[f"base={tmp_path}"])) == 2
    assert "no tokenizer" in capsys.readouterr().err


def test_report_joins_directories(world, done, tmp_path, capsys):
    assert run(report_main, [str(done), "--out", str(tmp_path)]) == 0
    assert "ours: gain over base" in capsys.readouterr().out
    for words in ([str(tmp_path / "nothing")], [], ["--no_such_option"]):
        assert run(report_main, words) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_second_process_does_not_write_into_the_same_directory(world, tmp_path, capsys):
    with held(tmp_path / "results.jsonl"):
        assert run(main, arguments(world, tmp_path)) == 2
    assert "results.jsonl: in use by another process" in capsys.readouterr().err
    assert not (tmp_path / "results.jsonl").exists()
