"""Several data sets as one: concepts by name, shares by weight, the same batches for the same seed."""

import json

import numpy as np
import pytest
from helpers import WORDS
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax import cli
from nuner_jax.config import DatasetConfig, TrainConfig
from nuner_jax.dataset.builder import build
from nuner_jax.dataset.concepts import Concept
from nuner_jax.dataset.loader import Batches, PackedDataset
from nuner_jax.dataset.mixture import merge_concepts, open_data, quotas
from nuner_jax.errors import InputError
from nuner_jax.lists import Floats, Strs


def corpus(path, tag, count):
    """Sentences with the word `tag` in each, so that a row's data set can be told; half of the concepts are the other corpus's, too."""
    with open(path, "w") as file:
        for n in range(count):
            word = WORDS[n % 10]
            spans = [{"start": 0, "end": len(word), "concept": word if n % 2 else f"{word} of {tag}"}]
            spans.append({"start": len(word) + 1, "end": len(word) + 1 + len(tag), "concept": "tag", "description": tag})
            file.write(json.dumps({"text": f"{word} {tag} {n}", "mentions": spans}) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_encoder):
    """Three data_dirs: 150 and 50 sentences made alike, and one with other rows."""
    folder = tmp_path_factory.mktemp("mixture")
    common = {"tokenizer": str(tiny_encoder), "validation_fraction": 0.1, "mentions_per_row": 12}
    for name, count, length in (("red", 150, 32), ("blue", 50, 32), ("long", 50, 64)):
        path = corpus(folder / f"{name}.jsonl", name, count)
        build(DatasetConfig(input=Strs([path]), out=str(folder / name), row_length=length, **common))
    return folder


def settings(*argv):
    return cli.parse(TrainConfig, [*argv, "--num_epochs", "1"], prog="train", alternatives=("num_train_steps", "num_epochs")).data


def test_the_command_line_takes_several_paths_and_their_weights(tmp_path):
    data = settings("--data.path", "a", "b", "--data.weights", "0.7,0.3")
    assert (data.path, data.weights) == (("a", "b"), (0.7, 0.3))
    file = tmp_path / "c.yaml"
    file.write_text("data:\n  path: [a, b]\n  weights: [3, 1]\n")
    data = settings("--config", str(file))
    assert (data.path, data.weights) == (("a", "b"), (3.0, 1.0))
    file.write_text("data:\n  path: runs/one\n")
    assert settings("--config", str(file)).path == ("runs/one",)


@pytest.mark.parametrize("value", ["a,b", "1,nan", "true"])
def test_weights_that_are_no_numbers_are_refused(value, capsys):
    with pytest.raises(SystemExit) as exit:
        settings("--data.weights", value)
    assert exit.value.code == 2
    assert "data.weights" in capsys.readouterr().err


def test_one_path_is_that_data_set(folders):
    assert isinstance(open_data(Strs([str(folders / "red")])), PackedDataset)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0.05, 1)), min_size=1, max_size=5))
def test_quotas_fill_an_epoch_and_keep_the_shares(pairs):
    sizes, weights = [n + 200 for n, _ in pairs], [w for _, w in pairs]
    rows = quotas(sizes, weights)
    assert sum(rows) == sum(sizes)
    assert all(abs(n - w / sum(weights) * sum(sizes)) < 1 for n, w in zip(rows, weights, strict=True))
    assert quotas(sizes) == sizes


def test_concepts_are_merged_by_name():
    first = [Concept(0, "city", "", 5, (1,)), Concept(1, "food", "dishes", 3, (2,))]
    second = [Concept(0, "food", "meals", 4, (2,)), Concept(1, "tool", "", 4, (3,)), Concept(2, "city", "towns", 1, (1,))]
    merged, ids = merge_concepts([first, second])
    assert [(c.id, c.name, c.description, c.frequency) for c in merged] == [
        (0, "food", "meals", 7),
        (1, "city", "towns", 6),
        (2, "tool", "", 4),
    ]
    assert [list(i) for i in ids] == [[1, 0], [0, 2, 1]]


def test_rows_are_those_of_the_parts_with_concepts_of_the_same_name(folders):
    parts = [PackedDataset(folders / name) for name in ("red", "blue")]
    mixture = open_data([str(folders / "red"), str(folders / "blue")])
    rows = mixture.rows("train", np.arange(mixture.num_rows("train"))[::-1])
    expected = [part.rows("train", range(part.num_rows("train"))) for part in parts]
    for name in ("tokens", "segment_ids", "positions", "num_mentions"):
        np.testing.assert_array_equal(rows[name][::-1], np.concatenate([e[name] for e in expected]))
    names = [
        [[part.concepts[c].name for c in row[:n, 2]] for row, n in zip(e["mentions"], e["num_mentions"], strict=True)]
        for part, e in zip(parts, expected, strict=True)
    ]
    found = [[mixture.concepts[c].name for c in r[:n, 2]] for r, n in zip(rows["mentions"], rows["num_mentions"], strict=True)]
    assert found[::-1] == names[0] + names[1]
    assert {c.name for c in mixture.concepts} == {c.name for part in parts for c in part.concepts}
    tag = next(c for c in mixture.concepts if c.name == "tag")
    assert (tag.description, tag.frequency) == ("red", mixture.manifest["sentences"])


def test_without_weights_an_epoch_sees_every_row_once(folders):
    mixture = open_data([str(folders / "red"), str(folders / "blue")])
    n = mixture.num_rows("train")
    assert n == sum(PackedDataset(folders / name).num_rows("train") for name in ("red", "blue"))
    order = mixture.order("train", 3, 0, 2 * n)
    assert sorted(order[:n]) == sorted(order[n:]) == list(range(n))
    assert not np.array_equal(order[:n], order[n:])


def test_weights_set_the_shares_of_every_epoch_and_rows_take_turns(folders):
    mixture = open_data([str(folders / "red"), str(folders / "blue")], (1, 3))
    n, (red, blue) = mixture.num_rows("train"), mixture.sizes
    stream = mixture.order("train", 3, 0, 12 * n)
    for epoch in range(12):
        share = np.mean(stream[epoch * n : (epoch + 1) * n] >= red)
        assert abs(share - 0.75) <= 1 / n
    times = np.bincount(stream, minlength=n)
    assert np.ptp(times[:red]) <= 1
    assert np.ptp(times[red:]) <= 1
    assert times[red:].mean() > 2 * times[:red].mean()
    np.testing.assert_array_equal(mixture.order("train", 3, n - 5, 2 * n), stream[n - 5 : 3 * n - 5])
    assert not np.array_equal(mixture.order("train", 4, 0, n), stream[:n])
    assert blue < red


def test_batches_of_a_mixture_are_the_same_for_the_same_seed(folders):
    paths = [str(folders / "red"), str(folders / "blue")]
    first, second = (Batches(open_data(paths, (1, 1)), "train", batch_size=4, num_steps=9, seed=1) for _ in range(2))
    for step in (7, 2):
        for name, value in first[step].items():
            np.testing.assert_array_equal(value, second[step][name])
    held_out = first.of_split("validation", 100)
    assert held_out is not None
    assert len(held_out) == -(-first.data.num_rows("validation") // 4)
    assert set(held_out[0]["concept_ids"]) - {-1} <= set(range(len(first.data.concepts)))


def test_the_fingerprint_covers_every_data_set_and_its_share(folders):
    red, blue = str(folders / "red"), str(folders / "blue")
    prints = [
        open_data(*args).manifest["fingerprint"] for args in (([red, blue],), ([red, blue], (1, 1)), ([blue, red],), ([red],))
    ]
    assert len(set(prints)) == 4
    assert open_data([red, blue]).manifest["fingerprint"] == prints[0]
    assert [entry["path"] for entry in open_data([red, blue]).manifest["inputs"]] == ["red.jsonl", "blue.jsonl"]


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        (["red", "blue"], (1,), "data.weights: 1 of them for 2 data sets"),
        (["red", "blue"], (1, 0), "data.weights: 0 is not positive"),
        (["red", "blue"], (1, 1e-9), "data.weights: 1e-09 gives not one of the"),
        (["red", "none"], (), "none: no data set here"),
        (["red", "long"], (), r"cannot be mixed: made with another row_length \(32 and 64\)"),
        ([], (), "name at least one data set"),
    ],
)
def test_what_cannot_be_mixed_is_refused(folders, names, weights, message):
    with pytest.raises(InputError, match=message):
        open_data([str(folders / name) for name in names], Floats(weights))


def test_a_run_on_a_mixture_goes_on_with_the_same_mixture_only(folders, tiny_encoder, tmp_path, capsys):
    from nuner_jax import train

    words = ["--init_from", str(tiny_encoder), "--workdir", str(tmp_path), "--num_train_steps", "2", "--batch_size", "8"]
    red, blue = str(folders / "red"), str(folders / "blue")

    def run(*argv):
        with pytest.raises(SystemExit) as exit:
            train.main([*words, *argv])
        return exit.value.code, capsys.readouterr().err

    assert run("--data.path", red, blue, "--data.weights", "1,1")[0] == 0
    assert run("--data.path", red, blue, "--data.weights", "1,1") == (0, "")
    assert "another data set" in run("--data.path", red, "--data.weights", "")[1]
    assert "another data set" in run("--data.path", red, blue, "--data.weights", "1,2")[1]
