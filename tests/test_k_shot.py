"""k~2k samples: enough of each type, as little more as the data allow, the same for the same seed."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.evaluate.k_shot import sample, shortfall

SENTENCES = st.lists(
    st.lists(st.sampled_from("abcd"), max_size=4).map(Counter),
    min_size=1,
    max_size=40,
)


def plain_sample(sentences, k, rng):
    """The published procedure written the slow way: what the fast one must equal, sample by sample."""
    order = list(range(len(sentences)))
    rng.shuffle(order)
    frequency = {}
    for i in order:
        for kind in sentences[i].elements():
            frequency[kind] = frequency.get(kind, 0) + 1
    count, chosen = dict.fromkeys(frequency, 0), []

    def take(i):
        chosen.append(i)
        for kind in sentences[i].elements():
            count[kind] += 1

    for kind in sorted(frequency, key=frequency.get):
        for i in order:
            fits = all(count[other] + sentences[i][other] <= 2 * k for other in sentences[i])
            if count[kind] < k and i not in chosen and sentences[i][kind] and fits:
                take(i)
    for kind in sorted(frequency, key=frequency.get):
        while count[kind] < k:
            left = [i for i in order if i not in chosen and sentences[i][kind]]
            if not left:
                break
            take(min(left, key=lambda i: sum(max(0, count[o] + sentences[i][o] - 2 * k) for o in sentences[i])))
    return chosen


@given(SENTENCES, st.integers(1, 6), st.integers(0, 50))
def test_equals_the_plain_procedure(sentences, k, seed):
    assert sample(sentences, k, seed) == plain_sample(sentences, k, random.Random(1000 * k + seed))


@given(SENTENCES, st.integers(1, 6), st.integers(0, 50))
def test_every_type_has_k_mentions_or_all_there_are(sentences, k, seed):
    chosen = sample(sentences, k, seed)
    assert len(set(chosen)) == len(chosen)
    total = sum(sentences, Counter())
    drawn = sum((sentences[i] for i in chosen), Counter())
    assert all(drawn[kind] >= min(k, total[kind]) for kind in total)
    assert all(sentences[i] for i in chosen)


@given(st.lists(st.sampled_from("abcd").map(lambda kind: Counter([kind])), min_size=20, max_size=60), st.integers(1, 3))
def test_single_mention_sentences_give_exactly_k(sentences, k):
    drawn = sum((sentences[i] for i in sample(sentences, k, 0)), Counter())
    total = sum(sentences, Counter())
    assert all(drawn[kind] == min(k, total[kind]) for kind in total)


def test_the_second_pass_fills_a_type_that_the_cap_keeps_below_k():
    crowded = [Counter({"rare": 1, "common": 9})] * 3 + [Counter({"common": 1})] * 20
    drawn = sum((crowded[i] for i in sample(crowded, 2, 0)), Counter())
    assert drawn["rare"] == 2


@given(SENTENCES, st.integers(1, 6))
def test_exact_k_has_k_and_overshoots_no_more_than_its_last_sentences(sentences, k):
    total, drawn = sum(sentences, Counter()), Counter()
    for i in sample(sentences, k, 0, "exact_k"):
        assert any(drawn[kind] < k for kind in sentences[i])  # no sentence that nobody needed
        drawn += sentences[i]
    assert all(drawn[kind] >= min(k, total[kind]) for kind in total)


def test_words_are_counted_where_words_are_asked_for():
    words = [Counter({"long": 5}), Counter({"long": 1}), Counter({"short": 1})] * 10
    drawn = sum((words[i] for i in sample(words, 8, 0, "words")), Counter())
    assert 8 <= drawn["long"] <= 16
    assert 8 <= drawn["short"] <= 16


def test_seeds_differ_and_repeat():
    sentences = [Counter({"ab"[i % 2]: 1}) for i in range(200)]
    assert sample(sentences, 4, 0) == sample(sentences, 4, 0) != sample(sentences, 4, 1)


def test_types_that_are_too_rare_are_named():
    assert shortfall({"a": 3, "b": 8}, 4) == {"a": 3}
