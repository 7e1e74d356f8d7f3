"""Several real processes train as one does; stopped or killed, they go on as if nothing had happened, on as many as there are then."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import make_dataset

from nuner_jax.checkpoint import load_params

LAUNCH = Path(__file__).resolve().parent.parent.parent / "launch" / "local_processes.py"
STEPS = 24
EVERY = 3  # steps between checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, tiny_encoder):
    return make_dataset(tmp_path_factory.mktemp("multiprocess"), tiny_encoder)


class Run:
    """One launch of so many processes, with four devices together."""

    def __init__(self, dataset, encoder, workdir, processes, *options):
        command = [sys.executable, str(LAUNCH), "--processes", str(processes), "--devices", str(4 // processes)]
        command += ["--grace", "3", "--", "--data.path", str(dataset), "--init_from", str(encoder), "--workdir", str(workdir)]
        command += ["--num_train_steps", str(STEPS), "--batch_size", "8", "--log_every_steps", "1"]
        command += ["--checkpoint_every_steps", str(EVERY), "--distributed.heartbeat_seconds", "600", *options]
        self.output, self.workdir = open(f"{workdir}.log", "a+", encoding="utf8"), workdir  # noqa: SIM115 - the child writes it
        self.output.truncate(0)
        self.process = subprocess.Popen(command, stdout=self.output, stderr=subprocess.STDOUT)

    def until_step(self, step):
        """Waits for a row of the log."""
        self._until(lambda: f"step {step}/{STEPS} " in self.text)

    def until_saved_after(self, step):
        """Waits for a newer checkpoint."""
        self._until(lambda: saved(self.workdir) > step)

    def _until(self, reached):
        while not reached():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.text}"
            time.sleep(0.02)

    def end(self):
        """Waits; returns the exit status."""
        return self.process.wait(timeout=500)

    @property
    def text(self):
        return Path(self.output.name).read_text(encoding="utf8")

    @property
    def pids(self):
        """Of the training processes."""
        listed = re.search(r"process ids ([\d, ]+)", self.text)
        assert listed, self.text
        return [int(pid) for pid in listed[1].split(", ")]


def whole(*arguments):
    run = Run(*arguments)
    assert run.end() == 0, run.text
    return run


def saved(workdir):
    """The newest complete checkpoint; 0: none."""
    return max((int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def column(workdir, name):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = [(row["step"], row[name]) for row in rows if name in row]
    assert [step for step, _ in found] == list(range(1, STEPS + 1))
    return np.array([value for _, value in found])


@pytest.fixture(scope="module")
def one(dataset, tiny_encoder, tmp_path_factory):
    """A run of one process."""
    workdir = tmp_path_factory.mktemp("runs") / "one"
    whole(dataset, tiny_encoder, workdir, 1)
    assert len(set(column(workdir, "train/digest"))) > 15  # the examples do differ from step to step
    return workdir


@pytest.fixture(scope="module")
def two(dataset, tiny_encoder, tmp_path_factory):
    """The same run on two processes."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    whole(dataset, tiny_encoder, workdir, 2)
    return workdir


def assert_close(a, b):
    """The same examples in the same order, and all numbers equal to float32 rounding."""
    np.testing.assert_array_equal(column(a, "train/digest"), column(b, "train/digest"))
    np.testing.assert_allclose(column(a, "train/loss"), column(b, "train/loss"), rtol=1e-4)
    (step, params), (other_step, other) = load_params(a), load_params(b)
    assert step == other_step == STEPS
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), params, other)


def test_two_processes_train_as_one_does(one, two):
    assert_close(two, one)


def test_a_model_split_over_two_processes_is_the_same_model(dataset, tiny_encoder, one, tmp_path):
    whole(dataset, tiny_encoder, tmp_path / "fsdp", 2, "--mesh.data", "1", "--mesh.fsdp", "4")
    assert_close(tmp_path / "fsdp", one)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_one_process_is_told_to_stop_all_do_and_another_number_goes_on(dataset, tiny_encoder, one, tmp_path, before, after):
    workdir = tmp_path / "run"
    run = Run(dataset, tiny_encoder, workdir, before)
    run.until_step(5)
    os.kill(run.pids[-1], signal.SIGTERM)  # the last one: of two not the one that writes the log
    assert run.end() == 75, run.text
    stopped = re.findall(rf"stopped after step (\d+) of {STEPS}; the same command goes on from there", run.text)
    assert len(stopped) == before, run.text
    assert {int(step) for step in stopped} == {saved(workdir)}
    assert len(re.findall(rf"step 5/{STEPS} ", run.text)) == 1  # only the first process talks
    resumed = whole(dataset, tiny_encoder, workdir, after)
    assert f"step {saved(workdir)}/" in resumed.text
    assert f"step {stopped[0]}/" not in resumed.text  # it did not begin anew
    assert_close(workdir, one)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments_it_ends_bit_for_bit_as_if_nothing_had_happened(
    request, dataset, tiny_encoder, tmp_path, processes
):
    quiet = request.getfixturevalue("one" if processes == 1 else "two")
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    rng = random.Random(seed)
    workdir, found = tmp_path / "killed", 0
    for _ in range(2):
        run = Run(dataset, tiny_encoder, workdir, processes)
        run.until_saved_after(found)
        time.sleep(rng.uniform(0, 0.5))
        os.kill(rng.choice(run.pids), signal.SIGKILL)
        assert run.end() not in (0, 2), run.text
        assert STEPS > saved(workdir) > found
        found = saved(workdir)
    whole(dataset, tiny_encoder, workdir, processes)
    for name in ("train/digest", "train/loss"):
        np.testing.assert_array_equal(column(workdir, name), column(quiet, name))
    (step, params), (other_step, other) = load_params(workdir), load_params(quiet)
    assert step == other_step == STEPS
    jax.tree.map(np.testing.assert_array_equal, params, other)
