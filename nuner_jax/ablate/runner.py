"""Runs the stages of an ablation as the ordinary commands, one after the other; what is done already is not done again."""

import fcntl
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from nuner_jax import cli
from nuner_jax.ablate.plan import Job, Stage, make_plan
from nuner_jax.config import AblateConfig
from nuner_jax.errors import InputError, NunerError, Preempted
from nuner_jax.evaluate.results import Row
from nuner_jax.run import StopSignal
from nuner_jax.schema import read_json_lines, write_json_lines


class StageError(NunerError):
    """A stage has failed; carries its exit status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.exit_status = status if status in (2, 3) else 1


def run(config: AblateConfig) -> list[Job]:
    """Runs what is missing; OUT/results.jsonl grows by every job that is done. Raises InputError, StageError, Preempted."""
    jobs = make_plan(config)
    out = Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(yaml.safe_dump(cli.as_dict(config), sort_keys=False), encoding="utf8")
        (out / "commands.sh").write_text(commands(jobs), encoding="utf8")
    except OSError as error:
        raise InputError(f"out {out}: cannot be written ({error.strerror})") from None
    stop, rows = StopSignal(), []
    for number, job in enumerate(jobs, start=1):
        for stage in job.stages:
            run_stage(stage, f"[{number}/{len(jobs)}] {job.label}: {stage.kind}", stop)
            if stage.kind == "export" and not config.keep_checkpoints:
                remove_checkpoints(job)
        rows += result_rows(config, job)
        write_json_lines(out / "results.jsonl", rows)
    return jobs


def run_stage(stage: Stage, what: str, stop: StopSignal) -> None:
    """One stage, unless it is done. Raises StageError, and Preempted after a signal, which the stage has been passed."""
    if stage.done:
        return
    with locked(stage.folder, what) as lock:
        if stage.done:
            return
        stage.config_path.write_text(yaml.safe_dump(cli.as_dict(stage.config), sort_keys=False), encoding="utf8")
        log_path = stage.folder / "log.txt"
        print(f"{what} ... ({log_path})", flush=True)
        started = time.perf_counter()
        with open(log_path, "ab") as log:
            # A session of its own: Ctrl-C reaches it once, through us. It holds the lock too, should we be killed.
            child = subprocess.Popen(
                [sys.executable, *stage.words],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                pass_fds=[lock],
                start_new_session=True,
            )
            status = wait(child, stop)
        seconds = round(time.perf_counter() - started, 1)
        if status == 0:
            row = {
                "seconds": seconds,
                "command": shlex.join(["python", *stage.words]),
                "finished": time.strftime("%FT%TZ", time.gmtime()),
            }
            write_json_lines(stage.folder / "done.json", [row])
            print(f"{what}: {seconds:.0f} s", flush=True)
        elif stop.name or status == Preempted.exit_status:
            raise Preempted(f"stopped in {what.partition('] ')[2]}; the same command goes on from there")
        else:
            lines = log_path.read_text(encoding="utf8", errors="replace").strip().splitlines()
            raise StageError(
                f"{what.partition('] ')[2]} failed: {lines[-1] if lines else f'status {status}'} ({log_path})", status
            )


def wait(child: "subprocess.Popen[bytes]", stop: StopSignal) -> int:
    """The exit status of a stage; a signal that stops us is passed on to it once."""
    told = False
    while True:
        try:
            return child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if stop.name and not told:
                child.terminate()
                told = True


@contextmanager
def locked(folder: Path, what: str) -> Iterator[int]:
    """The only process that works in `folder`: another one with the same cache is waited for. Raises InputError.

    The lock's file descriptor: a child that inherits it keeps the lock for as long as it lives.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{what}: another process is at it; waiting", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def remove_checkpoints(job: Job) -> None:
    """Frees the disk of a run whose encoder has been exported."""
    for stage in job.stages:
        if stage.kind == "train":
            shutil.rmtree(stage.out / "checkpoints", ignore_errors=True)


def result_rows(config: AblateConfig, job: Job) -> list[Row]:
    """The rows of a job's evaluation, with the point and what they can be traced by."""
    facts: dict[str, Any] = {"ablation": config.title, "point": job.point, "x": job.x, "train_seed": job.train_seed}
    trace = {stage.kind: str(stage.folder) for stage in job.stages}
    rows = [row for _, row in read_json_lines(job.stages[-1].out / "results.jsonl")]
    return [{**facts, **row, "system": job.label, "stages": trace} for row in rows]


def commands(jobs: Sequence[Job]) -> str:
    """A shell script of all commands, each once, for who wants to run one by hand."""
    lines = ["# Every command of the ablation, each once; the config files are written when it first runs."]
    seen: set[Path] = set()
    for job in jobs:
        lines.append(f"# {job.label}: {json.dumps({stage.kind: stage.folder.name for stage in job.stages})}")
        lines += [shlex.join(["python", *stage.words]) for stage in job.stages if stage.folder not in seen]
        seen.update(stage.folder for stage in job.stages)
    return "\n".join(lines) + "\n"
