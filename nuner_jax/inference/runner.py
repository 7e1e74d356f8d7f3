"""Vectors of the units of a text, computed in few shapes: bounded compilations for any mix of lengths.

Shapes: R rows, T tokens, D width, L layers. Short texts share rows, long ones are taken in overlapping windows.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from nuner_jax.dataset.packing import pack
from nuner_jax.evaluate.features import Batch, FrozenEncoder, Item, check_layers, fill, items_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SMALL = (16, 24, 32, 48, 64, 96, 128)  # a request of no more tokens is one row of such a length
ROW = 128
BATCH_TOKENS = {"cpu": 512}  # activations stay in a core's cache: 15 % less work than at 2,048
BATCH_TOKENS_ELSEWHERE = 32768
FEW_ROWS = 128  # tokens up to which a product is faster with the kernel first

Pieces = list[list[list[int]]]
"""Text -> unit -> token ids."""


class Ready:
    """Stands where items_of expects a tokenizer, for units whose token ids are known."""

    def __init__(self, prefix: list[int], suffix: list[int]):
        self.prefix, self.suffix = prefix, suffix

    def __call__(self, pieces: Any) -> Any:
        """The same."""
        return pieces


def batches(items: Sequence[Item], batch_tokens: int) -> Iterator[Batch]:
    """Items packed into rows, about batch_tokens a batch: one row of 16 to 128 tokens for a small request, else rows of 128
    (longer only for longer items) in batches of 1, 2, 4, ... rows up to the full size."""
    total = sum(len(item.tokens) for item in items)
    if total <= SMALL[-1]:
        if items:
            yield fill([list(items)], 1, next(size for size in SMALL if total <= size))
        return
    groups: dict[int, list[Item]] = {}
    for item in items:
        length = ROW
        while length < len(item.tokens):
            length *= 2
        groups.setdefault(length, []).append(item)
    for length, members in sorted(groups.items()):
        rows = pack([len(item.tokens) for item in members], [0] * len(members), length, 0)
        full = max(1, batch_tokens // length)
        for start in range(0, len(rows), full):
            chosen = [[members[i] for i in row] for row in rows[start : start + full]]
            size = 1
            while size < len(chosen):
                size *= 2
            yield fill(chosen, min(size, full), length)


@cache
def _program(graph: Any, layers: tuple[int, ...]) -> Any:
    """(parameters with kernels transposed, tokens, segment ids, positions [R, T]) -> [R, T, D * L]; shared by encoders of a shape."""
    import jax
    import jax.numpy as jnp

    from nuner_jax.model.encoder import few_rows, merge, untransposed

    @jax.jit
    def run(params: Any, tokens: Any, segment_ids: Any, positions: Any) -> Any:
        encoder = merge(graph, untransposed(params))
        if tokens.size <= FEW_ROWS and jax.default_backend() == "cpu":
            encoder = few_rows(encoder)
        states = encoder(tokens, segment_ids, positions)
        return jnp.concatenate([states[layer].astype(jnp.float32) for layer in layers], -1)

    return run


class Runner:
    """An encoder on the device."""

    def __init__(self, encoder: FrozenEncoder, tokenizer: "PreTrainedTokenizerFast"):
        import jax

        from nuner_jax.model.encoder import transposed, untransposed

        self._params = jax.device_put(transposed(encoder.params))
        views = untransposed(jax.tree.map(np.asarray, self._params))  # on a CPU the same memory, so that weights are there once
        self.encoder = dataclasses.replace(encoder, params=views)
        self._programs: dict[tuple[int, ...], Any] = {}  # by layers: to look one up by the encoder's structure takes milliseconds
        self.tokenizer = tokenizer
        self._ready = Ready(encoder.tokenizer.prefix, encoder.tokenizer.suffix)
        self._batch_tokens = BATCH_TOKENS.get(jax.default_backend(), BATCH_TOKENS_ELSEWHERE)

    def vectors(self, pieces: Pieces, layers: tuple[int, ...]) -> np.ndarray:
        """[U, D * L] float32, the first sub-token of every unit; zeros for a unit that has none.

        A text beyond the encoder's positions is encoded in windows that overlap by half; a unit's vector is that of the window in
        which it has more context on both sides.
        """
        return self.run(self.items(pieces), sum(map(len, pieces)), layers)

    def run(self, items: Sequence[Item], count: int, layers: tuple[int, ...]) -> np.ndarray:
        """[count, D * L] float32: each item's vectors at its columns, put at its targets; zeros elsewhere."""
        check_layers(layers, self.encoder.depth)
        vectors = np.zeros((count, self.encoder.width * len(layers)), np.float32)
        run = self._programs.get(layers) or self._programs.setdefault(layers, _program(self.encoder.graph, layers))
        waiting: tuple[Batch, Any] | None = None
        for batch in batches(items, self._batch_tokens):
            inputs = (batch.tokens, batch.segment_ids, batch.positions)
            states = run(self._params, *inputs)
            if waiting is not None:  # while the device works on the batch just sent
                vectors[waiting[0].targets] = np.asarray(waiting[1])[waiting[0].rows, waiting[0].columns]
            waiting = batch, states
        if waiting is not None:
            vectors[waiting[0].targets] = np.asarray(waiting[1])[waiting[0].rows, waiting[0].columns]
        return vectors

    def whole(self, texts: Sequence[str]) -> list[np.ndarray]:
        """[T, D] last hidden states of all tokens of each text, special tokens included; what goes beyond the positions is cut."""
        special, items, ends = self.encoder.tokenizer, [], [0]
        room = self.encoder.max_length - len(special.prefix) - len(special.suffix)
        for encoding in self._encode(texts):
            tokens = [*special.prefix, *encoding.ids[:room], *special.suffix]
            ends.append(ends[-1] + len(tokens))
            items.append(Item(tokens, list(range(len(tokens))), list(range(ends[-2], ends[-1]))))
        vectors = self.run(items, ends[-1], (-1,))
        return [vectors[a:b] for a, b in itertools.pairwise(ends)]

    def items(self, pieces: Pieces) -> list[Item]:
        """The windows of the texts."""
        return list(items_of(pieces, self._ready, self.encoder.max_length))  # type: ignore[arg-type]

    def words(self, words: Sequence[Sequence[str]]) -> Pieces:
        """Token ids of words, each tokenised by itself: the rule of evaluate, where text comes as words."""
        return self.encoder.tokenizer([tuple(of_text) for of_text in words])

    def pieces(self, texts: Sequence[str]) -> tuple[Pieces, list[list[tuple[int, int]]]]:
        """The units that a token-classification pipeline of Transformers sees, and their characters.

        Where the tokenizer marks continuing sub-tokens (BERT's ##) a unit is a word with them (the pipeline's strategy "first"),
        else every sub-token by itself ("simple"). The texts are tokenised whole.
        """
        marked, unknown = self.marks_words, self.tokenizer.unk_token_id
        pieces: Pieces = []
        spans: list[list[tuple[int, int]]] = []
        for encoding in self._encode(texts):
            units: list[list[int]] = []
            places: list[tuple[int, int]] = []
            for token, name, (start, end) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True):
                if marked and units and token != unknown and len(name) != end - start:
                    units[-1].append(token)
                    places[-1] = (places[-1][0], end)
                else:
                    units.append([token])
                    places.append((start, end))
            pieces.append(units)
            spans.append(places)
        return pieces, spans

    @property
    def marks_words(self) -> bool:
        """Whether the tokenizer marks the sub-tokens that continue a word."""
        return bool(getattr(self.tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None))

    def _encode(self, texts: Sequence[str]) -> Any:
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return backend.encode_batch(list(texts), add_special_tokens=False)
