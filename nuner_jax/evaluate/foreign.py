"""Systems that run elsewhere: the samples as GLiNER JSON files for them, and their predictions as rows of the comparison.

`export` writes DIR/tasks.json, a list of {"task", "types": {type: name in words}, "test": FILE, "supports": [{"k", "seed",
"train": FILE}]}, and the files, each a list of {"tokenized_text", "ner": [[first word, last word, name]]} as GLiNER reads them.

Predictions are JSON lines, one a test sentence and cell: {"task", "k", "seed", "index", "entities": [{"start", "end", "label"}]},
ends exclusive, in words or, with "unit": "characters", in characters of the words joined by blanks. `index` counts the sentences
of the exported test file. A system without training leaves k and seed out: its lines hold for every cell.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nuner_jax.config import EvaluateConfig
from nuner_jax.errors import InputError
from nuner_jax.evaluate.prompts import plain
from nuner_jax.evaluate.readers import flat_tags
from nuner_jax.evaluate.results import Results, Row
from nuner_jax.evaluate.rows import cell_base, scored, store
from nuner_jax.evaluate.samples import Samples
from nuner_jax.evaluate.tasks import Split, Task, make_split
from nuner_jax.schema import TaggedSentence, WordSpan, read_json_lines, word_spans

Group = tuple[str, int | None, int | None]
"""Task, k, seed; None: every one."""
Predicted = dict[int, tuple[list[WordSpan], Counter[str]]]
"""Test sentence -> mentions, and what of the line was left out, by reason."""


def export(folder: Path, tasks: Sequence[Task], samples: Mapping[str, Samples]) -> None:
    """Writes the test sentences and every support set of the tasks. Raises InputError if the folder cannot be written."""
    entries = []
    try:
        for task in tasks:
            names = {kind: task.words_for(kind)[0] for kind in task.types}
            (folder / task.name).mkdir(parents=True, exist_ok=True)
            _write(folder / task.name / "test.json", _gliner_rows(task.test, names))
            supports = []
            for (k, seed), indices in samples[task.name].items():
                name = f"{task.name}/k{k}-seed{seed}.json"
                _write(folder / name, _gliner_rows(task.train.take(indices), names))
                supports.append({"k": k, "seed": seed, "train": name})
            entries.append({"task": task.name, "types": names, "test": f"{task.name}/test.json", "supports": supports})
        _write(folder / "tasks.json", entries)
    except OSError as error:
        raise InputError(f"export: {folder} cannot be written ({error.strerror})") from None
    print(f"samples of {len(tasks)} tasks written to {folder}", flush=True)


def _gliner_rows(split: Split, names: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"tokenized_text": list(sentence.words), "ner": [[s.start, s.end - 1, names[s.type]] for s in spans]}
        for sentence, spans in zip(split.sentences, split.spans, strict=True)
    ]


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf8")


def parse(spec: str) -> tuple[str, str]:
    """NAME=FILE.jsonl. Raises InputError, also if the file is not there."""
    name, equals, path = spec.partition("=")
    if not name or not equals or not path:
        raise InputError(f"predictions {spec!r}: expected NAME=FILE.jsonl")
    if not Path(path).is_file():
        raise InputError(f"{path}: cannot be read (No such file or directory)")
    return name, path


def run(config: EvaluateConfig, tasks: Sequence[Task], samples: Mapping[str, Samples], results: Results) -> None:
    """The rows of config.predictions. Raises InputError with file and line."""
    for spec in config.predictions:
        name, path = parse(spec)
        groups = read_predictions(Path(path), {task.name: task for task in tasks})
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        for task in tasks:
            rows, lacking = [], 0
            for cell, indices in samples[task.name].items():
                found = groups.get((task.name, *cell)) or groups.get((task.name, None, None))
                if found is None:
                    lacking += 1
                    continue
                base = cell_base(config, task, cell, indices) | _base(name, path, digest)
                if not results.has(base):
                    codes, left_out = _codes(task, found)
                    rows.append(({**base, **scored(task, indices, codes), "left_out": left_out}, codes))
            store(config, results, task, rows)
            print(f"{name} on {task.name}: {len(rows)} new cells" + (f", {lacking} not in {path}" if lacking else ""), flush=True)


def _base(name: str, path: str, digest: str) -> Row:
    empty: dict[str, Any] = {"layers": [], "head": "", "labels": "spans", "settings": {}}
    return {"system": name, "protocol": "predictions", **empty, "encoder": path, "encoder_hash": digest}


def _codes(task: Task, found: Predicted) -> tuple[np.ndarray, dict[str, int]]:
    """The tags that predictions amount to, and what was left out of them, by reason."""
    left_out: Counter[str] = Counter()
    tagged = []
    for i, sentence in enumerate(task.test.sentences):
        spans, notes = found[i]
        left_out.update(notes)
        tagged.append(TaggedSentence(sentence.words, flat_tags(sorted(set(spans)), len(sentence.words), left_out)))
    return make_split(tagged, task.types).codes, dict(sorted(left_out.items()))


def read_predictions(path: Path, tasks: Mapping[str, Task]) -> dict[Group, Predicted]:
    """The predictions of a file by task and cell; lines about other tasks are skipped. Raises InputError with file and line.

    Each group of lines must hold every test sentence of its task exactly once.
    """
    groups: dict[Group, Predicted] = {}
    for number, row in read_json_lines(path):
        where = f"{path}, line {number}"
        try:
            task = tasks.get(row["task"])
            if task is None:
                continue
            group = (task.name, row.get("k"), row.get("seed"))
            index, entities = row["index"], row["entities"]
            if type(index) is not int or not 0 <= index < len(task.test):
                raise InputError(f"{where}: index {index!r} is not in 0..{len(task.test) - 1}, the test sentences of {task.name}")
            if index in groups.setdefault(group, {}):
                raise InputError(f"{where}: sentence {index} of {task.name} stands there for the second time")
            groups[group][index] = _spans(where, task, index, entities, row.get("unit", "words"))
        except (KeyError, TypeError, AttributeError):
            form = '{"task", "k", "seed", "index", "entities": [{"start", "end", "label"}]}'
            raise InputError(f"{where}: expected {form}") from None
    for (task, k, seed), found in groups.items():
        missing = sorted(set(range(len(tasks[task].test))) - found.keys())
        if missing:
            cell = "" if k is None else f", k={k}, seed={seed}"
            raise InputError(f"{path}: task {task}{cell}: {len(missing)} test sentences have no line, the first is {missing[0]}")
    return groups


def _spans(where: str, task: Task, index: int, entities: list[Any], unit: str) -> tuple[list[WordSpan], Counter[str]]:
    """The mentions of one line as spans of words. Labels are types or their names; case and underscores do not count."""
    words, notes = task.test.sentences[index].words, Counter[str]()
    types = {plain(task.words_for(kind)[0]): kind for kind in task.types} | {plain(kind): kind for kind in task.types}
    if unit not in ("words", "characters"):
        raise InputError(f"{where}: unit {unit!r} is neither words nor characters")
    size = len(words) if unit == "words" else len(" ".join(words))
    spans = []
    for entity in entities:
        start, end, kind = entity["start"], entity["end"], types.get(plain(entity["label"]))
        if type(start) is not int or type(end) is not int or not 0 <= start < end <= size:
            raise InputError(f"{where}: span {start!r}..{end!r} is not inside a sentence of {size} {unit}")
        if kind is None:
            notes["label that the task does not have"] += 1
        elif unit == "words":
            spans.append(WordSpan(start, end, kind))
        else:
            spans += word_spans(words, [(start, end, kind)])
    return spans, notes
