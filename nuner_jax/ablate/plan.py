"""What an ablation does: for every point and training seed its stages, each known by the hash of all that its product hangs on."""

import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nuner_jax import __version__, cli
from nuner_jax.config import AblateConfig, CutConfig, DatasetConfig, EvaluateConfig, ExportConfig, TrainConfig, recipes
from nuner_jax.errors import InputError
from nuner_jax.lists import Strs
from nuner_jax.run import FREE, LENGTH, check_values, flat

CLASSES: dict[str, Any] = {"dataset": DatasetConfig, "train": TrainConfig, "evaluate": EvaluateConfig}
RESERVED = {
    "dataset": ("out",),
    "train": ("workdir", "data.path", "extend", "compile_only"),
    "evaluate": ("out", "encoders", "cache"),
}
"""Options that are set here."""
CELLS = ("tasks", "ks", "seeds")
"""Options of the evaluation that all points have in common."""
POINT = ("x", "recipe", "encoder", "untrained", *CLASSES)
SYSTEM = "run"
"""Name of the one encoder of an evaluation."""


@dataclass(frozen=True)
class Point:
    """A point as declared, base and own options together."""

    name: str
    x: float | None
    untrained: bool
    source: str  # encoder that it starts from
    layers: int | None  # cut to so many
    options: Mapping[str, Mapping[str, Any]]  # stage -> dotted key -> value
    own: Mapping[str, Mapping[str, Any]]  # those of them that the point itself sets


@dataclass(frozen=True)
class Stage:
    """A command whose product lies in the cache."""

    kind: str  # encoder, dataset, train, export or evaluate
    module: str
    folder: Path  # CACHE/KIND/HASH
    config: Any

    @property
    def out(self) -> Path:
        """Where the product is."""
        return self.folder / "out"

    @property
    def config_path(self) -> Path:
        """The config file that the command is given."""
        return self.folder / "config.yaml"

    @property
    def done(self) -> bool:
        """Whether the product is there, whole."""
        return (self.folder / "done.json").is_file()

    @property
    def words(self) -> list[str]:
        """The command behind `python`."""
        return ["-m", self.module, "--config", str(self.config_path)]


@dataclass(frozen=True)
class Job:
    """One point with one training seed."""

    point: str
    x: float | None
    train_seed: int | None  # None: untrained
    stages: tuple[Stage, ...]

    @property
    def label(self) -> str:
        """For people."""
        return self.point if self.train_seed is None else f"{self.point}, seed {self.train_seed}"


def check(config: AblateConfig) -> None:
    """Raises InputError "key: what is wrong" for a declaration that cannot be run; reads no file."""
    points = read_points(config)
    cells = resolve(config, points[0], config.train_seeds[0])["evaluate"]
    for point in points:
        for seed in config.train_seeds:
            evaluate = resolve(config, point, seed)["evaluate"]
        for key in CELLS:
            if getattr(evaluate, key) != getattr(cells, key):
                raise InputError(f"points.{point.name}.evaluate.{key}: all points are evaluated alike, or cannot be compared")


def read_points(config: AblateConfig) -> list[Point]:
    """The points as declared. Raises InputError."""
    if not config.points:
        raise InputError("points: an ablation needs at least one point")
    if not config.train_seeds or len(set(config.train_seeds)) < len(config.train_seeds):
        raise InputError(f"train_seeds: expected at least one seed, each once, got {list(config.train_seeds)}")
    points = [read_point(config, str(name), value) for name, value in config.points.items()]
    trained = [point for point in points if not point.untrained]
    without_x = [point for point in trained if point.x is None]
    if 0 < len(without_x) < len(trained):
        raise InputError(f"points.{without_x[0].name}: the other points have an x")
    if (len(without_x) < len(trained)) != bool(config.x_label):
        raise InputError("x_label: there is one exactly if the points have an x")
    return points


def read_point(config: AblateConfig, name: str, value: Any) -> Point:
    """One point. Raises InputError."""
    key = f"points.{name}"
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise InputError(f"{key}: expected a mapping, got {value!r}")
    for word in value:
        if word not in POINT:
            raise InputError(f"{key}.{word}: a point has no {word}; it may have {', '.join(POINT)}")
    x, untrained, encoder = value.get("x"), value.get("untrained", False), value.get("encoder") or {}
    if not isinstance(untrained, bool):
        raise InputError(f"{key}.untrained: expected true or false, got {untrained!r}")
    if not isinstance(encoder, dict) or not encoder.keys() <= {"source", "layers"}:
        raise InputError(f"{key}.encoder: expected {{source: NAME, layers: N}}, got {encoder!r}")
    if type(encoder.get("layers", 1)) is not int or encoder.get("layers", 1) < 1:
        raise InputError(f"{key}.encoder.layers: expected a number of layers, got {encoder['layers']!r}")
    base, own = cli.as_dict(config.base), {}
    for stage in CLASSES:
        if not isinstance(value.get(stage) or {}, dict):
            raise InputError(f"{key}.{stage}: expected a mapping, got {value[stage]!r}")
        own[stage] = flat(value.get(stage) or {}) | ({"recipe": value["recipe"]} if "recipe" in value else {})
    options = {stage: merged(flat(base[stage] or {}), own[stage]) for stage in CLASSES}
    source = encoder.get("source") or options["train"].get("init_from", TrainConfig.init_from)
    return Point(name, number(x, f"{key}.x", config.log_x), untrained, str(source), encoder.get("layers"), options, own)


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Options with a point's own; a length of the run replaces the other way to say it."""
    replaced = LENGTH if any(key in own for key in LENGTH) else ()
    return {key: value for key, value in base.items() if key not in replaced} | dict(own)


def number(value: Any, key: str, positive: bool) -> float | None:
    """A point's x. Raises InputError."""
    if value is None:
        return None
    try:
        x = float(value)
    except (TypeError, ValueError):
        x = math.nan
    if isinstance(value, bool) or not math.isfinite(x) or (positive and x <= 0):
        raise InputError(f"{key}: expected a number{' above 0 (log_x)' if positive else ''}, got {value!r}")
    return x


@functools.cache
def stage_config(stage: str, options: str) -> Any:
    """The config of a stage from a JSON object of dotted keys, most of which recur from point to point. Raises InputError."""
    length = LENGTH if stage == "train" else ()
    config = cli.from_values(CLASSES[stage], json.loads(options), recipes=recipes(stage), alternatives=length)
    if stage == "train":
        check_values(config)
    return config


def resolve(config: AblateConfig, point: Point, seed: int) -> dict[str, Any]:
    """stage -> its whole config, before paths are put in. Raises InputError."""
    resolved = {}
    for stage in CLASSES:
        options = dict(point.options[stage])
        for key in options:
            if key in RESERVED[stage]:
                raise InputError(f"{origin(point, stage, key)}: is set by the command itself")
        if stage == "dataset":
            options = {"tokenizer": point.source} | options
        if stage == "train":
            options = {"keep_checkpoints": 1} | options | {"init_from": point.source}
        for key in config.seed_keys:
            name, _, option = key.partition(".")
            if name not in CLASSES:
                raise InputError(f"seed_keys: {key} is no option of {', '.join(CLASSES)}")
            if name == stage:
                options[option] = seed
        try:
            resolved[stage] = stage_config(stage, json.dumps(options, default=str))
        except InputError as error:
            named = [(str(error).find(key), -len(key), key) for key in options if key in str(error)]
            key = min(named)[2] if named else ""
            raise InputError(f"{origin(point, stage, key)}: {str(error).removeprefix(f'{key}: ')}") from None
    return resolved


def origin(point: Point, stage: str, key: str) -> str:
    """The key of the ablation's config that has set an option."""
    place = f"points.{point.name}" if key in point.own[stage] else "base"
    return f"{place}.{stage}.{key}".rstrip(".")


def make_plan(config: AblateConfig) -> list[Job]:
    """All jobs in the order of the points. Raises InputError, also for files that are not there."""
    cache = Path(config.cache or Path(config.out) / "cache")
    jobs = []
    for point in read_points(config):
        for seed in config.train_seeds[:1] if point.untrained else config.train_seeds:
            resolved = resolve(config, point, seed)
            if not resolved["dataset"].input and not point.untrained:
                key = f"points.{point.name}.dataset.input"
                raise InputError(f"{key}: name at least one file (--{key}=FILE, or --base.dataset.input=FILE)")
            stages = make_stages(cache, point, resolved)
            jobs.append(Job(point.name, point.x, None if point.untrained else seed, tuple(stages)))
    return jobs


def make_stages(cache: Path, point: Point, resolved: Mapping[str, Any]) -> list[Stage]:
    """The stages of one point and seed."""
    stages: list[Stage] = []

    def add(kind: str, identity: Any, make_config: Any, module: str) -> str:
        key = digest([kind, __version__, identity])
        folder = cache / kind / key
        stages.append(Stage(kind, module, folder, make_config(str(folder / "out"))))
        return key

    encoder_id, encoder = encoder_identity(point.source), point.source
    tokenizer_id = encoder_identity(resolved["dataset"].tokenizer)
    if point.layers is not None:
        cut = CutConfig(point.source, point.layers)
        encoder_id = add("encoder", [encoder_id, point.layers], lambda out: replace(cut, out=out), "nuner_jax.ablate.cut")
        encoder = str(stages[-1].out)
    if not point.untrained:
        dataset: DatasetConfig = resolved["dataset"]
        identity = [dataset_identity(dataset), tokenizer_id]
        data_id = add("dataset", identity, lambda out: replace(dataset, out=out), "nuner_jax.dataset")
        train: TrainConfig = replace(
            resolved["train"], data=replace(resolved["train"].data, path=Strs((str(stages[-1].out),))), init_from=encoder
        )
        identity = [train_identity(train), data_id, encoder_id]
        run_id = add("train", identity, lambda out: replace(train, workdir=out), "nuner_jax.train")
        export = ExportConfig(workdir=str(stages[-1].out))
        encoder_id = add("export", run_id, lambda out: replace(export, out=out), "nuner_jax.export")
        encoder = str(stages[-1].out)
    evaluate: EvaluateConfig = replace(resolved["evaluate"], encoders=Strs((f"{SYSTEM}={encoder}",)), cache="none")
    identity = [evaluate_identity(evaluate), encoder_id]
    add("evaluate", identity, lambda out: replace(evaluate, out=out), "nuner_jax.evaluate")
    return stages


def dataset_identity(config: DatasetConfig) -> Any:
    """What a data set hangs on, besides the tokenizer. Raises InputError."""
    from nuner_jax.dataset.manifest import NOT_IN_THE_MANIFEST
    from nuner_jax.dataset.sentences import input_files

    inputs: list[Any] = [
        [file_hash(name) for name in input_files([word])] for word in config.input
    ]  # merged, a word is an annotator
    if config.merge == "none":
        inputs = [name for of_word in inputs for name in of_word]
    return [{key: value for key, value in flat(cli.as_dict(config)).items() if key not in NOT_IN_THE_MANIFEST}, inputs]


def train_identity(config: TrainConfig) -> Any:
    """What a run hangs on, besides data and encoder."""
    options = flat(cli.as_dict(config)).items()
    return {key: value for key, value in options if key not in (*FREE, "init_from") and key.split(".")[0] not in FREE}


def evaluate_identity(config: EvaluateConfig) -> Any:
    """What scores hang on, besides the encoder. Raises InputError."""
    elsewhere = ("out", "encoders", "cache", "samples", "tasks")
    files = [file for spec in config.tasks for file in task_files(spec, config.task_data)]
    files += [config.samples] if Path(config.samples).is_file() else []
    hashes = [file_hash(file) for file in files]
    options = {key: value for key, value in flat(cli.as_dict(config)).items() if key not in elsewhere}
    return [options, list(config.tasks), hashes]


@functools.cache
def task_files(spec: str, task_data: str) -> tuple[str, ...]:
    """The files that a task is read from: those of NAME=TRAIN,TEST, or a file of rows and what the rows of it or a preset name.

    Raises InputError for a task that is not there.
    """
    from nuner_jax.evaluate.task_rows import LIBRARIES, file_of
    from nuner_jax.evaluate.tasks import BUNDLED, split_spec, task_rows

    if "=" in spec:
        return tuple(map(str, split_spec(spec)[1]))
    if spec in BUNDLED:
        return ()
    local = [(name, row) for name, row in task_rows(spec, task_data) if row.reader not in LIBRARIES]
    files = [str(file_of(name, row, split)) for name, row in local for split in ("train", "test")]
    return (spec, *files) if Path(spec).is_file() else tuple(files)


@functools.cache
def encoder_identity(name: str) -> str:
    """A name as it stands, a folder by the hash of its files. Raises InputError."""
    from nuner_jax.evaluate.encoders import NamedEncoder

    return NamedEncoder(f"{SYSTEM}={name}").hash if Path(name).is_dir() else name


@functools.cache
def file_hash(path: str) -> str:
    """SHA-256 of a file's bytes. Raises InputError."""
    from nuner_jax.dataset.manifest import file_hash

    return file_hash(path)


def digest(value: Any) -> str:
    """A short hash of a JSON value, for names of folders."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def describe(jobs: Sequence[Job]) -> Iterable[str]:
    """The plan in lines: what is done, what has yet to be."""
    seen: set[Path] = set()
    for job in jobs:
        marks = []
        for stage in job.stages:
            state = "done" if stage.done else "shared" if stage.folder in seen else "to do"
            seen.add(stage.folder)
            marks.append(f"{stage.kind} {state}")
        yield f"{job.label}: {', '.join(marks)}"
    folders = {stage.folder: stage for job in jobs for stage in job.stages}
    missing = [stage.kind for stage in folders.values() if not stage.done]
    counts = [f"{missing.count(kind)} {kind}" for kind in dict.fromkeys(missing)]
    yield f"{len(jobs)} points and seeds; to do: {', '.join(counts) or 'nothing'}"
