"""Fine-tuning learns a toy task, whatever is trained beside it; the trained encoder is the one that is scored."""

import dataclasses
import json
import random

import jax
import numpy as np
import pytest
from helpers import make_encoder

from nuner_jax.config import EvaluateConfig, FinetuneConfig
from nuner_jax.evaluate import finetune, metrics
from nuner_jax.evaluate.__main__ import main
from nuner_jax.evaluate.encoders import NamedEncoder
from nuner_jax.evaluate.tasks import load_task, make_task
from nuner_jax.schema import TaggedSentence

KINDS = {"alpha": "letter", "beta": "letter", "gamma": "letter", "city": "thing", "movie": "thing", "dish": "thing"}
FAST = FinetuneConfig(num_epochs=12, learning_rate=3e-3, head_learning_rate=1e-2, batch_size=4, dropout=0.0)


def sentences(count, seed):
    rng, result = random.Random(seed), []
    for _ in range(count):
        words, tags = [], []
        for _ in range(rng.randint(1, 3)):
            words += ["a", word := rng.choice(list(KINDS))]
            tags += ["O", f"B-{KINDS[word]}"]
            if rng.random() < 0.4:
                words.append(rng.choice([w for w in KINDS if KINDS[w] == KINDS[word]]))
                tags.append(rng.choice("BI") + f"-{KINDS[word]}")
        result.append(TaggedSentence(tuple(words), tuple(tags)))
    return result


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = make_encoder(tmp_path_factory.mktemp("encoder") / "tiny")
    return NamedEncoder(f"tiny={folder}")


@pytest.fixture(scope="module")
def task():
    return make_task("toy", sentences(60, 0), sentences(40, 1))


def score(task, predicted):
    first = metrics.first_words(task.test.offsets)
    return metrics.scores(task.test.codes, metrics.io_to_iob2(predicted.astype(int), first), first, len(task.types))


def test_learns_from_few_sentences_and_beats_an_untrained_head(encoder, task):
    config = EvaluateConfig(protocol="finetune", finetune=FAST)
    samples = {(8, 0): list(range(16))}
    trained = finetune.predict_group(config, encoder, task, samples)[8, 0]
    no_rate = dataclasses.replace(FAST, learning_rate=0.0, head_learning_rate=0.0)
    untrained = finetune.predict_group(dataclasses.replace(config, finetune=no_rate), encoder, task, samples)[8, 0]
    assert score(task, trained)["token_micro_f1"] > 0.95 > 0.6 > score(task, untrained)["token_micro_f1"]


def test_sets_trained_side_by_side_equal_each_alone(encoder, task):
    config = EvaluateConfig(protocol="finetune", finetune=dataclasses.replace(FAST, num_epochs=2))
    samples = {(4, 0): list(range(6)), (4, 1): list(range(20, 22))}
    together = finetune.predict_group(config, encoder, task, samples)
    for cell in samples:
        alone = finetune.predict_group(config, encoder, task, {cell: samples[cell]})
        assert (together[cell] != alone[cell]).mean() < 0.01


def test_only_what_has_a_gradient_is_trained(encoder, task):
    base = encoder.loaded
    vocabulary = np.array([4, 7, 9])
    small = finetune._small(base.params, vocabulary, 256)
    assert small["embeddings"]["word"].shape == (256, base.width)
    moved = jax.tree.map(lambda x: np.asarray(x) + 1, small)
    full = finetune.with_trained(base, moved, vocabulary).params["embeddings"]["word"]
    before = np.asarray(base.params["embeddings"]["word"])
    np.testing.assert_allclose(full[vocabulary], before[vocabulary] + 1)
    others = np.setdiff1d(np.arange(len(before)), vocabulary)
    np.testing.assert_array_equal(full[others], before[others])


def test_layout_keeps_every_word_of_every_batch():
    rng = np.random.default_rng(0)

    def make(n):
        return rng.integers(1, 9, n), list(range(1, n - 1)), rng.integers(0, 5, n - 2)

    plans = [[[make(rng.integers(4, 40)) for _ in range(rng.integers(1, 9))] for _ in range(5)] for _ in range(2)]
    laid = finetune.lay_out(plans)
    assert laid[0].tokens.shape == laid[1].tokens.shape
    for plan, steps in zip(plans, laid, strict=True):
        for batch, segments, labels in zip(plan, steps.segment_ids, steps.labels, strict=True):
            assert (segments > 0).sum() == sum(len(tokens) for tokens, _, _ in batch)
            assert sorted(labels[labels >= 0]) == sorted(y for _, _, ys in batch for y in ys)


def test_learning_rate_rises_then_falls_to_nothing():
    rates = [finetune.learning_rate(n, 100, 0.1) for n in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == 0


def test_the_command_stores_what_fine_tuning_predicts_and_resumes(tmp_path, encoder, capsys):
    for name, count in (("train", 40), ("test", 20)):
        blocks = ["".join(f"{w}\t{t}\n" for w, t in zip(s.words, s.tags, strict=True)) for s in sentences(count, count)]
        (tmp_path / f"{name}.bio").write_text("\n".join(blocks), encoding="utf8")
    spec = f"toy={tmp_path}/train.bio,{tmp_path}/test.bio"
    argv = ["--protocol", "finetune", "--encoders", f"tiny={encoder.source}", "--sampling", "words", "--labels", "iob2"]
    argv += ["--tasks", spec, "--ks", "8", "--seeds", "2", "--out", str(tmp_path / "out"), "--finetune.num_epochs", "3"]
    argv += ["--finetune.learning_rate", "3e-3", "--finetune.head_learning_rate", "1e-2"]
    for expected in ("2 cells in", "all 2 cells are done"):  # the second time nothing is left
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 0
        assert expected in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").open(encoding="utf8")]
    drawn = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").open(encoding="utf8")]
    options = FinetuneConfig(num_epochs=3, learning_rate=3e-3, head_learning_rate=1e-2)
    config, toy = EvaluateConfig(protocol="finetune", labels="iob2", finetune=options), load_task(spec)
    first = metrics.first_words(toy.test.offsets)
    for row, sample in zip(rows, drawn, strict=True):
        cell = row["k"], row["seed"]
        predicted = finetune.predict_group(config, encoder, toy, {cell: sample["indices"]})[cell].astype(int)
        scores = metrics.scores(toy.test.codes, metrics.close_up(predicted, first), first, len(toy.types))
        assert {name: row[name] for name in scores} == pytest.approx(scores, abs=1e-6)
        assert 0 < row["token_micro_f1"] < 1
        assert row["settings"]["finetune.num_epochs"] == 3
