"""Orbax checkpoints of a run: state, position in the data, clock. Half-written ones are never seen."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from nuner_jax.errors import InputError, NunerError


class Checkpoints:
    """The checkpoints of one run directory, WORKDIR/checkpoints/<step>. Saving runs in the background until `wait`.

    `save`, `wait` and `close` raise NunerError where storage failed, perhaps while an earlier one was written.
    """

    def __init__(self, workdir: str | Path, keep: int, keep_every: int = 0):
        """Keeps the newest `keep`, and for good those whose step is a multiple of `keep_every` (0: none)."""
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, keep_period=keep_every or None, enable_async_checkpointing=True, create=True
        )
        _tell_failures_once()
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
        with self._writing():
            self.manager.save(step, args=args, force=True)

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """State with the shapes and shardings of `like`, and extra. Raises InputError if it is damaged or does not fit, and OSError
        where storage fails, perhaps for a moment."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), extra=ocp.args.JsonRestore())
        try:
            restored = self.manager.restore(step, args=args)
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
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
        with self._writing():
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees the manager."""
        with self._writing():
            self.manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:  # TensorStore says ValueError, whatever the file system said
            raise NunerError(
                f"{self.folder}: a checkpoint could not be written ({_first_line(error)}); "
                "the same command goes on from the last one that is whole"
            ) from error


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


@lru_cache
def _tell_failures_once() -> None:
    """A failed write comes to us as an exception; each of Orbax's tasks and TensorStore's threads would print it as well."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    others = sys.unraisablehook
    sys.unraisablehook = lambda found: None if str(found.exc_value) == "Event loop is closed" else others(found)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
