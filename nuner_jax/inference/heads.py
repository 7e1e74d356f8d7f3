"""A fitted head: scores of entity types from the vectors of units; how it is fitted, calibrated and stored.

Shapes: U units, D width times layers, C classes (0: no entity).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from nuner_jax.config import FinetuneConfig, HeadConfig
from nuner_jax.errors import InputError
from nuner_jax.evaluate.features import FrozenEncoder
from nuner_jax.inference.examples import Example
from nuner_jax.inference.runner import Pieces, Runner

Unit = Literal["word", "piece"]
FILE = "head.json"
WEIGHTS = "head.safetensors"
TEMPERATURES = np.exp(np.linspace(np.log(0.1), np.log(100), 139))
FOLDS = 5


@dataclass(frozen=True)
class Head:
    """A linear or two-layer classifier on units of text.

    unit "word": words of the text, each by its first sub-token; "piece": what a Transformers pipeline takes apart, see Runner.pieces.
    """

    types: tuple[str, ...]
    layers: tuple[int, ...]
    unit: Unit
    temperature: float  # logits are divided by it before the softmax
    params: dict[str, np.ndarray]  # kernel [D, C], bias [C]; with a hidden layer also hidden_kernel, hidden_bias
    method: str  # frozen or finetune
    calibration: str  # how the temperature was found

    @property
    def width(self) -> int:
        """D, what it reads of a unit."""
        return self.params["hidden_kernel" if "hidden_kernel" in self.params else "kernel"].shape[0]

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """[U, D] -> [U, C]."""
        p = self.params
        if "hidden_kernel" in p:
            vectors = _gelu(vectors @ p["hidden_kernel"] + p["hidden_bias"])
        return vectors @ p["kernel"] + p["bias"]

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """[U, D] -> [U, C], calibrated."""
        return softmax(self.logits(vectors) / self.temperature)

    def save(self, folder: Path) -> None:
        """head.json and head.safetensors."""
        from safetensors.numpy import save_file

        about = {"format": 1, "types": self.types, "layers": self.layers, "unit": self.unit, "temperature": self.temperature}
        about |= {"method": self.method, "calibration": self.calibration}
        (folder / FILE).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
        save_file({name: np.ascontiguousarray(x) for name, x in self.params.items()}, folder / WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> "Head | None":
        """The head of a folder, None where it has none. Raises InputError."""
        from nuner_jax.model import hf

        if not (folder / FILE).is_file():
            return None
        about, params = hf.read_json(folder / FILE), hf.read_safetensors(folder / WEIGHTS)
        try:
            types, layers = tuple(about["types"]), tuple(about["layers"])
            head = cls(types, layers, about["unit"], about["temperature"], params, about["method"], about["calibration"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder / FILE}: not a head of nuner_jax ({error})") from None
        shape = params["kernel"].shape[1:] if "kernel" in params else ()
        if shape != (len(types) + 1,) or "bias" not in params or params["bias"].shape != shape:
            raise InputError(f"{folder / WEIGHTS}: not the weights of a head of {len(types)} types")
        return head


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))  # as jax.nn.gelu, with which it is trained


@dataclass(frozen=True)
class Support:
    """The examples as units: token ids and a label each."""

    types: tuple[str, ...]
    pieces: Pieces
    labels: np.ndarray  # [U]
    offsets: np.ndarray  # [S + 1]: example s has units offsets[s]:offsets[s + 1]

    @classmethod
    def of(cls, examples: Sequence[Example], runner: Runner, unit: Unit) -> "Support":
        """Splits the examples into units and labels them. Raises InputError if no unit with a sub-token is in a mention."""
        types = tuple(sorted({kind for example in examples for _, _, kind in example.spans}))
        if unit == "word":
            pieces = runner.words([[e.text[a:b] for a, b in e.words] for e in examples])
            spans = [list(e.words) for e in examples]
        else:
            pieces, spans = runner.pieces([e.text for e in examples])
        numbers = {kind: n for n, kind in enumerate(types, start=1)}
        labels = [e.labels(units, numbers) for e, units in zip(examples, spans, strict=True)]
        flat = np.array([label for of_text in labels for label in of_text], np.int32)
        support = cls(types, pieces, flat, np.concatenate([[0], np.cumsum([len(of_text) for of_text in labels])]))
        if not flat[support.known()].any():
            raise InputError("examples: no mention has a word that the tokenizer leaves something of")
        return support

    def known(self) -> np.ndarray:
        """[U] whether a unit has a sub-token: only those are learnt from."""
        return np.array([bool(ids) for of_text in self.pieces for ids in of_text], bool)


def fit_frozen(runner: Runner, support: Support, layers: tuple[int, ...], unit: Unit, config: HeadConfig) -> Head:
    """A linear head on the vectors of a frozen encoder, as evaluate fits it; temperature by leave-out over the examples."""
    from nuner_jax.evaluate import heads

    vectors, known = runner.vectors(support.pieces, layers), support.known()
    classes = len(support.types) + 1
    texts = np.repeat(np.arange(len(support.pieces)), np.diff(support.offsets))
    folds = leave_out(len(support.pieces)) if len(support.pieces) > 1 else []
    kept = [known, *(known & ~np.isin(texts, fold) for fold in folds)]
    parts = [(keep, fold) for keep, fold in zip(kept, [None, *folds], strict=True) if support.labels[keep].any()]
    fitted = heads.fit_all([heads.Support(vectors[keep], support.labels[keep]) for keep, _ in parts], classes, config)
    logits, gold = [], []
    for n, (keep, fold) in enumerate(parts):
        if fold is None:
            continue
        out = known & np.isin(texts, fold) & np.isin(support.labels, support.labels[keep])
        logits.append(vectors[out] @ fitted.weight[n].T + fitted.bias[n])
        gold.append(support.labels[out])
    temperature, how = calibrate(logits, gold, len(folds))
    params = {"kernel": np.ascontiguousarray(fitted.weight[0].T), "bias": fitted.bias[0]}
    return Head(support.types, layers, unit, temperature, params, "frozen", how)


def leave_out(count: int) -> list[np.ndarray]:
    """Parts of 0..count-1 to be left out in turn: single ones up to 10, else fifths; the same every time."""
    order = np.random.default_rng(0).permutation(count)
    return np.array_split(order, count if count <= 10 else FOLDS)


def calibrate(logits: Sequence[np.ndarray], gold: Sequence[np.ndarray], folds: int) -> tuple[float, str]:
    """The temperature with the smallest mean cross-entropy on units that the head had not seen, and how it was found."""
    if not sum(map(len, gold)):
        return 1.0, "none: no examples to leave out"
    x, y = np.concatenate(logits), np.concatenate(gold)

    def loss(temperature: float) -> float:
        p = softmax(x / temperature)
        return float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean())

    found = min(TEMPERATURES, key=loss)
    return float(found), f"temperature by leaving out {folds} part{'s' * (folds != 1)} of the examples in turn, {len(y)} units"


def fit_finetune(
    runner: Runner, support: Support, layers: tuple[int, ...], unit: Unit, config: FinetuneConfig, seed: int, linear: bool
) -> tuple[Head, FrozenEncoder]:
    """Encoder and head trained together, as evaluate does; the temperature from a fifth of the examples that a second, equal run
    beside it does not see. Returns the head and the trained encoder."""
    import jax

    from nuner_jax.evaluate import finetune

    count = len(support.pieces)
    base = runner.encoder
    held = leave_out(count)[0] if count > 1 else np.array([], int)
    sets = [np.arange(count), np.setdiff1d(np.arange(count), held)] if len(held) else [np.arange(count)]
    known, texts = support.known(), np.repeat(np.arange(count), np.diff(support.offsets))
    if len(sets) > 1 and not support.labels[known & ~np.isin(texts, held)].any():
        sets, held = sets[:1], held[:0]
    plans, vocabularies = [], []
    for indices in sets:
        items = runner.items([support.pieces[i] for i in indices])
        targets = np.concatenate([support.labels[support.offsets[i] : support.offsets[i + 1]] for i in indices])
        vocabularies.append(np.unique(np.concatenate([item.tokens for item in items])))
        plans.append(finetune.plan(items, targets, vocabularies[-1], config, seed))
    classes = len(support.types) + 1
    trained = finetune.train(base, layers, plans, vocabularies, classes, config, [seed] * len(plans), "fine-tuning", linear)
    heads, encoders = [], []
    for s, vocabulary in enumerate(vocabularies):
        one = jax.device_get(jax.tree.map(lambda x, s=s: x[s], trained))
        encoders.append(finetune.with_trained(base, one["encoder"], vocabulary))
        params = {"kernel": one["head"]["output"]["kernel"], "bias": one["head"]["output"]["bias"]}
        if "hidden" in one["head"]:
            params |= {"hidden_kernel": one["head"]["hidden"]["kernel"], "hidden_bias": one["head"]["hidden"]["bias"]}
        heads.append(Head(support.types, layers, unit, 1.0, params, "finetune", "none: no examples to leave out"))
    if len(sets) == 1:
        return heads[0], encoders[0]
    out = known & np.isin(texts, held)
    vectors = Runner(encoders[1], runner.tokenizer).vectors([support.pieces[i] for i in held], layers)
    order = np.concatenate([np.flatnonzero(texts == i) for i in held])
    seen = np.isin(support.labels[order], support.labels[known & ~np.isin(texts, held)]) & out[order]
    temperature, how = calibrate([heads[1].logits(vectors)[seen]], [support.labels[order][seen]], 1)
    full = heads[0]
    return Head(full.types, layers, unit, temperature, full.params, "finetune", how), encoders[0]
