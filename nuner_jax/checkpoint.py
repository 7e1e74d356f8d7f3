"""Orbax checkpoints of a run: state, position in the data, clock. Half-written ones are never seen."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from nuner_jax.errors import InputError


class Checkpoints:
    """The checkpoints of one run directory, WORKDIR/checkpoints/<step>. Saving runs in the background until `wait`."""

    def __init__(self, workdir: str | Path, keep: int, keep_every: int = 0):
        """Keeps the newest `keep`, and for good those whose step is a multiple of `keep_every` (0: none)."""
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, keep_period=keep_every or None, enable_async_checkpointing=True, create=True
        )
        self.saved_at = time.monotonic()
        self.folder = Path(workdir).resolve() / "checkpoints"
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """The newest complete step."""
        return self.manager.latest_step()

    def save(self, step: int, state: Any, extra: dict[str, Any]) -> None:
        """Starts to write `state` and `extra` (JSON-able) under `step`; a step that is there already is left alone."""
        if step == self.latest():
            return
        self.saved_at = time.monotonic()
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), extra=ocp.args.JsonSave(extra))
        self.manager.save(step, args=args, force=True)

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """State with the shapes and shardings of `like`, and extra. Raises InputError if it cannot be read or does not fit."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), extra=ocp.args.JsonRestore())
        try:
            restored = self.manager.restore(step, args=args)
        except (ValueError, OSError, KeyError, TypeError, FileNotFoundError) as error:
            raise InputError(f"{self.folder / str(step)}: the checkpoint cannot be read ({_first_line(error)})") from None
        return restored["state"], restored["extra"]

    def is_late(self, minutes: float) -> bool:
        """Whether the last checkpoint is older than `minutes` (0: never), by the first process's clock."""
        if not minutes:
            return False
        late = np.int32(time.monotonic() - self.saved_at > 60 * minutes)
        return bool(multihost_utils.broadcast_one_to_all(late)) if jax.process_count() > 1 else bool(late)

    def stopping(self, step: int) -> bool:
        """Whether a signal or a preemption notice has come to any of several processes; all get the same answer at a step."""
        return self.manager.reached_preemption(step)

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees the manager."""
        self.manager.close()


def load_params(workdir: str | Path, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """(step, parameters as numpy arrays) of a run's checkpoint, the newest by default. Raises InputError."""
    folder = Path(workdir).resolve() / "checkpoints"
    if not folder.is_dir():
        raise InputError(f"{workdir}: no checkpoints here (expected {folder})")
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "extra": ocp.JsonCheckpointHandler()}
    with ocp.CheckpointManager(folder, item_handlers=handlers) as manager:
        steps = sorted(manager.all_steps())
        chosen = steps[-1] if step is None and steps else step
        if chosen is None or chosen not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise InputError(f"{folder}: no checkpoint{'' if step is None else f' of step {step}'} (there: {there})")
        try:
            metadata = manager.item_metadata(chosen)["state"]
            if metadata is None:
                raise ValueError("its metadata are missing")
            like = {"params": jax.tree.map(lambda _: 0, metadata.tree["params"])}
            how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
            args = ocp.args.Composite(state=ocp.args.PyTreeRestore(item=like, restore_args=how, partial_restore=True))
            return chosen, manager.restore(chosen, args=args)["state"]["params"]
        except (ValueError, OSError, KeyError, TypeError, FileNotFoundError) as error:
            raise InputError(f"{folder / str(chosen)}: the checkpoint cannot be read ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
