"""The grid: for every encoder and task all (k, seed) that are not there yet; rows are stored as they are done."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nuner_jax import cli
from nuner_jax.config import EvaluateConfig
from nuner_jax.errors import InputError
from nuner_jax.evaluate import metrics
from nuner_jax.evaluate.cache import cache_folder, keep_programs
from nuner_jax.evaluate.encoders import NamedEncoder
from nuner_jax.evaluate.k_shot import shortfall
from nuner_jax.evaluate.ranges import check_ranges
from nuner_jax.evaluate.results import Results, Row
from nuner_jax.evaluate.rows import cell_base, scored, store
from nuner_jax.evaluate.samples import Cell, Samples, draw, read_samples, write_samples
from nuner_jax.evaluate.tasks import Task, limited, load_tasks
from nuner_jax.files import held


def run(config: EvaluateConfig) -> Results:
    """Fills OUT/results.jsonl and OUT/samples.jsonl; what is there already is not done again. Raises InputError."""
    check(config)
    encoders = [NamedEncoder(spec) for spec in config.encoders if spec != "none"]
    tasks = [limited(task, config.limit_test) for spec in config.tasks for task in load_tasks(spec, config.task_data)]
    systems = [*(encoder.name for encoder in encoders), *(spec.partition("=")[0] for spec in (*config.llms, *config.predictions))]
    for what, names in (("system", systems), ("task", [t.name for t in tasks])):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"{what} name {twice[0]!r} is given twice; use NAME=...")
    if config.llms or config.predictions:  # told before the encoders, which may take hours
        from nuner_jax.evaluate import foreign, llm

        for spec in config.llms:
            llm.Prompted.parse(spec)
        for spec in config.predictions:
            foreign.parse(spec)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with held(out / "results.jsonl"):  # rows are kept in memory and written whole: a second process would write over them
        return _fill(config, encoders, tasks, out)


def _fill(config: EvaluateConfig, encoders: list[NamedEncoder], tasks: list[Task], out: Path) -> Results:
    results = Results(out)
    stored = read_samples(config.samples)
    samples = {task.name: draw(task, config, stored) for task in tasks}
    write_samples(out / "samples.jsonl", samples)
    for task in tasks:
        describe(task, config)
    if config.export:
        from nuner_jax.evaluate import foreign

        foreign.export(Path(config.export), tasks, samples)
    for encoder in encoders:
        for task in tasks:
            run_block(config, encoder, task, samples[task.name], results)
        encoder.__dict__.pop("loaded", None)  # its memory is needed for the next one
    if config.predictions:
        from nuner_jax.evaluate import foreign

        foreign.run(config, tasks, samples, results)
    if config.llms:
        from nuner_jax.evaluate import llm

        llm.run(config, tasks, samples, results)
    return results


def check(config: EvaluateConfig) -> None:
    """Raises InputError for settings that cannot be met."""
    if not (config.encoders or config.llms or config.predictions) or not config.tasks or not config.ks:
        raise InputError("encoders (or llms, or predictions), tasks and ks each need at least one value")
    if min(config.ks) < 1 or config.seeds < 1:
        raise InputError(f"ks {','.join(map(str, config.ks))} and seeds {config.seeds} must be 1 or more")
    for key in ("limit_test", "prompt_examples"):
        if getattr(config, key) < 0:
            raise InputError(f"{key} {getattr(config, key)} is below 0")
    check_ranges("head", config.head)
    check_ranges("finetune", config.finetune)


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
    layers = encoder.layers(config.layers)
    base = {cell: row_base(config, encoder, task, layers, cell, indices) for cell, indices in samples.items()}
    todo = {cell: samples[cell] for cell in samples if not results.has(base[cell])}
    if not todo:
        print(f"{encoder.name} on {task.name}: all {len(samples)} cells are done", flush=True)
        return
    started = time.perf_counter()
    folder = cache_folder(config)
    if folder is not None:
        keep_programs(folder / "programs")
    first = metrics.first_words(task.test.offsets)
    for labels, seconds in predictions(config, encoder, task, todo):
        new = []
        for cell, predicted in labels.items():
            predicted = predicted.astype(np.int32)
            codes = metrics.io_to_iob2(predicted, first) if config.labels == "io" else metrics.close_up(predicted, first)
            row = {**base[cell], **scored(task, samples[cell], codes), "seconds": round(seconds / len(labels), 3)}
            new.append((row, codes))
        store(config, results, task, new)
    print(f"{encoder.name} on {task.name}: {len(todo)} cells in {time.perf_counter() - started:.1f} s", flush=True)


def predictions(
    config: EvaluateConfig, encoder: NamedEncoder, task: Task, samples: Samples
) -> Iterator[tuple[dict[Cell, np.ndarray], float]]:
    """Labels of the test words by cell, as they come, and how long they took."""
    if config.protocol == "frozen":
        from nuner_jax.evaluate.frozen import predict

        batches = iter([lambda: predict(config, encoder, task, samples)])
    else:
        from nuner_jax.evaluate.finetune import groups, predict_group

        parts = groups(config, encoder, samples)
        batches = (lambda part=part: predict_group(config, encoder, task, part) for part in parts)
    for batch in batches:
        started = time.perf_counter()
        labels = batch()
        yield labels, time.perf_counter() - started


def row_base(
    config: EvaluateConfig, encoder: NamedEncoder, task: Task, layers: tuple[int, ...], cell: Cell, indices: Sequence[int]
) -> Row:
    """What a row says before it has scores: its identity and everything that its numbers hang on."""
    frozen = config.protocol == "frozen"
    settings = cli.as_dict(config.head if frozen else config.finetune)
    head = settings.pop("kind") if frozen else "two layers"
    settings.pop("parallel_seeds", None)  # changes the speed, and which bits dropout draws
    return {
        **cell_base(config, task, cell, indices),
        "system": encoder.name,
        "protocol": config.protocol,
        "layers": list(layers),
        "head": head,
        "labels": config.labels,
        "encoder": encoder.source,
        "encoder_hash": encoder.hash,
        "settings": {f"{'head' if frozen else 'finetune'}.{name}": value for name, value in settings.items()},
    }
