"""Word vectors of a frozen encoder: first sub-token of each word, hidden states concatenated, long sentences by windows."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from nuner_jax.dataset.packing import pack
from nuner_jax.errors import InputError

if TYPE_CHECKING:
    from flax import nnx
    from transformers import PreTrainedTokenizerFast

Sentences = Sequence[tuple[str, ...]]
ROW_LENGTHS = (128, 256, 512)
TOKENS_PER_BATCH = {"cpu": 2048}  # keeps activations in the cache of a CPU core and the last, half-filled batch small
TOKENS_PER_BATCH_ELSEWHERE = 32768
MAX_WORDS = 500_000
"""Words whose tokens are remembered; then memory starts anew, as a server meets ever new ones."""
DTYPE = np.float16  # of stored features; float32 features move no score by 0.1 points


@dataclass(frozen=True)
class Window:
    """Words start:end of a sentence are encoded together; the vectors of keep_start:keep_end are taken from here."""

    start: int
    end: int
    keep_start: int
    keep_end: int


def windows(lengths: Sequence[int], capacity: int) -> list[Window]:
    """Windows over words of the given token counts, at most `capacity` tokens each (a longer word counts as capacity).

    Windows overlap by up to half; a word is kept from the window in which it stands farther from the cut.
    """
    n = len(lengths)
    if sum(lengths) <= capacity:  # nearly always
        return [Window(0, n, 0, n)]
    ends = np.concatenate([[0], np.cumsum(np.minimum(lengths, capacity))]).astype(np.int64)  # ends[i]: tokens before word i
    spans: list[tuple[int, int]] = []
    start = 0
    while True:
        end = int(np.searchsorted(ends, ends[start] + capacity, side="right")) - 1
        spans.append((start, end))
        if end >= n:
            break
        following = int(np.searchsorted(ends, ends[end] - capacity // 2, side="left"))
        start = max(start + 1, min(following, end))
    cuts = [0]
    for (_, end), (start, _) in itertools.pairwise(spans):
        middle = (ends[start] + ends[end]) / 2
        cuts.append(max(cuts[-1], start, min(end, int(np.searchsorted(ends, middle, side="left")))))
    return [Window(a, b, cuts[i], cuts[i + 1] if i + 1 < len(spans) else n) for i, (a, b) in enumerate(spans)]


class WordTokenizer:
    """Token ids of single words, each tokenised once. Words are independent of each other, as text split into words always is."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast"):
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        probe = self._backend.encode(["a"], is_pretokenized=True)
        special = probe.special_tokens_mask
        before = next(i for i, s in enumerate(special) if not s)
        after = next(i for i, s in enumerate(reversed(special)) if not s)
        self.prefix, self.suffix = probe.ids[:before], probe.ids[len(special) - after :]
        self._ids: dict[str, list[int]] = {}

    def __call__(self, sentences: Sentences) -> list[list[list[int]]]:
        """Sentence -> word -> token ids; a word may have none."""
        if len(self._ids) > MAX_WORDS:
            self._ids = {}
        new = [word for word in dict.fromkeys(itertools.chain.from_iterable(sentences)) if word not in self._ids]
        encodings = self._backend.encode_batch([[word] for word in new], is_pretokenized=True, add_special_tokens=False)
        self._ids.update((word, encoding.ids) for word, encoding in zip(new, encodings, strict=True))
        return [[self._ids[word] for word in words] for words in sentences]


@dataclass(frozen=True)
class Item:
    """A window ready to be packed: its tokens, and where its kept words' first sub-tokens stand and go."""

    tokens: list[int]
    columns: list[int]  # first sub-token of each kept word that has one
    targets: list[int]  # row of the word in the result


def items_of(sentences: Sentences, tokenizer: WordTokenizer, max_length: int) -> Iterator[Item]:
    """The windows of all sentences, special tokens added. Raises InputError if the encoder is too short for a word."""
    capacity = max_length - len(tokenizer.prefix) - len(tokenizer.suffix)
    if capacity < 1:
        raise InputError(f"the encoder's {max_length} positions leave no room for a word")
    offset = 0
    for words in tokenizer(sentences):
        for window in windows([len(ids) for ids in words], capacity):
            tokens, columns, targets = list(tokenizer.prefix), [], []
            for w in range(window.start, window.end):
                if words[w] and window.keep_start <= w < window.keep_end:
                    columns.append(len(tokens))
                    targets.append(offset + w)
                tokens += words[w][:capacity]
            if columns:
                yield Item(tokens + tokenizer.suffix, columns, targets)
        offset += len(words)


@dataclass(frozen=True)
class Batch:
    """Packed rows [R, T], and for `vectors[targets] = hidden[rows, columns]` where the words are."""

    tokens: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    targets: np.ndarray


def batches(sentences: Sentences, tokenizer: WordTokenizer, max_length: int, batch_tokens: int = 2048) -> Iterator[Batch]:
    """Windows packed into rows of few lengths, `batch_tokens` tokens a batch; there is one shape a row length."""
    groups: dict[int, list[Item]] = {}
    for item in items_of(sentences, tokenizer, max_length):
        length = next((size for size in ROW_LENGTHS if len(item.tokens) <= size), len(item.tokens))
        groups.setdefault(length, []).append(item)
    for length, items in sorted(groups.items()):
        rows = pack([len(item.tokens) for item in items], [0] * len(items), length, 0)
        size = max(1, batch_tokens // length)
        for start in range(0, len(rows), size):
            yield fill([[items[i] for i in row] for row in rows[start : start + size]], size, length)


def fill(rows: list[list[Item]], size: int, length: int) -> Batch:
    """Items row by row as arrays of `size` rows of `length` tokens."""
    tokens, segment_ids, positions = (np.zeros((size, length), np.int32) for _ in range(3))
    where: list[tuple[int, int, int]] = []
    for r, row in enumerate(rows):
        start = 0
        for segment, item in enumerate(row, start=1):
            end = start + len(item.tokens)
            tokens[r, start:end] = item.tokens
            segment_ids[r, start:end] = segment
            positions[r, start:end] = np.arange(end - start)
            where += [(r, start + c, t) for c, t in zip(item.columns, item.targets, strict=True)]
            start = end
    return Batch(tokens, segment_ids, positions, *np.array(where, np.int64).reshape(-1, 3).T)


@cache
def _hidden_states() -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    from nuner_jax.model.encoder import merge

    def hidden_states(params, graph, layers, tokens, segment_ids, positions):
        states = merge(graph, params)(tokens, segment_ids, positions)
        return jnp.concatenate([states[layer] for layer in layers], -1).astype(DTYPE)  # [R, T, D * len(layers)]

    return jax.jit(hidden_states, static_argnums=(1, 2))  # encoders of one architecture share the compiled program


@dataclass(frozen=True)
class FrozenEncoder:
    """An encoder and its tokenizer, ready to give word vectors."""

    graph: "nnx.GraphDef"
    params: Any
    tokenizer: WordTokenizer
    width: int
    depth: int
    max_length: int

    def word_features(
        self, sentences: Sentences, layers: tuple[int, ...], progress: Callable[[int], Any] = lambda words: None
    ) -> np.ndarray:
        """[W, D * len(layers)] float16, the words of all sentences in a row; a word without sub-token gets zeros.

        `layers` index the hidden states (0 the embeddings, -1 the last). `progress` is told how many words have been done.
        """
        import jax

        check_layers(layers, self.depth)
        run = _hidden_states()
        batch_tokens = TOKENS_PER_BATCH.get(jax.default_backend(), TOKENS_PER_BATCH_ELSEWHERE)
        vectors = np.zeros((sum(map(len, sentences)), self.width * len(layers)), DTYPE)

        def collect(batch: Batch, hidden: Any) -> None:
            vectors[batch.targets] = np.asarray(hidden)[batch.rows, batch.columns]
            progress(len(batch.targets))

        waiting: tuple[Batch, Any] | None = None
        for batch in batches(sentences, self.tokenizer, self.max_length, batch_tokens):
            hidden = run(self.params, self.graph, layers, batch.tokens, batch.segment_ids, batch.positions)
            if waiting is not None:
                collect(*waiting)  # while the device works on the batch just sent
            waiting = batch, hidden
        if waiting is not None:
            collect(*waiting)
        return vectors


def check_layers(layers: Sequence[int], depth: int) -> None:
    """Raises InputError unless every layer names one of the depth + 1 hidden states."""
    wrong = [layer for layer in layers if not -depth - 1 <= layer <= depth]
    if wrong or not layers:
        raise InputError(
            f"layers {','.join(map(str, wrong)) or '(none)'}: an encoder of {depth} layers has hidden states 0 to {depth}"
        )


def default_layers(depth: int) -> tuple[int, int]:
    """The last hidden state and the middle one: -1 and -4 of 6 layers, -1 and -7 of 12 (the model card's pair)."""
    return -1, -1 - depth // 2
