"""The run directory: how long a run is, what it remembers, whether a command goes on with it, and signals that stop it."""

import json
import math
import os
import signal
from operator import attrgetter
from pathlib import Path
from typing import Any

from nuner_jax import __version__, cli
from nuner_jax.config import TrainConfig
from nuner_jax.errors import InputError
from nuner_jax.schema import write_json_lines

# Keys that change no number of a run: it may be resumed with others.
FREE = ("workdir", "log_every_steps", "eval_every_steps", "eval_batches", "probe_every_steps", "checkpoint_every_steps")
FREE += ("checkpoint_every_minutes", "keep_checkpoints", "keep_every_steps", "extend", "data.path", "data.num_threads", "mesh")
FREE += ("distributed", "profile", "compile_only", "data.row_length", "data.mentions_per_row", "data.concept_length")
LENGTH = ("num_train_steps", "num_epochs")
# Least and greatest value that a run can use.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("batch_size", "keep_checkpoints", "data.concept_group", "distributed.heartbeat_seconds"), (1, math.inf)),
    **dict.fromkeys(("eval_batches", "data.max_concepts", "data.balance_rows", "data.num_threads"), (0, math.inf)),
    **dict.fromkeys(("model.max_negatives", "model.logit_chunk", "loss.unlabelled_weight"), (0, math.inf)),
    **dict.fromkeys(("loss.focal_exponent", "loss.middle_weight", "optim.clip_norm", "optim.weight_decay"), (0, math.inf)),
    **dict.fromkeys(("optim.learning_rate", "optim.logit_learning_rate", "optim.head_learning_rate"), (0, math.inf)),
    **dict.fromkeys(("optim.warmup_fraction", "optim.final_fraction", "model.mention_mask", "loss.duplicate_cosine"), (0, 1)),
    **dict.fromkeys(("optim.b1", "optim.b2"), (0, 0.999999)),
    "model.dropout": (0, 0.99),  # it is rounded to n/256, and may not come to 1
    **dict.fromkeys(("model.logit_scale", "optim.eps"), (1e-30, math.inf)),
}


def check_values(config: TrainConfig) -> None:
    """Raises InputError "key: what is wrong" for a value that no run could use."""
    for key, (least, most) in RANGES.items():
        value = attrgetter(key)(config)
        if not least <= value <= most:
            raise InputError(f"{key}: {value} is {f'below {least:g}' if value < least else f'above {most:g}'}")
    if config.gradient_accumulation_steps != 1:
        raise InputError(
            f"gradient_accumulation_steps {config.gradient_accumulation_steps}: refused, as the loss of a batch is not the sum of those "
            "of its parts (they have fewer negatives); memory is saved by model.remat, data.concept_group, model.logit_chunk, mesh.fsdp"
        )


def resolve_steps(config: TrainConfig, num_rows: int) -> int:
    """The length of the run in steps. Raises InputError if it is below one."""
    steps = config.num_train_steps
    if steps is None:
        steps = round((config.num_epochs or 0) * num_rows / config.batch_size)
        if config.num_epochs and config.num_epochs > 0:
            steps = max(1, steps)
    if steps < 1:
        raise InputError(f"the run has no step (num_train_steps {config.num_train_steps}, num_epochs {config.num_epochs})")
    return steps


def describe(config: TrainConfig, manifest: dict[str, Any], num_steps: int) -> dict[str, Any]:
    """What a run directory remembers; `num_steps` is the resolved length."""
    facts = {
        "nuner_jax": __version__,
        "num_steps": num_steps,
        "data": manifest["fingerprint"],
        "tokenizer": manifest["tokenizer"],
    }
    dataset = {key: manifest[key] for key in ("sentences", "mentions", "concepts", "fingerprint")}
    dataset["concept_text"] = manifest["config"]["concept_text"]  # export needs it, when the data set may be gone
    return facts | {"dataset": dataset, "config": cli.as_dict(config)}


def make_folder(workdir: Path) -> None:
    """Makes the run directory unless it is there. Raises InputError if it cannot be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"workdir {workdir}: cannot be made ({error.strerror})") from None
    if not os.access(workdir, os.W_OK):
        raise InputError(f"workdir {workdir}: cannot be written")


def remember(workdir: Path, run: dict[str, Any]) -> None:
    """Writes WORKDIR/run.json."""
    write_json_lines(workdir / "run.json", [run])


def check_same(workdir: Path, now: dict[str, Any], extend: bool) -> None:
    """Raises InputError that names the first key by which this command differs from the run in `workdir`, if there is one."""
    path = workdir / "run.json"
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_text(encoding="utf8"))
        old, new = flat(before["config"]), flat(now["config"])
        facts = {name: (before[name], now[name]) for name in ("data", "tokenizer", "num_steps")}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: not the description of a run") from None
    for name, what in (("tokenizer", "tokenizer"), ("data", "data set")):
        if facts[name][0] != facts[name][1]:
            raise InputError(f"{workdir}: this run was trained with another {what} (fingerprint differs)")
    for key in sorted(new):
        if old.get(key) != new[key] and key not in FREE + LENGTH and key.split(".")[0] not in FREE:
            raise InputError(f"{workdir}: this run has {key} {old.get(key)}, not {new[key]}; use another workdir")
    was, wanted = facts["num_steps"]
    if was != wanted and not (extend and wanted > was):
        hint = "allow it with --extend" if wanted > was else "use another workdir"
        raise InputError(f"{workdir}: this run has {was} steps, not {wanted}; {hint}")


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict with dotted keys."""
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        rows |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return rows


def is_due(done: int, every: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens after step `done`."""
    return every > 0 and done % every == 0


class StopSignal:
    """SIGTERM and Ctrl-C ask for a checkpoint and a clean end after the step under way; a second one ends at once."""

    def __init__(self) -> None:
        self.name = ""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        del frame
        self.name = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)
