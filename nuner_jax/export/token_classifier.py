"""A fitted recogniser as a token classifier of Transformers: the folder that pipeline("token-classification") opens.

Written beside its place, compared with the recogniser on sample texts, and only then named. The folder also stays one of nuner_jax.
"""

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from nuner_jax.errors import InputError
from nuner_jax.export.hf import SAMPLES, TOLERANCE, expect, quiet_transformers, removed_in_the_end, replace, set_prefix_space
from nuner_jax.model import hf

if TYPE_CHECKING:
    from nuner_jax.inference.nuner import NuNER

CLASSES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}
PREFIX = {"bert": "bert."}  # of the encoder's tensors in a token classifier; "roberta." for all others


def sample_texts() -> list[str]:
    """Texts on which an exported folder is compared with its source: hard characters, and sentences of the bundled tasks."""
    from nuner_jax.inference.examples import bundled_texts

    return [*(text[:80] for text in SAMPLES), *bundled_texts()]


def export_token_classifier(model: str, out: str) -> Path:
    """Writes and verifies the folder. Raises InputError for a head that a token classifier cannot hold, ExportError if it differs."""
    from nuner_jax.inference.nuner import NuNER, check_target

    ner = NuNER.from_pretrained(model)
    check_portable(ner, model)
    target = check_target(out)
    new = target.with_name(f".{target.name}.new-{os.getpid()}")
    with removed_in_the_end(new):
        ner.save(new)
        write(new, ner)
        checks = verify(new, ner)
        replace(target, new)
    print(f"{target}: token classifier of {len(ner.labels)} types; verified: {', '.join(checks)}")
    print(f'open it with pipeline("token-classification", model="{target}", aggregation_strategy="{strategy(ner)}")')
    return target


def check_portable(ner: "NuNER", model: str) -> None:
    """Raises InputError unless the head is one that a token classifier can hold."""
    if ner.head is None:
        raise InputError(f"{model}: no fitted head here (nuner fit makes one); the encoder is a Transformers folder as it is")
    if ner.head.unit != "piece" or "hidden_kernel" in ner.head.params:
        raise InputError(
            f"{model}: its head reads layers {','.join(map(str, ner.head.layers))} of words, a token classifier of Transformers the "
            "last one of sub-tokens; fit it again with --portable (fit(..., portable=True))"
        )


def strategy(ner: "NuNER") -> str:
    """The pipeline's aggregation strategy that gives the entities of predict."""
    return "first" if ner._runner.marks_words else "simple"


def label_names(types: Sequence[str]) -> dict[str, Any]:
    """What a config.json says of the classes; 0 is O. Without B- and I-: a pipeline joins neighbours of one label."""
    labels = ("O", *types)
    return {
        "id2label": {str(n): label for n, label in enumerate(labels)},
        "label2id": {label: n for n, label in enumerate(labels)},
    }


def write(folder: Path, ner: "NuNER") -> None:
    """Turns a saved recogniser's weights and config into a token classifier's. The temperature goes into the classifier."""
    head = ner.head
    assert head is not None
    settings = hf.read_json(folder / "config.json")
    kind = settings["model_type"]
    settings |= {
        "architectures": [f"{CLASSES[kind]}ForTokenClassification"],
        **label_names(head.types),
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
    prefix = PREFIX.get(kind, "roberta.")
    encoder = hf.read_safetensors(folder / "model.safetensors")
    tensors = {f"{prefix}{name}": x for name, x in encoder.items() if not name.startswith("pooler.")}
    kernel, bias = (head.params[name] / head.temperature for name in ("kernel", "bias"))
    tensors |= {"classifier.weight": np.ascontiguousarray(kernel.T, np.float32), "classifier.bias": bias.astype(np.float32)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    set_prefix_space(folder)
    (folder / "README.md").write_text(card(ner, settings["id2label"]), encoding="utf8")


def card(ner: "NuNER", names: Mapping[str, str]) -> str:
    """README.md of the folder."""
    head = ner.head
    assert head is not None
    source = ner.folder / "README.md"
    front = ["---", *hf.front_matter(source, ("license", "base_model")), "library_name: transformers"]
    front += ["pipeline_tag: token-classification", "tags:", "- named-entity-recognition", "- nuner", "---"]
    return "\n".join(
        [
            *front,
            "",
            "# Entity recogniser (NuNER)",
            "",
            f"Types: {', '.join(head.types)}. A {head.method} encoder with a linear head on its last hidden state, learnt from a few",
            "examples with nuner_jax. Scores are calibrated:",
            f"{head.calibration}.",
            "",
            "```python",
            "from transformers import pipeline",
            "",
            f'ner = pipeline("token-classification", model="path/to/this/folder", aggregation_strategy="{strategy(ner)}")',
            'ner("Marie Curie was born in Warsaw.")',
            "```",
            "",
            f"`nuner predict --model path/to/this/folder` gives the same entities, also in texts of more than "
            f"{ner._runner.encoder.max_length} tokens.",
            "",
        ]
    )


def verify(folder: Path, ner: "NuNER") -> list[str]:
    """Reads the folder back, by our reader and (given torch) by a Transformers pipeline. Raises ExportError."""
    from nuner_jax.inference.nuner import NuNER

    texts = [text for text in sample_texts() if fits(ner, text)]  # what is longer a pipeline cuts
    expected = ner.predict(texts)
    again = NuNER.from_pretrained(folder).predict(texts)
    expect(again == expected, "nuner_jax reads back another recogniser")
    if importlib.util.find_spec("torch") is None:
        return ["nuner_jax gives equal entities", "not opened with Transformers, which needs torch"]
    found = pipeline_entities(folder, texts, strategy(ner), ner._runner.encoder.max_length)
    count = sum(map(len, expected))
    for text, ours, theirs in zip(texts, expected, found, strict=True):
        same = [(e.start, e.end, e.label) for e in ours] == [row[:3] for row in theirs]
        expect(same, f"the pipeline finds other entities in {text!r:.60}: {theirs!r:.200}, not {ours!r:.200}")
        gap = max((abs(e.score - row[3]) for e, row in zip(ours, theirs, strict=True)), default=0.0)
        expect(gap <= TOLERANCE, f"the pipeline gives other scores in {text!r:.60} (difference {gap:.1e})")
    return [f"a Transformers pipeline finds the same {count} entities in {len(texts)} texts"]


def fits(ner: "NuNER", text: str) -> bool:
    """Whether the encoder reads the text in one window."""
    runner = ner._runner
    return len(runner.items(runner.pieces([text])[0])) <= 1


def pipeline_entities(folder: Path, texts: Sequence[str], aggregation: str, max_length: int) -> list[list[tuple[Any, ...]]]:
    """(start, end, label, score) of each text by pipeline("token-classification"), blanks at the edges left out."""
    from transformers import pipeline

    with quiet_transformers():
        pipe = pipeline("token-classification", model=str(folder), aggregation_strategy=aggregation, device="cpu")
        pipe.tokenizer.model_max_length = max_length  # type: ignore[union-attr]
        result: list[Any] = [pipe(text) if text.strip() else [] for text in texts]
    rows = []
    for text, entities in zip(texts, result, strict=True):
        row = []
        for e in entities:
            part = text[e["start"] : e["end"]]
            start, end = e["end"] - len(part.lstrip()), e["start"] + len(part.rstrip())
            if start < end:
                row.append((start, end, e["entity_group"], float(e["score"])))
        rows.append(row)
    return rows
