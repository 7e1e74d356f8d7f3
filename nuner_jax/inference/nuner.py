"""`NuNER`: load an encoder, fit a head on a few examples or name the labels, predict, save."""

import os
import shutil
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nuner_jax.config import FinetuneConfig, HeadConfig
from nuner_jax.errors import InputError
from nuner_jax.evaluate.features import check_layers, default_layers
from nuner_jax.inference.entities import Candidates, Entity, Units, above, best, entities_of
from nuner_jax.inference.examples import read_examples
from nuner_jax.inference.heads import FILE, Head, Support, fit_finetune, fit_frozen
from nuner_jax.inference.runner import Pieces, Runner
from nuner_jax.inference.words import words_of
from nuner_jax.inference.zero_shot import Concepts, Labels, concept_texts, has_concepts
from nuner_jax.schema import is_unicode

SAVED = ".saved"
"""Tells a saved folder without head from an exported one, which no save replaces."""


class NuNER:
    """An entity recogniser: an encoder with a head fitted on examples, or zero-shot by label names."""

    def __init__(self, runner: Runner, folder: Path, head: Head | None = None):
        self.folder = folder
        self.head = head
        self._base = runner  # what a fit starts from
        self._runner = runner  # what predicts: another one after fine-tuning

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str]) -> "NuNER":
        """`minilm`, a folder (encoder, exported run, or what `save` wrote) or a hub name. Raises InputError."""
        from nuner_jax.evaluate.encoders import load_frozen
        from nuner_jax.pretrained import load_tokenizer, resolve

        folder = resolve(str(name))
        encoder, head = load_frozen(str(folder)), Head.load(folder)
        if head is not None:
            check_layers(head.layers, encoder.depth)
            if head.width != encoder.width * len(head.layers):
                reads = f"{head.width} numbers a word, {len(head.layers)} layers of this encoder give {encoder.width * len(head.layers)}"
                raise InputError(f"{folder}: its head is of another encoder (it reads {reads})")
        return cls(Runner(encoder, load_tokenizer(str(folder))), folder, head)

    @property
    def labels(self) -> tuple[str, ...]:
        """The types of the fitted head; empty without one."""
        return self.head.types if self.head else ()

    def fit(
        self,
        examples: Any,
        head: Literal["frozen", "finetune"] = "frozen",
        *,
        layers: Sequence[int] = (),
        portable: bool = False,
        head_config: HeadConfig | None = None,
        finetune_config: FinetuneConfig | None = None,
        seed: int = 0,
    ) -> "NuNER":
        """Learns the types of the examples (see examples.read_examples for their forms); returns itself.

        head: frozen (a linear head on the encoder as it is, seconds) or finetune (encoder and head, minutes). layers: hidden states
        the head reads, by default last and middle. portable: a linear head on the last hidden state whose units are those of a
        Transformers pipeline; the only form that can be exported to one. Raises InputError.
        """
        if head not in ("frozen", "finetune"):
            raise InputError(f"head {head!r}: there are frozen and finetune")
        base = self._base
        if portable and tuple(layers) not in ((), (-1,), (base.encoder.depth,)):
            raise InputError(f"layers {tuple(layers)}: a portable head reads the last hidden state only")
        chosen = (-1,) if portable else tuple(layers) or default_layers(base.encoder.depth)
        check_layers(chosen, base.encoder.depth)
        unit = "piece" if portable else "word"
        support = Support.of(read_examples(examples), base, unit)
        if head == "frozen":
            self.head = fit_frozen(base, support, chosen, unit, head_config or HeadConfig())
            self._runner = base
        else:
            config = finetune_config or FinetuneConfig()
            self.head, trained = fit_finetune(base, support, chosen, unit, config, seed, linear=portable)
            self._runner = Runner(trained, base.tokenizer)
        return self

    def predict(
        self, texts: Iterable[str], labels: Labels | None = None, threshold: float | None = None, flat: bool = True
    ) -> list[list[Entity]]:
        """The entities of each text, from left to right; `text[e.start:e.end] == e.text`.

        Without `labels` by the fitted head; with `labels` (names, or {name: description}) zero-shot through the concept encoder.
        threshold: the least probability of a word's label; by default a label has to be likelier than no label. flat: a word has one
        label at most; otherwise entities may overlap. Texts of any length: long ones are read in overlapping windows.
        Raises InputError.
        """
        if isinstance(texts, str):
            raise InputError("predict: expected a list of texts, got one text; write predict([text])")
        texts = list(texts)
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise InputError(f"predict: expected texts, got {type(wrong).__name__}")
        broken = next((n for n, text in enumerate(texts) if not is_unicode(text)), None)
        if broken is not None:
            raise InputError(f"predict: text {broken} has half of a surrogate pair, which is not valid Unicode")
        if threshold is not None and not 0 <= threshold <= 1:
            raise InputError(f"threshold {threshold} is not between 0 and 1")
        if labels is not None:
            return self._zero_shot(texts, labels, threshold, flat)
        if self.head is None:
            raise InputError(f"{self.folder}: no head has been fitted; call fit(examples), or name labels for zero-shot")
        units, vectors = self._vectors(self._runner, texts, self.head.unit, self.head.layers)
        p = self.head.probabilities(vectors)
        found = _decide(p[:, 1:], p[:, 0], threshold, flat)
        return entities_of(texts, units, found, self.head.types)

    def _zero_shot(self, texts: list[str], labels: Labels, threshold: float | None, flat: bool) -> list[list[Entity]]:
        names, concepts = concept_texts(labels)
        vectors = self.concepts.embed(concepts)
        units, states = self._vectors(self._base, texts, "word", (-1,))
        return entities_of(texts, units, self.concepts.candidates(states, vectors, threshold, flat), names)

    def _vectors(self, runner: Runner, texts: list[str], unit: str, layers: tuple[int, ...]) -> tuple[Units, np.ndarray]:
        """The units that have a sub-token, and their vectors."""
        pieces: Pieces
        if unit == "piece":
            pieces, spans = runner.pieces(texts)
            return Units.of(spans), runner.vectors(pieces, layers)
        spans = [words_of(text) for text in texts]
        pieces = runner.words([[text[a:b] for a, b in of_text] for text, of_text in zip(texts, spans, strict=True)])
        spans = [[s for s, p in zip(*pair, strict=True) if p] for pair in zip(spans, pieces, strict=True)]
        pieces = [[p for p in of_text if p] for of_text in pieces]
        return Units.of(spans), runner.vectors(pieces, layers)

    @cached_property
    def concepts(self) -> Concepts:
        """The concept encoder. Raises InputError if the folder has none."""
        return Concepts(self.folder)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Encoder, tokenizer, head and (if there is one and it still fits the encoder) concept encoder, for from_pretrained.

        Without a head the concept encoder has to be there. Written beside its place and then renamed; an earlier save there is
        replaced, anything else refused. Raises InputError.
        """
        from nuner_jax.export.hf import removed_in_the_end, replace
        from nuner_jax.model import hf

        if self.head is None and not has_concepts(self.folder):
            raise InputError("save: no head has been fitted; call fit(examples) first")
        out = check_target(folder)
        new = out.with_name(f".{out.name}.new-{os.getpid()}")
        out.parent.mkdir(parents=True, exist_ok=True)
        with removed_in_the_end(new):
            config, _, carried = hf.load_encoder(self.folder)
            hf.save_encoder(new, config, self._runner.encoder.params, carried, self.folder)
            if self._runner is self._base:
                for name in ("nuner.json", "concept_encoder"):
                    source = self.folder / name
                    if source.exists():
                        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, new / name)
            if self.head is not None:
                self.head.save(new)
            else:
                (new / SAVED).touch()
            replace(out, new)
        return out


def check_target(folder: str | os.PathLike[str]) -> Path:
    """The folder, if it may be written: not there, empty, or an earlier save. Raises InputError."""
    out = Path(folder)
    if out.name in ("", ".."):
        raise InputError(f"{str(folder)!r}: name a folder that can be replaced as a whole")
    saved = (out / FILE).is_file() or (out / SAVED).is_file()
    if out.exists() and not (out.is_dir() and (saved or not any(out.iterdir()))):
        raise InputError(f"{out}: is there already and was not written by save; remove it or choose another folder")
    return out


def _decide(scores: np.ndarray, none: np.ndarray, threshold: float | None, flat: bool) -> Candidates:
    """Scores [U, L] and none [U] add up to 1."""
    if threshold is None:
        return best(scores, none) if flat else above(np.where(scores > none[:, None], scores, -1.0), 0.0)
    return best(scores, np.nextafter(np.float32(threshold), np.float32(-1))) if flat else above(scores, threshold)
