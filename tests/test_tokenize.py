"""Tokens and token spans: words that are looked up give what the tokenizer gives for the whole text."""

from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers
from tokenizers.processors import RobertaProcessing, TemplateProcessing

from nuner_jax.dataset.tokenize import TextTokenizer, splits_at_blanks
from nuner_jax.schema import AnnotatedText, Mention

TEXT = ["the cat sat on the mat, and it's a café in Zürich; naïve 東京 users paid 1,000€ — wasn't it? 🙂 <mask> [SEP]"]
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def byte_level():
    made = ByteLevelBPETokenizer(add_prefix_space=True)
    made.train_from_iterator(TEXT * 3, vocab_size=330, min_frequency=1, special_tokens=SPECIALS, show_progress=False)
    made._tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    return made._tokenizer


def bert(lowercase=True):
    made = BertWordPieceTokenizer(lowercase=lowercase)
    made.train_from_iterator(TEXT * 3, vocab_size=200, min_frequency=1, show_progress=False)
    pair = [("[CLS]", made.token_to_id("[CLS]")), ("[SEP]", made.token_to_id("[SEP]"))]
    made._tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=pair)
    return made._tokenizer


def metaspace():
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "▁the": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return made


TOKENIZERS = {"byte-level": byte_level(), "bert": bert(), "cased bert": bert(lowercase=False)}
pieces = st.sampled_from(
    [*TEXT[0].split(), " ", "  ", "\t", "\n", "\u00a0", "\u200b", "\u0301", "e\u0301", "'s", "東", "👩‍👩‍👧", "ǅ", "½", "\x00"]
)
texts = st.lists(pieces | st.text(max_size=4), max_size=12).map(" ".join) | st.text(max_size=30)


def one(tokenizer, text, spans, *, by_words, max_length=512):
    tokenizer.by_words = by_words
    counts = Counter()
    mentions = tuple(Mention(a, b, f"{a} {b}") for a, b in spans)
    (found,) = tokenizer([AnnotatedText(text, mentions)], counts, max_length=max_length, max_mentions=64)
    return found and (list(found.tokens), found.mentions), counts


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(text=texts, cuts=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=4), length=st.sampled_from([8, 512]))
@example(text="a <mask> b<mask>c", cuts=[(0, 1), (2, 6)], length=512)
@example(text="it 's 🙂 ok", cuts=[(3, 2), (6, 1)], length=512)
def test_word_by_word_is_as_the_whole_text(name, text, cuts, length):
    tokenizer = TextTokenizer(TOKENIZERS[name])
    assert tokenizer.by_words
    spans = sorted({(a, min(a + n, len(text))) for a, n in cuts if a < len(text)})
    whole = one(tokenizer, text, spans, by_words=False, max_length=length)
    assert one(tokenizer, text, spans, by_words=True, max_length=length) == whole
    assert one(tokenizer, text, spans, by_words=True, max_length=length) == whole  # from memory
    if length == 512 and whole[0]:
        assert whole[0][0] == TOKENIZERS[name].encode(text).ids


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=50, deadline=None)
@given(text=texts, start=st.integers(0, 30), size=st.integers(1, 9))
def test_a_mention_has_the_tokens_that_share_a_character_with_it(name, text, start, size):
    end = min(start + size, len(text))
    if start >= end:
        return
    found, counts = one(TextTokenizer(TOKENIZERS[name]), text, [(start, end)], by_words=True)
    encoding = TOKENIZERS[name].encode(text)
    flags = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
    inside = [i for i, ((a, b), special) in enumerate(flags) if not special and a < b and a < end and b > start]
    if found is not None and inside:
        assert found[1] == ((inside[0], inside[-1], f"{start} {end}"),)
    else:
        assert counts["mention: no token"] + counts["sentence: no token"] == 1


def test_a_tokenizer_that_may_look_beyond_blanks_gets_whole_texts():
    assert not splits_at_blanks(metaspace())
    without_blank = byte_level()
    without_blank.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert not splits_at_blanks(without_blank)
    with_phrase = bert()
    with_phrase.add_special_tokens(["the mat"])
    (found,) = TextTokenizer(with_phrase)([AnnotatedText("on the mat")], Counter(), max_length=64, max_mentions=4)
    assert list(found.tokens) == with_phrase.encode("on the mat").ids
    found, _ = one(TextTokenizer(byte_level()), "the mat", [(4, 7)], by_words=True)
    assert found is not None


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr("nuner_jax.dataset.tokenize.MAX_WORDS", 10)
    tokenizer = TextTokenizer(TOKENIZERS["bert"])
    for n in range(20):
        text = f"cat{n} mat{n} the"
        assert one(tokenizer, text, [], by_words=True)[0] == (TOKENIZERS["bert"].encode(text).ids, ())
        assert len(tokenizer.words) <= 10 + 3
