"""NuNER: examples of every form, exact offsets for any text, windows, batches, thresholds, zero-shot, save and load."""

import itertools
import json
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import make_bert, make_xlmr
from hypothesis import given, settings
from hypothesis import strategies as st

from nuner_jax import Entity, NuNER
from nuner_jax.config import FinetuneConfig, HeadConfig
from nuner_jax.errors import InputError
from nuner_jax.inference.entities import Candidates, Units, above, best, entities_of
from nuner_jax.inference.examples import read_examples
from nuner_jax.inference.heads import Head, calibrate
from nuner_jax.inference.nuner import _decide
from nuner_jax.inference.words import words_of
from nuner_jax.schema import TaggedSentence

EXAMPLES = ["[alpha](letter) sees a [movie](thing)", "the [beta](letter) eats [food](thing)", "a person in the city"]


@pytest.fixture(scope="module")
def folder(tiny_encoder, tmp_path_factory):
    """The tiny encoder with a concept encoder beside it."""
    folder = tmp_path_factory.mktemp("pretrained") / "hf"
    shutil.copytree(tiny_encoder, folder)
    shutil.copytree(tiny_encoder, folder / "concept_encoder")
    about = {"logit": {"kind": "cosine", "scale": 8.0, "bias": -4.0}, "concept_encoder": "concept_encoder"}
    (folder / "nuner.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def ner(folder):
    return NuNER.from_pretrained(folder).fit(EXAMPLES)


@pytest.fixture(scope="module")
def portable(folder):
    return NuNER.from_pretrained(folder).fit(EXAMPLES, portable=True)


def test_the_words_of_the_examples_are_found_again(ner):
    found = ner.predict(["the alpha sees food"])[0]
    assert Entity(4, 9, "alpha", "letter", pytest.approx(1, abs=0.9)) in [e for e in found if e.label == "letter"]
    assert ner.labels == ("letter", "thing")
    assert all(0 < e.score <= 1 for e in found)


def test_forms_of_examples_mean_the_same(tmp_path):
    text, spans = "alpha sees a movie", [(0, 5, "letter"), (13, 18, "thing")]
    tagged = TaggedSentence(("alpha", "sees", "a", "movie"), ("B-letter", "O", "O", "B-thing"))
    ents = [SimpleNamespace(start_char=s, end_char=e, label_=kind) for s, e, kind in spans]
    objects = [{"start": s, "end": e, "label": kind} for s, e, kind in spans]
    forms = [
        EXAMPLES[0], (text, spans), (text, {"entities": spans}), {"text": text, "entities": objects},
        {"text": text, "mentions": [{"start": 0, "end": 5, "concept": "letter"}, {"start": 13, "end": 18, "concept": "thing"}]},
        (text, [Entity(s, e, text[s:e], kind, 1.0) for s, e, kind in spans]), tagged, SimpleNamespace(text=text, ents=ents),
    ]  # fmt: skip
    assert len({str(example) for example in read_examples(forms)}) == 1
    (tmp_path / "a.bio").write_text("alpha\tB-letter\nsees\tO\na\tO\nmovie\tB-thing\n")
    (tmp_path / "a.txt").write_text(EXAMPLES[0] + "\n\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text, "entities": spans}) + "\n")
    (tmp_path / "b.jsonl").write_text(
        json.dumps({"tokenized_text": list(tagged.words), "ner": [[0, 0, "letter"], [3, 3, "thing"]]})
    )
    for name in ("a.bio", "a.txt", "a.jsonl", "b.jsonl"):
        assert read_examples(tmp_path / name) == read_examples(forms[:1]), name


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (["plain text"], "none of 1 examples has a mention"),
        ([("text", [(0, 9, "x")])], r"example 1: span 0..9 is not inside a text of 4 characters"),
        (["ok [a](b)", "broken [x](y"], "example 2: broken markup"),
        ([("text", [(0, "x")])], "a span has to be"),
        ([7], "example 1: expected tagged words"),
        (7, "expected a list of examples"),
        ("nowhere.bio", "nowhere.bio: cannot be read"),
    ],
)
def test_a_bad_example_is_named(examples, message):
    with pytest.raises(InputError, match=message):
        read_examples(examples)


def test_save_and_load_give_the_same_predictions(ner, folder, tmp_path):
    texts = ["the alpha eats a movie", "zeta"]
    ner.save(tmp_path / "m")
    again = NuNER.from_pretrained(tmp_path / "m")
    assert again.predict(texts) == ner.predict(texts)
    assert again.predict(texts, labels=["letter"], threshold=0.0) == ner.predict(texts, labels=["letter"], threshold=0.0)
    again.save(tmp_path / "m")  # over itself
    with pytest.raises(InputError, match="was not written by save"):
        ner.save(folder)


def test_a_head_that_does_not_fit_its_encoder_is_named(ner, tmp_path):
    from safetensors.numpy import load_file, save_file

    ner.save(tmp_path / "model")
    weights = tmp_path / "model" / "head.safetensors"
    whole = load_file(weights)
    save_file({**whole, "kernel": whole["kernel"][:-1].copy()}, weights)
    with pytest.raises(InputError, match=r"its head is of another encoder \(it reads 31 numbers a word, 2 layers .* give 32"):
        NuNER.from_pretrained(tmp_path / "model")
    save_file({**whole, "kernel": whole["kernel"][0].copy()}, weights)
    with pytest.raises(InputError, match=r"head\.safetensors: not the weights of a head of 2 types"):
        NuNER.from_pretrained(tmp_path / "model")


def test_fine_tuning_learns_the_examples_and_is_kept(folder, tmp_path):
    config = FinetuneConfig(num_epochs=40, learning_rate=1e-3, head_learning_rate=1e-2, dropout=0.0)
    ner = NuNER.from_pretrained(folder).fit(EXAMPLES, head="finetune", finetune_config=config)
    found = ner.predict(["alpha sees a movie"])[0]
    assert [(e.text, e.label) for e in found] == [("alpha", "letter"), ("movie", "thing")]
    ner.save(tmp_path / "m")
    again = NuNER.from_pretrained(tmp_path / "m")
    assert again.predict(["alpha sees a movie"])[0] == found
    with pytest.raises(InputError, match="no concept encoder"):  # which no longer fits the encoder
        again.predict(["a"], labels=["letter"])


ANY_TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("ab é\u0301\u200b\u200d🍣👩‍🍳東京\n\t\u00a0\ufeff")),
    max_size=60,
)


@settings(max_examples=60)
@given(st.lists(ANY_TEXT, max_size=4))
def test_offsets_are_exact_for_any_text(ner, portable, texts):
    for found in (ner.predict(texts), portable.predict(texts), ner.predict(texts, labels=["x"], threshold=0.0, flat=False)):
        assert len(found) == len(texts)
        for text, entities in zip(texts, found, strict=True):
            for e in entities:
                assert text[e.start : e.end] == e.text != ""
                assert e.text == e.text.strip()
    for entities in ner.predict(texts):  # flat: none overlaps the next
        assert all(a.end <= b.start for a, b in itertools.pairwise(entities))


def test_a_long_text_is_read_in_windows_and_each_mention_reported_once(ner):
    long = " ".join(["a person sees the alpha in the city"] * 40)
    found = ner.predict([long])[0]
    starts = {e.start for e in found if e.label == "letter"}
    assert len(starts) == len([e for e in found if e.label == "letter"])
    assert all(long[e.start : e.end] == e.text for e in found)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    assert sum("alpha" in e.text for e in found) >= 30


def test_a_text_does_not_depend_on_its_batch(ner):
    texts = ["alpha sees a movie", "the beta eats", " ".join(["food"] * 50), "", "a"] * 9
    alone = [ner.predict([text])[0] for text in texts[:5]]
    for together, single in zip(ner.predict(texts), alone * 9, strict=True):
        assert [(e.start, e.end, e.label) for e in together] == [(e.start, e.end, e.label) for e in single]
        assert [e.score for e in together] == pytest.approx([e.score for e in single], abs=1e-4)


def test_few_shapes_are_compiled_for_any_mix_of_lengths():
    from nuner_jax.evaluate.features import Item
    from nuner_jax.inference.runner import BATCH_TOKENS, batches

    rng, shapes = np.random.default_rng(0), set()
    for _ in range(300):
        lengths = rng.integers(1, 500 if rng.random() < 0.3 else 60, rng.integers(1, 80))
        items = [Item([1] * n, [0], [i]) for i, n in enumerate(lengths.tolist())]
        got = list(batches(items, BATCH_TOKENS["cpu"]))
        assert sorted(t for batch in got for t in batch.targets.tolist()) == list(range(len(items)))
        shapes |= {batch.tokens.shape for batch in got}
    assert len(shapes) <= 12


def test_a_lower_threshold_finds_no_fewer_words(ner):
    def words(threshold):
        return {i for e in ner.predict(["the alpha sees food in a city"], threshold=threshold)[0] for i in range(e.start, e.end)}

    assert words(0.99) <= words(0.5) <= words(0.2) <= words(0.0)
    assert len(words(0.0)) > len(words(0.99))


def test_what_is_likelier_than_no_label_is_found_whether_labels_may_overlap_or_not():
    scores, none = np.float32([[0.4, 0.3], [0.2, 0.1], [0.35, 0.3]]), np.float32([0.3, 0.7, 0.2])
    flat, free = (_decide(scores, none, None, flat) for flat in (True, False))
    assert list(zip(flat.unit, flat.label, strict=True)) == [(0, 0), (2, 0)]
    assert list(zip(free.unit, free.label, strict=True)) == [(0, 0), (2, 0), (2, 1)]


def test_labels_are_scored_by_the_concept_encoder_and_may_overlap(ner):
    texts = ["the alpha sees food"]
    flat = ner.predict(texts, labels=["person", "city"], threshold=0.0)[0]
    every = ner.predict(texts, labels={"person": "somebody", "city": ""}, threshold=0.0, flat=False)[0]
    assert {e.label for e in every} == {"person", "city"}
    assert all(e.text == texts[0] for e in every)  # every word passes, with both labels
    assert sum(len(e.text.split()) for e in flat) == 4
    many = [f"kind {i}" for i in range(3000)]
    assert ner.predict(texts, labels=many, threshold=0.0)[0]


def test_scores_that_are_too_sure_are_calibrated():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 5)) * 2
    gold = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # drawn with the probabilities that the logits say
    temperature, _ = calibrate([40 * logits], [gold], 1)
    assert 36 < temperature < 44


@pytest.mark.parametrize("make", [make_bert, make_xlmr])
def test_any_family_of_encoders_learns_and_keeps_offsets(make, tmp_path):
    make(tmp_path / "encoder")
    texts = ["alpha sees a movie", "the  beta\u200b eats 🍣 food", "東京 alpha"]
    for portable in (False, True):
        linear = HeadConfig(kind="linear")  # learns words by heart, whatever a random encoder makes of them
        ner = NuNER.from_pretrained(tmp_path / "encoder").fit(EXAMPLES, portable=portable, head_config=linear)
        found = ner.predict(texts)
        assert portable or (0, 5, "letter") in [(e.start, e.end, e.label) for e in found[0]]  # portable: by pieces, which vary
        assert all(text[e.start : e.end] == e.text for text, of_text in zip(texts, found, strict=True) for e in of_text)
        assert NuNER.from_pretrained(ner.save(tmp_path / "model")).predict(texts) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "one text"}, "expected a list of texts"),
        ({"texts": [1]}, "expected texts, got int"),
        ({"texts": ["a"], "threshold": 2}, "threshold 2 is not between 0 and 1"),
        ({"texts": ["a"], "labels": []}, "labels: expected a list"),
        ({"texts": ["a"], "labels": ["x", "x"]}, "'x' is there twice"),
        ({"texts": ["a"], "labels": ["  "]}, "every label needs a name"),
        ({"texts": ["a", "b \ud800"]}, "text 1 has half of a surrogate pair"),
        ({"texts": ["a"], "labels": ["x\ud800"]}, "labels: half of a surrogate pair"),
        ({"texts": ["a"], "labels": {"x": "y\ud800"}}, "labels: half of a surrogate pair"),
    ],
)
def test_a_bad_argument_is_one_clear_line(ner, arguments, message):
    with pytest.raises(InputError, match=message):
        ner.predict(**arguments)


def test_examples_that_the_tokenizer_leaves_nothing_of_are_refused(tmp_path):
    with pytest.raises(InputError, match="no mention has a word that the tokenizer leaves"):
        NuNER.from_pretrained(make_bert(tmp_path / "bert")).fit(["[\u200b](letter) alpha"])


def test_scores_far_below_zero_give_no_warning(ner, monkeypatch):
    monkeypatch.setattr(ner.concepts, "logit", {"kind": "dot", "scale": 1.0, "bias": 0.0})
    vectors = np.array([[100.0], [-100.0]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ner.concepts.candidates(vectors, np.float32([[10.0]]), None, flat=True).unit.tolist() == [0]


def test_a_plain_encoder_says_what_it_lacks(tiny_encoder):
    ner = NuNER.from_pretrained(tiny_encoder)
    with pytest.raises(InputError, match="no head has been fitted"):
        ner.predict(["a"])
    with pytest.raises(InputError, match="no concept encoder here"):
        ner.predict(["a"], labels=["x"])
    with pytest.raises(InputError, match="layers 9"):
        ner.fit(EXAMPLES, layers=(9,))


def test_a_portable_head_labels_what_a_pipeline_labels(portable):
    assert portable.head.unit == "piece"
    assert portable.head.layers == (-1,)
    assert set(portable.head.params) == {"kernel", "bias"}


def test_runs_of_one_label_become_one_entity():
    units = Units.of([[(0, 1), (2, 3), (4, 5)], [(0, 1), (2, 3)]])
    scores = np.array([[0.9, 0.1], [0.7, 0.1], [0.2, 0.8], [0.2, 0.8], [0.1, 0.1]])
    texts = ["a b c", "d e"]
    assert entities_of(texts, units, best(scores, 0.5), ["x", "y"]) == [
        [Entity(0, 3, "a b", "x", 0.8), Entity(4, 5, "c", "y", 0.8)],
        [Entity(0, 1, "d", "y", 0.8)],
    ]
    assert [e.label for e in entities_of(texts, units, above(scores, 0.15), ["x", "y"])[0]] == ["x", "y"]
    assert entities_of(texts, units, Candidates(*(np.array([], int),) * 3), ["x", "y"]) == [[], []]


def test_calibration_makes_overconfident_scores_modest(ner):
    assert "leaving out 3 parts" in ner.head.calibration
    sharp = Head(("x",), (-1,), "word", 1.0, {"kernel": np.eye(2), "bias": np.zeros(2)}, "frozen", "")
    soft = Head(("x",), (-1,), "word", 4.0, sharp.params, "frozen", "")
    vectors = np.array([[3.0, 1.0]])
    assert soft.probabilities(vectors)[0, 0] < sharp.probabilities(vectors)[0, 0]


def test_words_keep_their_marks_and_cjk_goes_by_character():
    def words(text):
        return [text[a:b] for a, b in words_of(text)]

    assert words("東京に行く, ok") == ["東", "京", "に", "行", "く", ",", "ok"]
    assert words("cafe\u0301s to-do") == ["cafe\u0301s", "to-do"]
    assert words("👩‍🍳 cooks❤️") == ["👩‍🍳", "cooks", "❤️"]
    assert words("naïve IL-2, don't") == ["naïve", "IL-2", ",", "don't"]


@given(ANY_TEXT)
def test_words_cover_every_visible_character_once(text):
    spans = words_of(text)
    assert all(a < b for a, b in spans)
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))
    inside = {i for a, b in spans for i in range(a, b)}
    assert {i for i, c in enumerate(text) if not c.isspace()} <= inside
