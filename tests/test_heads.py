"""Heads are what they are called, by PyTorch, scikit-learn and formula; batching, padding and order of support sets change nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from nuner_jax.config import HeadConfig
from nuner_jax.evaluate import heads
from nuner_jax.evaluate.heads import Support

KINDS = ["discriminant", "linear", "prototype", "prototype_linear"]
LINEAR = HeadConfig(kind="linear")


def support(n, width=24, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    features = centres[labels] + rng.normal(size=(n, width)) + 3
    return Support(features.astype(np.float32), labels.astype(np.int32))


def torch_head(x, y, classes, steps=300):
    x, y = torch.from_numpy(x), torch.from_numpy(y).long()
    mean, std = x.mean(0), x.std(0) + 1e-5
    head = torch.nn.Linear(x.shape[1], classes)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head((x - mean) / std), y).backward()
        optimizer.step()
    return lambda f: head((torch.from_numpy(f) - mean) / std).detach().numpy()


def test_linear_head_equals_pytorch():
    s = support(60)
    fitted = heads.fit_all([s], 4, LINEAR)
    test = support(200, seed=1).features
    logits = test @ fitted.weight[0].T + fitted.bias[0]
    np.testing.assert_allclose(logits, torch_head(s.features, s.labels, 4)(test), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("kind", ["discriminant", "linear"])
def test_sets_of_different_sizes_fitted_together_equal_each_alone(kind):
    sets = [support(n, seed=n) for n in (5, 300, 40, 280, 7)]
    config = HeadConfig(kind=kind, num_steps=40)
    together = heads.fit_all(sets, 4, config)
    for i, one in enumerate(sets):
        alone = heads.fit_all([one], 4, config)
        np.testing.assert_array_equal(together.weight[i], alone.weight[0])
        np.testing.assert_array_equal(together.bias[i], alone.bias[0])


@pytest.mark.parametrize("kind", ["discriminant", "linear"])
def test_programs_are_few(kind):
    config = HeadConfig(kind=kind, num_steps=3)
    before = heads.fit._cache_size()
    for classes in (5, 6, 8):
        heads.fit_all([support(n, seed=n) for n in (5, 60, 300, 700, 1000)], classes, config)
        heads.fit_all([support(n, seed=n) for n in (800, 600)], classes, config)
    assert heads.fit._cache_size() - before == 1  # whatever the sizes


@pytest.mark.parametrize("kind", ["discriminant", "linear"])
def test_sets_of_several_blocks_equal_those_of_one(monkeypatch, kind):
    sets, config = [support(n, seed=n) for n in (5, 300, 127, 129)], HeadConfig(kind=kind, num_steps=40)
    whole = heads.fit_all(sets, 4, config)
    for words, together, threads in ((64, 1, 3), (128, 3, 1), (512, 8, 1)):
        monkeypatch.setitem(heads.AT_ONCE, "cpu", (words, together, threads))
        parts = heads.fit_all(sets, 4, config)
        np.testing.assert_allclose(parts.weight, whole.weight, atol=1e-3)  # sums in another order, blown up by Adam
        np.testing.assert_allclose(parts.bias, whole.bias, atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_learns_separable_classes(kind):
    test = support(400, seed=5)
    fitted = heads.fit_all([support(80)], 4, HeadConfig(kind=kind))
    assert (heads.predict(fitted, test.features, chunk=150)[0] == test.labels).mean() > 0.9


def test_prototype_head_is_the_nearest_class_mean_of_standardised_features():
    s, test = support(30), support(50, seed=2).features
    mean, std = s.features.mean(0), s.features.std(0, ddof=1) + 1e-5
    centres = np.stack([((s.features - mean) / std)[s.labels == c].mean(0) for c in range(4)])
    distance = np.square(((test - mean) / std)[:, None] - centres).sum(-1)
    fitted = heads.fit_all([s], 4, HeadConfig(kind="prototype"))
    np.testing.assert_array_equal(heads.predict(fitted, test)[0], distance.argmin(1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_without_a_word_is_not_predicted(kind):
    fitted = heads.fit_all([support(60)], 6, HeadConfig(kind=kind))
    assert heads.predict(fitted, support(200, seed=3).features).max() < 4


def test_balanced_weights_raise_the_recall_of_a_rare_class():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 95 + [1] * 5, np.int32)
    features = (rng.normal(size=(100, 8)) + labels[:, None]).astype(np.float32)
    test = (rng.normal(size=(500, 8)) + 1).astype(np.float32)
    plain = HeadConfig(kind="linear", weight_decay=0.5, num_steps=30)
    balanced = dataclasses.replace(plain, class_weight="balanced")
    recall = [heads.predict(heads.fit_all([Support(features, labels)], 2, c), test).mean() for c in (plain, balanced)]
    assert recall[1] > recall[0]


def test_discriminant_by_its_formula():
    rng = np.random.default_rng(0)
    y = np.array([0] * 20 + [1, 1, 2] + [3] * 5)
    x = (rng.normal(size=(len(y), 50)) + y[:, None]).astype(np.float32)
    fitted = heads.fit_all([Support(x, y)], 4, HeadConfig(kind="discriminant"))
    z = (x - x.mean(0)) / (x.std(0, ddof=1) + 1e-5)
    count = np.bincount(y)
    means = np.stack([z[y == c].mean(0) for c in range(4)])
    within = np.cov((z - means[y]).T, bias=True)
    shrunk = (len(y) * within + np.trace(within) * np.eye(50)) / (len(y) + 50)
    means *= (count / (count + 1))[:, None]
    inverse = np.linalg.inv(shrunk)
    expected = z @ inverse @ means.T - np.diag(means @ inverse @ means.T) / 2 + np.log(count / len(y))
    np.testing.assert_allclose(x @ fitted.weight[0].T + fitted.bias[0], expected, atol=1e-3)


def test_with_many_words_the_discriminant_is_fishers():
    rng = np.random.default_rng(2)
    y = rng.choice(3, 20_000, p=[0.8, 0.15, 0.05])
    mixing = np.eye(8) + 0.3 * rng.normal(size=(8, 8))
    x = ((rng.normal(size=(len(y), 8)) + 0.7 * rng.normal(size=(3, 8))[y]) @ mixing).astype(np.float32)
    fisher = LinearDiscriminantAnalysis(solver="lsqr").fit(x, y)
    fitted = heads.fit_all([Support(x, y.astype(np.int32))], 3, HeadConfig(kind="discriminant"))
    assert (heads.predict(fitted, x)[0] == fisher.predict(x)).mean() > 0.998


@pytest.mark.parametrize("kind", KINDS)
def test_one_word_a_class_is_enough(kind):
    x = np.random.default_rng(3).normal(size=(3, 16)).astype(np.float32)
    fitted = heads.fit_all([Support(x, np.arange(3, dtype=np.int32))], 3, HeadConfig(kind=kind))
    np.testing.assert_array_equal(heads.predict(fitted, x)[0], [0, 1, 2])


def test_rare_and_even_classes():
    rng = np.random.default_rng(1)
    y = np.array([0] * 60 + [1] * 3)
    x = rng.normal(size=(len(y), 40)).astype(np.float32) + 0.3 * y[:, None]
    test = rng.normal(size=(400, 40)).astype(np.float32) + 0.15  # half way
    share = {}
    for weight in ("none", "balanced"):
        fitted = heads.fit_all([Support(x, y)], 2, HeadConfig(kind="discriminant", class_weight=weight))
        share[weight] = heads.predict(fitted, test)[0].mean()
    assert share["none"] < share["balanced"]
