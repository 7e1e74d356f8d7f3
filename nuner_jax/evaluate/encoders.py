"""The encoders of a grid: named, hashed, loaded only when a feature has to be computed."""

import hashlib
import json
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from nuner_jax.errors import InputError
from nuner_jax.evaluate.features import FrozenEncoder, WordTokenizer, default_layers
from nuner_jax.pretrained import load_tokenizer, resolve

if TYPE_CHECKING:
    from flax import nnx

    from nuner_jax.model.encoder import EncoderConfig

_HASHED = ("config.json", "*.safetensors", "tokenizer*.json", "vocab.*", "merges.txt", "*.model")


class NamedEncoder:
    """An encoder under the name that tables show."""

    def __init__(self, spec: str):
        """`spec` is NAME=DIR_OR_NAME or just a name. Raises InputError."""
        name, equals, source = spec.partition("=")
        if not name or (equals and not source):
            raise InputError(f"encoder {spec!r}: expected NAME=DIR_OR_NAME")
        self.name = name if equals else Path(spec).name
        self.source = source or spec
        self.folder = resolve(self.source)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over config, weights and tokenizer."""
        digest = hashlib.sha256()
        for path in sorted({path for pattern in _HASHED for path in self.folder.glob(pattern)}):
            with open(path, "rb") as file:
                digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def depth(self) -> int:
        """Number of layers. Raises InputError."""
        path = self.folder / "config.json"
        try:
            depth = json.loads(path.read_text(encoding="utf8"))["num_hidden_layers"]
        except (OSError, ValueError, KeyError, TypeError):
            depth = None
        if not isinstance(depth, int):  # the rest is checked where the encoder is loaded
            raise InputError(f"{path}: num_hidden_layers is missing or not a number")
        return depth

    def layers(self, asked: tuple[int, ...]) -> tuple[int, ...]:
        """The hidden states to concatenate: those asked for, else the default by depth."""
        return tuple(asked) or default_layers(self.depth)

    @cached_property
    def loaded(self) -> FrozenEncoder:
        """The encoder in memory. Raises InputError."""
        return load_frozen(self.source)


def load_frozen(source: str) -> FrozenEncoder:
    """A frozen encoder by name. Raises InputError."""
    from nuner_jax.model.hf import load_encoder

    tokenizer = load_tokenizer(source)
    config, params, _ = load_encoder(source)
    if len(tokenizer) > config.vocab_size:
        raise InputError(f"{source}: its tokenizer has {len(tokenizer)} tokens, its embedding table {config.vocab_size} rows")
    graph, width, depth = _graph(config), config.hidden_size, config.num_hidden_layers
    return FrozenEncoder(graph, params, WordTokenizer(tokenizer), width, depth, config.max_length)


@lru_cache(maxsize=8)
def _graph(config: "EncoderConfig") -> "nnx.GraphDef":
    """One structure object a configuration, so that encoders of one shape share compiled programs."""
    from nuner_jax.model.encoder import structure

    return structure(config)[0]
