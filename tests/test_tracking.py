"""What a run tells of its speed, and traces of steps."""

import json
import time

import pytest
from helpers import make_dataset

from nuner_jax import train
from nuner_jax.errors import InputError
from nuner_jax.tracking import Profile, StepClock, Window

SUMS = {"tokens": 10.0, "positions": 12.0, "attended": 50.0, "concept_positions": 6.0, "concept_attended": 9.0, "pairs": 40.0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, tiny_encoder):
    return make_dataset(tmp_path_factory.mktemp("tracking"), tiny_encoder)


def run(dataset, encoder, workdir, *extra, steps=6):
    argv = ["--data.path", str(dataset), "--init_from", str(encoder), "--workdir", str(workdir), "--num_train_steps", str(steps)]
    with pytest.raises(SystemExit) as ended:
        train.main([*argv, "--batch_size", "8", "--log_every_steps", "2", *extra])
    return ended.value.code or 0


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_trace_of_chosen_steps_is_written_and_changes_no_number(dataset, tiny_encoder, tmp_path, capsys):
    assert run(dataset, tiny_encoder, tmp_path / "traced", "--profile", "3:4") == 0
    assert f"profile of steps 3:4 in {tmp_path / 'traced' / 'profile'}" in capsys.readouterr().out
    assert [path for path in (tmp_path / "traced" / "profile").rglob("*.xplane.pb") if path.stat().st_size > 1000]
    assert run(dataset, tiny_encoder, tmp_path / "plain") == 0
    assert not (tmp_path / "plain" / "profile").exists()
    losses = [[row.get("train/loss") for row in metrics(tmp_path / name)] for name in ("traced", "plain")]
    assert losses[0] == losses[1]
    row = metrics(tmp_path / "plain")[1]
    assert 0 < row["perf/padding"] < 1
    assert 0 < row["perf/concept_padding"] < 1
    assert row["perf/tflops_per_sec"] > 0
    assert "perf/mfu" not in row  # the peak of a CPU is not known
    assert not {"train/positions", "train/pairs", "train/tokens", "train/attended"} & row.keys()


@pytest.mark.parametrize("steps", ["3", "4:3", "0:2", "5:7", "a:b", "1:2:3"])
def test_a_trace_of_no_such_steps_is_refused(steps, tmp_path):
    with pytest.raises(InputError, match=f"profile {steps}: expected A:B with 1 <= A <= B <= 6"):
        Profile(steps, tmp_path, 6)


class Step:
    """Metrics of a step that ends after some seconds, once those before it have."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __getitem__(self, name):
        return self

    def block_until_ready(self):
        time.sleep(self.seconds)


def test_the_time_of_steps_is_kept_apart_from_waits_and_pauses():
    clock = StepClock(program_start=time.perf_counter(), trained_seconds=0.0)
    for window in range(2):
        for _ in range(4):
            with clock.data():
                time.sleep(0.05)  # the steps are shorter than the wait for data
            clock.sent(Step(0.01))
        clock.wait()
        row = clock.row()
        assert 0.2 <= row["perf/data_wait_seconds"]
        assert 0.01 <= row["perf/step_seconds_p50"] < 0.04
        assert row["perf/goodput"] < 0.4
        time.sleep(0.3 * (window == 0))  # evaluation, say
    assert row["perf/goodput"] < 0.2
    clock.close()


def test_rates_follow_from_sums_over_the_window(monkeypatch):
    clock = iter([0.0, 2.0])
    monkeypatch.setattr("nuner_jax.tracking.time.perf_counter", lambda: next(clock))
    window = Window({"positions": 1e12, "pairs": 1e10}, peak_flops=64e12)
    for step in range(2):
        window.begin()
        window.add(step, {"loss": 1.0 + step, "grad_norm": 1.0, "padding": 0.25 * step, "concept_padding": 0.5, **SUMS})
    row = window.row()
    assert row["train/loss"] == 1.5
    assert row["perf/padding"] == 0.125
    assert row["perf/tokens_per_sec"] == 10
    assert row["perf/tflops_per_sec"] == pytest.approx(12.4)
    assert row["perf/mfu"] == pytest.approx(12.4 / 64)
