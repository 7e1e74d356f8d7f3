"""Zero-shot: units of a text against the concept encoder's vectors of label names or descriptions.

Shapes: U units, D width, L labels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nuner_jax.dataset.concepts import normalise_concept
from nuner_jax.errors import InputError
from nuner_jax.inference.entities import Candidates, above
from nuner_jax.inference.runner import Runner
from nuner_jax.schema import is_unicode

CHUNK = 1 << 24  # scores held at once
KEPT = 1 << 16  # label vectors that stay at hand
PRIOR = 5.0  # minus the log odds of a random concept in training
Labels = Sequence[str] | Mapping[str, str]


def has_concepts(folder: Path) -> bool:
    """Whether an encoder folder has a concept encoder beside it."""
    return (folder / "nuner.json").is_file() and (folder / "concept_encoder").is_dir()


class Concepts:
    """The concept encoder of a folder, the vectors of labels it has been asked for, and the trained logit."""

    def __init__(self, folder: Path):
        """Loads it from an exported folder. Raises InputError if the folder has none."""
        from nuner_jax.evaluate.encoders import load_frozen
        from nuner_jax.model import hf
        from nuner_jax.pretrained import load_tokenizer

        if not has_concepts(folder):
            raise InputError(f"{folder}: no concept encoder here, so no zero-shot by labels; fit the model on examples instead")
        about = hf.read_json(folder / "nuner.json")
        try:
            self.logit = {"kind": about["logit"]["kind"], **{k: float(about["logit"][k]) for k in ("scale", "bias")}}
            place = str(folder / about["concept_encoder"])
            self.described = about.get("concept_text") == "name_and_description"  # what it read in training
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{folder / 'nuner.json'}: it does not describe a concept encoder") from None
        self.folder = place
        self.runner = Runner(load_frozen(place), load_tokenizer(place))
        self._vectors: dict[str, np.ndarray] = {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[L, D] vectors of concept texts, means over their tokens, of length 1 for the cosine; the latest KEPT stay at hand."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        for text, tokens in zip(new, self.runner.whole(new), strict=True):
            if not len(tokens):
                raise InputError(f"label {text!r}: the concept encoder has no token for it")
            self._vectors[text] = self._unit(tokens.mean(0))
        result = np.stack([self._vectors[text] for text in texts])
        for text in list(self._vectors)[:-KEPT]:
            del self._vectors[text]
        return result

    def _unit(self, x: np.ndarray) -> np.ndarray:
        if self.logit["kind"] != "cosine":
            return x
        return x / np.sqrt(np.square(x).sum(-1, keepdims=True) + 1e-12)

    def logits(self, vectors: np.ndarray, concepts: np.ndarray) -> np.ndarray:
        """[U, D], [L, D] -> [U, L]: log odds that a unit is in a mention of a label, when a label is as likely as not.

        Training asks every token about hundreds of concepts, so its bias is the log odds of a random one; a label that a user names
        is no random one. Without the bias, the cosine decides at 0, which is within a point of the best macro token F1 on the
        training files of six tasks (benchmarks/zero_shot.py --thresholds); at 4, short of that bias, half of it is lost.
        The dot product has no bias of its own; there the log odds are taken to be those that the cosine starts from.
        """
        if self.logit["kind"] == "cosine":
            return self.logit["scale"] * (self._unit(vectors) @ concepts.T)
        return self.logit["scale"] * (vectors @ concepts.T) + self.logit["bias"] + PRIOR

    def candidates(self, vectors: np.ndarray, concepts: np.ndarray, threshold: float | None, flat: bool) -> Candidates:
        """Units with labels whose probability is at least the threshold (by default more than 0.5); with `flat` only the best of each unit.

        Labels and units by the thousand: scores are formed in parts and only what passes is kept.
        """
        least = np.nextafter(0.5, 1) if threshold is None else threshold
        parts: list[Candidates] = []
        step = max(1, CHUNK // len(concepts))
        for start in range(0, len(vectors), step):
            with np.errstate(over="ignore"):  # far below 0, as a dot product may be, a probability is 0
                scores = 1 / (1 + np.exp(-self.logits(vectors[start : start + step], concepts)))
            if flat:
                label = scores.argmax(1)
                score = scores[np.arange(len(scores)), label]
                unit = np.flatnonzero(score >= least)
                parts.append(Candidates(unit + start, label[unit], score[unit]))
            else:
                found = above(scores, least)
                parts.append(found._replace(unit=found.unit + start))
        if not parts:
            return above(np.zeros((0, 1)), 0.0)
        return Candidates(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def concept_texts(labels: Labels) -> tuple[list[str], list[str]]:
    """(names as given, what the concept encoder reads of each). Raises InputError."""
    if isinstance(labels, str) or not labels:
        raise InputError("labels: expected a list of names, or a mapping of names to descriptions")
    names = list(labels)
    if not all(isinstance(name, str) and normalise_concept(name) for name in names):
        raise InputError(f"labels: every label needs a name, got {names!r:.80}")
    about = [str(labels[name] or "") for name in names] if isinstance(labels, Mapping) else []
    if not all(is_unicode(text) for text in (*names, *about)):
        raise InputError(f"labels: half of a surrogate pair, which is not valid Unicode, in {names!r:.80}")
    if len(set(names)) < len(names):
        raise InputError(f"labels: {next(n for n in names if names.count(n) > 1)!r} is there twice")
    texts = [normalise_concept(name) for name in names]
    if isinstance(labels, Mapping):
        texts = [f"{text}: {told.strip()}" if told.strip() else text for text, told in zip(texts, about, strict=True)]
    return names, texts
