"""What a run tells: metrics.jsonl, TensorBoard events, a progress bar on a terminal and plain lines elsewhere."""

import json
import math
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nuner_jax import flops
from nuner_jax.errors import InputError, NunerError
from nuner_jax.schema import write_json_lines


class Tracker:
    """Writes a run's metrics; rows past `first_step` are cut away, so that a resumed run has one row a step."""

    def __init__(self, workdir: Path, first_step: int, num_steps: int, active: bool = True):
        self.active = active
        if not active:
            return
        from tensorboardX import SummaryWriter

        self.path = workdir / "metrics.jsonl"
        kept = [row for row in read_metrics(self.path) if row["step"] <= first_step]
        write_json_lines(self.path, kept)
        self.file = open(self.path, "a", encoding="utf8")  # noqa: SIM115 - lives as long as the tracker
        self.board = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)
        self.bar = tqdm(total=num_steps, initial=first_step, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def progress(self, step: int) -> None:
        """Moves the bar."""
        if self.active:
            self.bar.update(step - self.bar.n)

    def write(self, step: int, row: dict[str, Any]) -> None:
        """One row of metrics, everywhere."""
        if not self.active:
            return
        self.file.write(json.dumps({"step": step, **row}) + "\n")
        self.file.flush()
        for name, value in row.items():
            self.board.add_scalar(name, value, step)
        text = "  ".join(f"{name.split('/')[-1]} {value:.4g}" for name, value in row.items() if name in SHOWN or "/f1" in name)
        if self.bar.disable:
            print(f"step {step}/{self.bar.total}  {text}", flush=True)
        else:
            self.bar.set_postfix_str(text, refresh=True)

    def close(self) -> None:
        """Flushes and frees everything."""
        if self.active:
            self.bar.close()
            self.file.close()
            self.board.close()


SHOWN = ("train/loss", "eval/loss", "perf/tokens_per_sec", "perf/mfu", "train/learning_rate", "train/logit_scale")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that a crash has cut is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


class NonFiniteError(NunerError):
    """A step's loss or gradient is NaN or infinite; `step` counts from 0, the message from 1 as the log does."""

    def __init__(self, what: str, step: int):
        super().__init__(f"the {what} of step {step + 1} is not finite")
        self.step = step


SUMS = ("tokens", "positions", "attended", "concept_positions", "concept_attended", "pairs")  # of a step; they become rates
PERF = ("padding", "concept_padding")


class Window:
    """The metrics of the steps since the last log row, left on the devices until they are asked for."""

    def __init__(self, costs: flops.Costs, peak_flops: float | None):
        """`peak_flops`: of all devices together; None where it is not known."""
        self.costs, self.peak_flops = costs, peak_flops
        self.steps: list[tuple[int, dict[str, Any]]] = []
        self.started: float | None = None

    def begin(self) -> None:
        """Before each step: time counts from the first on, so that nothing between two windows does."""
        self.started = time.perf_counter() if self.started is None else self.started

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes a step's metrics, which may still be computed."""
        self.steps.append((step, metrics))

    def row(self) -> dict[str, float]:
        """Means over the window (waits for its last step), and rates. Raises NonFiniteError."""
        import jax

        values = jax.device_get([metrics for _, metrics in self.steps])
        seconds = time.perf_counter() - (self.started or 0.0)
        for (step, _), v in zip(self.steps, values, strict=True):
            for name, what in (("loss", "loss"), ("grad_norm", "gradient")):
                if not math.isfinite(v[name]):
                    raise NonFiniteError(what, step)
        sums = {name: sum(float(v[name]) for v in values) for name in values[0]}
        row = {
            f"{'perf' if name in PERF else 'train'}/{name}": total / len(values)
            for name, total in sums.items()
            if name not in SUMS
        }
        rate = flops.total(self.costs, sums) / seconds
        row |= {"perf/tokens_per_sec": sums["tokens"] / seconds, "perf/steps_per_sec": len(values) / seconds}
        row["perf/tflops_per_sec"] = rate / 1e12
        return row | ({"perf/mfu": rate / self.peak_flops} if self.peak_flops else {})


class StepClock:
    """Where the time of a run goes: steps, waiting for data, everything else (start, compilation, checkpoints, evaluation)."""

    RUN_AHEAD = 2  # steps under way at once

    def __init__(self, program_start: float, trained_seconds: float):
        self.program_start, self.earlier = program_start, trained_seconds
        self.watcher = ThreadPoolExecutor(1)  # sees steps end while the host waits for data
        self.under_way: list[tuple[float, Future[float]]] = []  # when the step was ready to start, when it ends
        self.last_end: float | None = None
        self.ready = program_start
        self.durations: list[float] = []  # of the steps of the window; the first of all compiles and does not count
        self.waited = 0.0
        self.step_seconds = 0.0

    @contextmanager
    def data(self) -> Iterator[None]:
        """Around the wait for the next batch."""
        before = time.perf_counter()
        yield
        self.ready = time.perf_counter()
        self.waited += self.ready - before

    def sent(self, metrics: dict[str, Any]) -> None:
        """A step was sent; waits for the one before it."""
        self.under_way.append((self.ready, self.watcher.submit(_end_of, metrics["loss"])))
        while len(self.under_way) >= self.RUN_AHEAD:
            self._finish_one()

    def wait(self) -> None:
        """Until every step sent has ended."""
        while self.under_way:
            self._finish_one()

    def _finish_one(self) -> None:
        ready, ending = self.under_way.pop(0)
        end = ending.result()
        if self.last_end is not None:
            self.durations.append(end - max(ready, self.last_end))
        self.last_end = end

    def total(self) -> float:
        """Seconds spent on the run so far, earlier processes included."""
        return self.earlier + time.perf_counter() - self.program_start

    def row(self) -> dict[str, float]:
        """Percentiles of the duration of steps, data wait, and goodput (share of this process's time in steps)."""
        durations = sorted(self.durations)
        self.step_seconds += sum(durations)
        row = {"perf/data_wait_seconds": self.waited, "perf/run_seconds": self.total()}
        row["perf/goodput"] = self.step_seconds / (time.perf_counter() - self.program_start)
        if durations:
            row["perf/step_seconds_p50"] = durations[len(durations) // 2]
            row["perf/step_seconds_p95"] = durations[min(len(durations) - 1, int(0.95 * len(durations)))]
        self.durations, self.waited = [], 0.0
        return row

    def close(self) -> None:
        """Lets go of the thread that watches."""
        self.watcher.shutdown(wait=False, cancel_futures=True)


def _end_of(loss: Any) -> float:
    loss.block_until_ready()
    return time.perf_counter()


class Profile:
    """A trace of steps A to B (counted from 1, both included), written by jax.profiler for TensorBoard or Perfetto."""

    def __init__(self, steps: str, folder: Path, num_steps: int, active: bool = True):
        """`steps`: "A:B", or empty for none. Raises InputError."""
        self.steps, self.folder, self.active, self.running = steps, folder, active, False
        self.first, self.last = 0, 0
        if not steps:
            return
        found = re.fullmatch(r"(\d+):(\d+)", steps)
        self.first, self.last = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= self.first <= self.last <= num_steps:
            raise InputError(f"profile {steps}: expected A:B with 1 <= A <= B <= {num_steps}, the steps of the run")

    def before(self, step: int, clock: StepClock) -> None:
        """Starts the trace if it begins with this step (or began before it, in an earlier process), once all others have ended."""
        if self.running or not self.active or not self.first <= step <= self.last:
            return
        import jax

        clock.wait()
        jax.profiler.start_trace(str(self.folder))
        self.running = True

    def after(self, step: int, clock: StepClock) -> None:
        """Ends the trace after its last step, which is waited for."""
        if self.running and step >= self.last:
            clock.wait()
            self.close()

    def close(self) -> None:
        """Writes what there is."""
        if self.running:
            import jax

            jax.profiler.stop_trace()
            self.running = False
            print(f"profile of steps {self.steps} in {self.folder}", flush=True)
