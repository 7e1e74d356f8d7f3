"""spaCy component `nuner`: entities in doc.ents, and with their scores in doc.spans.

    nlp = spacy.blank("en")
    nlp.add_pipe("nuner", config={"model": "my-model"})  # of NuNER.save; its own labels
    nlp.add_pipe("nuner", config={"model": "runs/demo/hf", "labels": ["dish", "city"], "threshold": 0.5})  # zero-shot

Registered by an entry point when nuner_jax is installed (extra `spacy`); importing this module does it too.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import ensure_path, filter_spans, minibatch
from srsly import msgpack_dumps, msgpack_loads

from nuner_jax.errors import InputError

if TYPE_CHECKING:
    from nuner_jax.inference.entities import Entity
    from nuner_jax.inference.nuner import NuNER

DEFAULTS = {"model": "runs/demo/hf", "labels": None, "threshold": None, "spans_key": "nuner", "flat": True}
SETTINGS = "nuner_spacy.json"
MODEL = "model"


@Language.factory("nuner", assigns=["doc.ents", "doc.spans"], default_config=DEFAULTS)
def make(
    nlp: Language,
    name: str,
    model: str,
    labels: list[str] | dict[str, str] | None,
    threshold: float | None,
    spans_key: str,
    flat: bool,
) -> "Nuner":
    """The component; its options are those of NuNER.from_pretrained and predict, and the key in doc.spans."""
    del nlp
    return Nuner(name, model, {"labels": labels, "threshold": threshold, "flat": flat}, spans_key)


class Nuner:
    """Predicts entities for Docs. The model is loaded when it is first needed, so that spacy.load finds it where it was saved."""

    def __init__(self, name: str, model: str, options: dict[str, Any], spans_key: str):
        self.name, self.model = name, model
        self.options, self.spans_key = options, spans_key

    @cached_property
    def ner(self) -> "NuNER":
        """The model. Raises InputError."""
        from nuner_jax import NuNER

        return NuNER.from_pretrained(self.model)

    @property
    def labels(self) -> tuple[str, ...]:
        """What it looks for; a model's own labels are known once it has been loaded."""
        return tuple(self.options["labels"] or (self.ner.labels if "ner" in self.__dict__ else ()))

    def __call__(self, doc: Doc) -> Doc:
        """One Doc. Raises InputError if the model has no labels and none are configured."""
        self._annotate([doc])
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Docs in batches; each batch goes through the model at once."""
        for docs in minibatch(stream, size=batch_size):
            self._annotate(docs)
            yield from docs

    def _annotate(self, docs: list[Doc]) -> None:
        for doc, entities in zip(docs, self.ner.predict([doc.text for doc in docs], **self.options), strict=True):
            self._set(doc, entities)

    def _set(self, doc: Doc, entities: "list[Entity]") -> None:
        """All entities go into doc.spans; into doc.ents those that do not overlap with each other or with what is there."""
        found: dict[tuple[int, int, str], tuple[Span, float]] = {}
        for entity in entities:
            span = doc.char_span(entity.start, entity.end, label=entity.label, alignment_mode="expand")
            if span is not None:
                key = (span.start, span.end, entity.label)
                if key not in found or found[key][1] < entity.score:  # two that end in the same tokens
                    found[key] = span, entity.score
        spans = [span for span, _ in found.values()]
        doc.spans[self.spans_key] = spans
        doc.spans[self.spans_key].attrs["scores"] = [score for _, score in found.values()]
        taken = {token.i for span in doc.ents for token in span}
        free = [span for span in spans if taken.isdisjoint(range(span.start, span.end))]
        doc.ents = [*doc.ents, *filter_spans(free)]

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """The model and the options, whole: spacy.load needs nothing else. Raises InputError."""
        del exclude
        folder = ensure_path(path)
        folder.mkdir(parents=True, exist_ok=True)
        self.ner.save(folder / MODEL)
        settings = {"options": self.options, "spans_key": self.spans_key}
        (folder / SETTINGS).write_text(json.dumps(settings, ensure_ascii=False) + "\n", encoding="utf8")

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "Nuner":
        """What to_disk wrote. Raises InputError when the model cannot be loaded."""
        del exclude
        folder = ensure_path(path)
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf8"))
        self.options, self.spans_key = settings["options"], settings["spans_key"]
        self.model = str(folder / MODEL)
        self.__dict__.pop("ner", None)
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """What to_disk writes, as one string of bytes. Raises InputError."""
        with tempfile.TemporaryDirectory() as name:
            self.to_disk(name, exclude=exclude)
            files = [path for path in sorted(Path(name).rglob("*")) if path.is_file()]
            return msgpack_dumps({path.relative_to(name).as_posix(): path.read_bytes() for path in files})

    def from_bytes(self, data: bytes, *, exclude: Iterable[str] = ()) -> "Nuner":
        """What to_bytes gave; the model's files stay in a temporary folder as long as the component. Raises InputError."""
        files: Any = msgpack_loads(data)
        self._files = tempfile.TemporaryDirectory()
        root = Path(self._files.name).resolve()
        for name, content in files.items():
            path = (root / name).resolve()
            if not path.is_relative_to(root):
                raise InputError(f"from_bytes: {name!r} leads out of the component's folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return self.from_disk(root, exclude=exclude)
