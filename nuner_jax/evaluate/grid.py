"""The frozen grid: for every encoder and task all (k, seed) at once; features once, heads together, rows as they are done."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nuner_jax import __version__, cli
from nuner_jax.config import EvaluateConfig
from nuner_jax.errors import InputError
from nuner_jax.evaluate import metrics
from nuner_jax.evaluate.cache import FeatureStore
from nuner_jax.evaluate.encoders import NamedEncoder
from nuner_jax.evaluate.k_shot import sample, shortfall
from nuner_jax.evaluate.progress import Progress
from nuner_jax.evaluate.results import Results, Row
from nuner_jax.evaluate.tasks import Split, Task, load_task, word_types
from nuner_jax.schema import read_json_lines, write_json_lines

Cell = tuple[int, int]
"""(k, seed)"""
Samples = dict[Cell, list[int]]


def run(config: EvaluateConfig) -> Results:
    """Fills OUT/results.jsonl and OUT/samples.jsonl; what is there already is not done again. Raises InputError."""
    check(config)
    encoders = [NamedEncoder(spec) for spec in config.encoders]
    tasks = [load_task(spec) for spec in config.tasks]
    for what, names in (("encoder", [e.name for e in encoders]), ("task", [t.name for t in tasks])):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"{what} name {twice[0]!r} is given twice; use NAME=...")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out)
    stored = read_samples(config.samples)
    samples = {task.name: draw(task, config, stored) for task in tasks}
    write_samples(out / "samples.jsonl", samples)
    for task in tasks:
        describe(task, config)
    for encoder in encoders:
        for task in tasks:
            run_block(config, encoder, task, samples[task.name], results)
        encoder.__dict__.pop("loaded", None)  # its memory is needed for the next one
    return results


def check(config: EvaluateConfig) -> None:
    """Raises InputError for settings that cannot be met."""
    if not config.encoders or not config.tasks or not config.ks:
        raise InputError("encoders, tasks and ks each need at least one value")
    if min(config.ks) < 1 or config.seeds < 1:
        raise InputError(f"ks {','.join(map(str, config.ks))} and seeds {config.seeds} must be 1 or more")


def read_samples(path: str) -> dict[str, Samples]:
    """Stored samples by task. Raises InputError with file and line."""
    samples: dict[str, Samples] = {}
    for number, row in read_json_lines(path) if path else []:
        try:
            samples.setdefault(row["task"], {})[int(row["k"]), int(row["seed"])] = [int(i) for i in row["indices"]]
        except (KeyError, TypeError, ValueError):
            raise InputError(f'{path}, line {number}: expected {{"task", "k", "seed", "indices"}}') from None
    return samples


def write_samples(path: Path, samples: dict[str, Samples]) -> None:
    """Adds the samples to those of earlier runs in the same directory."""
    merged = read_samples(str(path)) if path.is_file() else {}
    for task, cells in samples.items():
        merged.setdefault(task, {}).update(cells)
    cells = ((task, k, seed, indices) for task, drawn in merged.items() for (k, seed), indices in sorted(drawn.items()))
    write_json_lines(path, ({"task": t, "k": k, "seed": seed, "indices": indices} for t, k, seed, indices in cells))


def draw(task: Task, config: EvaluateConfig, stored: dict[str, Samples]) -> Samples:
    """The support set of every (k, seed): stored where samples are given, else drawn."""
    cells = [(k, seed) for k in config.ks for seed in range(config.seeds)]
    if not config.samples:
        return {(k, seed): sample(task.train.counts(config.sampling), k, seed, config.sampling) for k, seed in cells}
    given = stored.get(task.name, {})
    for k, seed in cells:
        indices, where = given.get((k, seed)), f"{config.samples}: task {task.name}, k={k}, seed={seed}"
        if not indices:
            raise InputError(f"{where}: no sample")
        if not 0 <= min(indices) <= max(indices) < len(task.train):
            raise InputError(f"{where}: sentence numbers outside 0..{len(task.train) - 1}")
    return {cell: given[cell] for cell in cells}


def describe(task: Task, config: EvaluateConfig) -> None:
    """Prints what the task holds and what one should know before reading its numbers."""
    print(
        f"task {task.name}: {len(task.train):,} train and {len(task.test):,} test sentences, {len(task.types)} types", flush=True
    )
    for reason, count in sorted(task.notes.items()):
        print(f"  note: {count:,} x {reason}")
    if task.repeated:
        print(f"  note: {task.repeated:,} test sentences also stand in train")
    unit = "words" if config.sampling == "words" else "mentions"
    for k in config.ks:
        for kind, count in shortfall(task.type_counts(config.sampling), k).items():
            print(f"  note: type {kind} has {count} train {unit}, fewer than k={k}; all of them are used")


def run_block(config: EvaluateConfig, encoder: NamedEncoder, task: Task, samples: Samples, results: Results) -> None:
    """All missing cells of one encoder on one task."""
    from nuner_jax.evaluate import heads

    layers = encoder.layers(config.layers)
    base = {cell: row_base(config, encoder, task, layers, cell, indices) for cell, indices in samples.items()}
    todo = [cell for cell in samples if not results.has(base[cell])]
    if not todo:
        print(f"{encoder.name} on {task.name}: all {len(samples)} cells are done", flush=True)
        return
    started = time.perf_counter()
    folder = {"": Path(config.out) / "features", "none": None}.get(config.cache, Path(config.cache))
    train = FeatureStore(encoder, task, task.train, layers, folder)
    test = FeatureStore(encoder, task, task.test, layers, folder)
    wanted = sorted({i for cell in todo for i in samples[cell]})
    everything = range(len(task.test))
    progress = Progress(f"{encoder.name} on {task.name}: features", train.missing(wanted) + test.missing(everything), "words")
    train.compute(wanted, progress)
    test.compute(everything, progress)
    progress.close()
    encoded = time.perf_counter()
    labels = word_types(task.train.codes)
    offsets = task.train.offsets
    supports = [
        heads.Support(train.get(samples[cell]), np.concatenate([labels[offsets[i] : offsets[i + 1]] for i in samples[cell]]))
        for cell in todo
    ]
    fitted = heads.fit_all(supports, len(task.types) + 1, config.head)
    predicted = heads.predict(fitted, test.get(everything))
    first = metrics.first_words(task.test.offsets)
    seconds = (time.perf_counter() - started) / len(todo)
    rows = []
    for cell, types in zip(todo, predicted, strict=True):
        codes = metrics.io_to_iob2(types.astype(np.int32), first)
        rows.append({**base[cell], **score(task, samples[cell], codes, first), "seconds": round(seconds, 3)})
    results.add(rows)
    print(
        f"{encoder.name} on {task.name}: {len(todo)} cells in {time.perf_counter() - started:.1f} s "
        f"({encoded - started:.1f} s features)",
        flush=True,
    )


def row_base(
    config: EvaluateConfig, encoder: NamedEncoder, task: Task, layers: tuple[int, ...], cell: Cell, indices: Sequence[int]
) -> Row:
    """What a row says before it has scores: its identity and everything that its numbers hang on."""
    head = cli.as_dict(config.head)
    return {
        "system": encoder.name,
        "task": task.name,
        "protocol": config.protocol,
        "layers": list(layers),
        "head": head.pop("kind"),
        "sampling": "stored" if config.samples else config.sampling,
        "k": cell[0],
        "seed": cell[1],
        "encoder": encoder.source,
        "encoder_hash": encoder.hash,
        "data_hash": task.fingerprint,
        "sample_hash": hashlib.sha256(json.dumps(list(indices)).encode()).hexdigest()[:16],
        "settings": {f"head.{name}": value for name, value in head.items()},
        "version": __version__,
    }


def surfaces(split: Split) -> list[tuple[tuple[str, ...], str]]:
    """(words, type) of every mention."""
    return [
        (sentence.words[span.start : span.end], span.type)
        for sentence, spans in zip(split.sentences, split.spans, strict=True)
        for span in spans
    ]


def score(task: Task, indices: Sequence[int], codes: np.ndarray, first: np.ndarray) -> dict[str, Any]:
    """Every score of predicted codes on the test set, and facts about the support set."""
    support = task.train.take(indices)
    counts = Counter(span.type for spans in support.spans for span in spans)
    return {
        **{name: round(value, 6) for name, value in metrics.scores(task.test.codes, codes, first, len(task.types)).items()},
        "unseen_share": round(metrics.unseen_share(surfaces(support), surfaces(task.test)), 6),
        "support_sentences": len(indices),
        "support_mentions": {kind: counts[kind] for kind in task.types},
        "per_type": metrics.per_type(task.test.codes, codes, first, task.types),
    }
