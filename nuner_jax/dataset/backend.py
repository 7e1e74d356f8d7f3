"""The tokenizer as the dataset stage needs it: what does the work in Transformers' tokenizers, without Transformers.

To import Transformers takes longer than to tokenise ten thousand sentences, so it is left out where it is sure to change nothing.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from nuner_jax.pretrained import fingerprint_of, load_tokenizer, resolve, state_of, tokenizer_fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIALS = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
USUAL = SPECIALS | {
    "tokenizer_class": "BertTokenizer",
    "do_basic_tokenize": True,
    "never_split": None,
    "tokenize_chinese_chars": True,
}
"""Settings of a BERT tokenizer that may be told, with the values that make it the usual one."""
WITHOUT_INFLUENCE = {"do_lower_case", "strip_accents", "name_or_path", "model_max_length", "clean_up_tokenization_spaces"}
"""Settings that may have any value: they change no token, or are looked at by themselves."""


class Backend(NamedTuple):
    """A tokenizer of the library tokenizers, and its ids with a meaning."""

    tokenizer: "Tokenizer"
    special_ids: frozenset[int]
    unk_id: int | None
    pad_id: int | None
    fingerprint: str

    @property
    def num_special(self) -> int:
        """Special tokens that are put around a text."""
        return self.tokenizer.num_special_tokens_to_add(False)

    def encode(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """Token ids of short texts, special tokens included, cut to max_length."""
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length)
        try:
            return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        finally:
            self.tokenizer.no_truncation()


def load_backend(name: str) -> Backend:
    """The tokenizer of an encoder, the same as pretrained.load_tokenizer's. Raises InputError as that one does."""
    backend = _usual_bert(resolve(name))
    if backend is None:
        whole = load_tokenizer(name)
        special: Any = whole.all_special_ids
        unk, pad = cast(tuple[int | None, int | None], (whole.unk_token_id, whole.pad_token_id))
        backend = Backend(whole.backend_tokenizer, frozenset(special), unk, pad, tokenizer_fingerprint(whole))
    return backend


def _usual_bert(folder: Path) -> Backend | None:
    """The tokenizer that tokenizer.json alone describes, if its settings elsewhere are BERT's usual ones and say the same."""
    from tokenizers import Tokenizer

    try:
        config, told, specials = (
            json.loads((folder / name).read_text(encoding="utf8"))
            for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json")
        )
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # tokenizers has no error class of its own; whatever is wrong or missing, load_tokenizer says so
        return None
    settings = {**told, **{key: value for key, value in specials.items() if key not in told}}
    usual = all(USUAL.get(key, not value) == value for key, value in settings.items() if key not in WITHOUT_INFLUENCE)
    if config.get("model_type") != "bert" or not usual or not told.get("tokenizer_class"):
        return None
    state = state_of(tokenizer)
    lowercase, accents = told.get("do_lower_case", True), told.get("strip_accents")
    vocabulary = state["model"].get("vocab", {})
    if state != _usual_state(vocabulary, lowercase, accents) or not lowercase:  # load_tokenizer looks at cased vocabularies
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = {key: vocabulary[token] for key, token in SPECIALS.items()}
    return Backend(tokenizer, frozenset(ids.values()), ids["unk_token"], ids["pad_token"], fingerprint_of(state))


def _usual_state(vocabulary: dict[str, int], lowercase: bool, accents: bool | None) -> Any:
    """What Transformers makes of a vocabulary and BERT's settings; None if it lacks a special token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    if not vocabulary.keys() >= set(SPECIALS.values()):
        return None
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(True, True, accents, lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIALS.values()])
    return state_of(tokenizer)
