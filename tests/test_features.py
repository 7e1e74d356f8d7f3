"""Word vectors do not depend on packing or order; windows cover every word once; words without sub-token get zeros."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nuner_jax.errors import InputError
from nuner_jax.evaluate import features
from nuner_jax.evaluate.features import FrozenEncoder, WordTokenizer, windows
from nuner_jax.model.encoder import EncoderConfig, init_params, structure

CONFIG = EncoderConfig("bert", 80, 16, 2, 2, 32, 24, 2, 1e-12)


@pytest.fixture(scope="module")
def tokenizer():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh", *("##" + c for c in "abcdefgh"), "ab", "##cd", "-", "##-", "."]
    backend = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.enable_truncation(8)
    backend.enable_padding(length=8)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")


@pytest.fixture(scope="module")
def encoder(tokenizer):
    params = init_params(CONFIG, jax.random.key(0))
    return FrozenEncoder(structure(CONFIG)[0], params, WordTokenizer(tokenizer), 16, 2, CONFIG.max_length)


SENTENCES = [("ab", "cd", "a-b"), ("h",), ("abcd", "e", "f", "g"), ("a", "b"), ("ab", "cd", "a-b", "."), ("é", "a")]


def test_vectors_do_not_depend_on_what_else_is_in_the_row(encoder):
    together = encoder.word_features(SENTENCES, (-1, 0))
    alone = np.concatenate([encoder.word_features([words], (-1, 0)) for words in SENTENCES])
    assert together.shape == (16, 32)
    np.testing.assert_allclose(together, alone, atol=2e-3)
    backwards = encoder.word_features(SENTENCES[::-1], (-1, 0))
    np.testing.assert_allclose(backwards[-3:], together[:3], atol=2e-3)


def test_a_word_has_the_vector_of_its_first_sub_token_at_each_layer(encoder):
    ids = np.array([[2, *(encoder.tokenizer([("abcd", "e")])[0][0]), *(encoder.tokenizer([("e",)])[0][0]), 3]])
    from nuner_jax.model.encoder import merge

    states = merge(encoder.graph, encoder.params)(ids, np.ones_like(ids))
    expected = np.concatenate([np.asarray(states[layer])[0, [1, 3]] for layer in (-1, 1)], -1)
    np.testing.assert_allclose(encoder.word_features([("abcd", "e")], (-1, 1)), expected, atol=2e-3)


def test_a_word_without_sub_token_gets_zeros_and_shifts_nothing(encoder):
    got = encoder.word_features([("ab", "\u200b", "cd")], (-1,))
    assert not got[1].any()
    np.testing.assert_allclose(got[[0, 2]], encoder.word_features([("ab", "cd")], (-1,)), atol=2e-3)


def test_words_are_tokenised_as_the_tokenizer_does_in_a_sentence(tokenizer):
    words = ("abcd", "a-b", "\u200b", "Ab", "zz", ".")
    backend = tokenizer.backend_tokenizer
    ours = WordTokenizer(tokenizer)
    whole = backend.encode(list(words), is_pretokenized=True)
    flat = [i for ids in ours([words])[0] for i in ids]
    assert ours.prefix + flat + ours.suffix == whole.ids


def test_words_are_not_remembered_without_end(tokenizer, monkeypatch):
    monkeypatch.setattr(features, "MAX_WORDS", 2)
    ours = WordTokenizer(tokenizer)
    expected = [ours([(word,)])[0] for word in "abcdefgh"]
    assert len(ours._ids) <= 3
    assert ours([tuple("abcdefgh")])[0] == [ids for (ids,) in expected]


def test_long_sentences_are_windowed_not_cut(encoder):
    words = tuple("abcdefgh"[i % 8] for i in range(100))
    got = encoder.word_features([words], (-1,))
    assert (np.abs(got).sum(1) > 0).all()
    head = encoder.word_features([words[:22]], (-1,))  # the first window: 24 positions, two of them special
    np.testing.assert_allclose(got[:8], head[:8], atol=2e-3)


def test_number_of_shapes_is_bounded(encoder):
    shapes = {
        b.tokens.shape
        for n in (3, 700, 5000)
        for b in features.batches([("ab", "cd")[: i % 2 + 1] for i in range(n)], encoder.tokenizer, 24)
    }
    assert len(shapes) == 1


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 10))
def test_windows_cover_every_word_once_within_capacity(lengths, capacity):
    parts = windows(lengths, capacity)
    kept = [w for part in parts for w in range(part.keep_start, part.keep_end)]
    assert kept == list(range(len(lengths)))
    for part in parts:
        assert part.start <= part.keep_start <= part.keep_end <= part.end
        assert sum(min(n, capacity) for n in lengths[part.start : part.end]) <= capacity


def test_a_sentence_that_fits_is_one_window():
    assert len(windows([3, 3, 4], 10)) == 1


def test_layers_that_do_not_exist_are_refused(encoder):
    with pytest.raises(InputError, match="-4"):
        encoder.word_features([("a",)], (-1, -4))
    assert features.default_layers(6) == (-1, -4)
    assert features.default_layers(12) == (-1, -7)
