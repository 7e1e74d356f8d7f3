"""Compiled programs are kept beside the features, unless somebody has said where."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from nuner_jax.config import EvaluateConfig
from nuner_jax.evaluate import cache
from nuner_jax.evaluate.cache import FeatureStore, cache_folder, keep_programs
from nuner_jax.evaluate.tasks import make_task
from nuner_jax.schema import TaggedSentence

NAMES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def unset():
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_and_a_setting_of_the_user_holds(unset, tmp_path):
    keep_programs(tmp_path / "one")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "one")
    keep_programs(tmp_path / "two")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "one")


def test_where_things_are_kept(tmp_path):
    assert cache_folder(EvaluateConfig(out="results")).as_posix() == "results/features"
    assert cache_folder(EvaluateConfig(cache="elsewhere")).as_posix() == "elsewhere"
    assert cache_folder(EvaluateConfig(cache="none")) is None


def lengths_of_words(sentences, layers, progress):
    return np.array([[len(word)] for words in sentences for word in words], np.float16)


def test_runs_that_share_a_cache_at_once_keep_the_features_of_their_sentences(tmp_path, monkeypatch):
    sentences = [TaggedSentence(("Ada", "eats"), ("B-who", "O")), TaggedSentence(("a", "bb", "cccccc"), ("O", "O", "B-who"))]
    task = make_task("toy", sentences, sentences)
    encoder = SimpleNamespace(name="e", hash="h", loaded=SimpleNamespace(word_features=lengths_of_words))
    first, second = (FeatureStore(encoder, task, task.train, (-1,), tmp_path) for _ in range(2))
    save = cache._save

    def meanwhile(path, array):
        save(path, array)
        monkeypatch.setattr(cache, "_save", save)
        second.compute([1])

    monkeypatch.setattr(cache, "_save", meanwhile)  # the second run comes between the first one's vectors and their ids
    first.compute([0])
    stored = FeatureStore(encoder, task, task.train, (-1,), tmp_path)
    assert stored.missing([0, 1]) == 0
    assert stored.get([0, 1]).ravel().tolist() == [3, 4, 1, 2, 6]
