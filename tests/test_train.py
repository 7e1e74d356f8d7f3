"""Training: the same numbers on any mesh, after any interruption, and only what should change changes."""

import dataclasses
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from helpers import write_mentions

from nuner_jax import parallel, train
from nuner_jax.checkpoint import load_params
from nuner_jax.config import DatasetConfig, LossConfig, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from nuner_jax.dataset.builder import build
from nuner_jax.dataset.loader import Batches, ConceptCapacity, PackedDataset
from nuner_jax.model import hf
from nuner_jax.model.losses import PLAIN
from nuner_jax.step import Program

CAPACITY = ConceptCapacity(concepts=48, rows=16, row_length=32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, tiny_encoder):
    folder = tmp_path_factory.mktemp("train")
    config = DatasetConfig(
        input=(str(write_mentions(folder / "a.jsonl", 200)),),
        out=str(folder / "data"),
        tokenizer=str(tiny_encoder),
        row_length=32,
        mentions_per_row=12,
        validation_fraction=0.1,
    )
    build(config)
    return config.out


def one_step(dataset, encoder, *, devices=1, mesh=None, model=None, capacity=CAPACITY, seed=0, loss=PLAIN):
    """(loss, parameters after one step, parameters before) of the first batch."""
    model = dataclasses.replace(model or ModelConfig(), dropout=0.0)  # what draws no random number is comparable
    config = TrainConfig(model=model, loss=loss, optim=OptimConfig(clip_norm=0, eps=1e-3), batch_size=8, seed=seed)
    grid = parallel.make_mesh(mesh or MeshConfig(), jax.devices()[:devices])
    shards = parallel.num_data_shards(grid)
    batches = Batches(
        PackedDataset(dataset),
        "train",
        batch_size=8,
        num_steps=4,
        seed=0,
        num_shards=shards,
        capacity=capacity,
        frequency_exponent=loss.frequency_exponent,
    )
    encoder_config, params, _ = hf.load_encoder(encoder)
    program = Program.create(config, encoder_config, grid, 10)
    state = program.init_state(params)
    before = jax.device_get(state["params"])
    batch = parallel.put_batch(batches[0], grid, parallel.local_shards(grid))
    state, metrics = program.train_step(state, batch)
    return jax.device_get(metrics), jax.device_get(state["params"]), before


def assert_close(a, b, rtol=2e-5, atol=2e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.fixture(scope="module")
def plain(dataset, tiny_encoder):
    return one_step(dataset, tiny_encoder)


@pytest.mark.parametrize(
    "mesh", [MeshConfig(), MeshConfig(data=1, fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2)], ids=["data", "fsdp", "all"]
)
def test_eight_devices_equal_one(dataset, tiny_encoder, plain, mesh):
    metrics, params, _ = one_step(dataset, tiny_encoder, devices=8, mesh=mesh)
    assert metrics["concepts"] == plain[0]["concepts"]
    assert metrics["tokens"] == plain[0]["tokens"]
    for name in ("loss", "grad_norm", "positive_rate"):
        np.testing.assert_allclose(metrics[name], plain[0][name], rtol=1e-5)
    assert_close(params, plain[1])


@pytest.mark.parametrize(
    ("model", "capacity"),
    [
        (ModelConfig(logit_chunk=16), CAPACITY),
        (ModelConfig(), ConceptCapacity(concepts=16, rows=8, row_length=32, groups=3)),
        (ModelConfig(max_negatives=1000), CAPACITY),
        (ModelConfig(remat="layer"), CAPACITY),
    ],
    ids=["logits in chunks", "concepts in groups", "cap that does not bind", "rematerialised"],
)
def test_what_saves_memory_changes_no_number(dataset, tiny_encoder, plain, model, capacity):
    metrics, params, _ = one_step(dataset, tiny_encoder, model=model, capacity=capacity)
    assert metrics["concepts"] == plain[0]["concepts"]
    np.testing.assert_allclose(metrics["loss"], plain[0]["loss"], rtol=1e-5)
    assert_close(params, plain[1])


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(unlabelled_weight=0.3, duplicate_cosine=0.9, focal_exponent=1.0, frequency_exponent=0.5),
        LossConfig(middle_weight=0.5),
    ],
    ids=["pairs", "middle"],
)
def test_switches_of_the_loss_are_the_same_on_four_devices_in_chunks(dataset, tiny_encoder, plain, loss):
    _, params, _ = one_step(dataset, tiny_encoder, loss=loss)
    _, split, _ = one_step(dataset, tiny_encoder, devices=4, loss=loss, model=ModelConfig(logit_chunk=16))
    assert_close(split, params)
    moved = jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), params["text"], plain[1]["text"]))
    assert max(moved) > 1e-6


def test_capped_negatives_are_those_of_a_group_of_shards(dataset, tiny_encoder):
    full, *_ = one_step(dataset, tiny_encoder, devices=4)
    two = ModelConfig(max_negatives=3 * CAPACITY.concepts)  # groups of three do not divide four shards
    capped, params, _ = one_step(dataset, tiny_encoder, devices=4, model=two)
    split, split_params, _ = one_step(dataset, tiny_encoder, devices=4, model=two, mesh=MeshConfig(data=2, fsdp=2))
    np.testing.assert_allclose(split["loss"], capped["loss"], rtol=1e-5)
    assert_close(split_params, params)
    own, *_ = one_step(dataset, tiny_encoder, devices=4, model=ModelConfig(max_negatives=1))
    assert own["concepts"] < capped["concepts"] < full["concepts"]
    assert own["loss"] < capped["loss"] < full["loss"]
    for metrics in (capped, own):  # every mention keeps its own concept
        positives = metrics["positive_rate"] * metrics["concepts"]
        np.testing.assert_allclose(positives, full["positive_rate"] * full["concepts"], rtol=1e-5)


@pytest.mark.parametrize(("freeze", "frozen"), [(-1, []), (0, ["embeddings"]), (1, ["embeddings", "layers/0"])])
def test_frozen_layers_stay_and_the_others_move(dataset, tiny_encoder, freeze, frozen):
    _, after, before = one_step(dataset, tiny_encoder, model=ModelConfig(freeze_layers=freeze))

    def name(path):
        return "/".join(str(entry.key) for entry in path)

    moved = {name(path) for path, x in jax.tree.leaves_with_path(jax.tree.map(lambda a, b: (a != b).any(), after, before)) if x}
    kept = {name(path) for path, _ in jax.tree.leaves_with_path(before)} - moved
    assert not any(path.startswith(f"text/{part}") for path in moved for part in frozen)
    weights = {path for path in kept if path.startswith("text/") and path.endswith("kernel")}
    assert all(any(path.startswith(f"text/{part}") for part in frozen) for path in weights)


def test_dot_product_has_no_scale_and_bias_to_learn(dataset, tiny_encoder):
    metrics, after, before = one_step(dataset, tiny_encoder, model=ModelConfig(logit="dot"))
    assert after["logit_scale"] == before["logit_scale"] == 0
    assert after["logit_bias"] == before["logit_bias"] == 0
    assert metrics["loss"] > 0


def run(dataset, encoder, workdir, *extra, steps=12):
    """The real main; returns its exit status."""
    argv = ["--data.path", dataset, "--init_from", str(encoder), "--workdir", str(workdir), "--num_train_steps", str(steps)]
    argv += ["--batch_size", "8", "--log_every_steps", "2", "--checkpoint_every_steps", "4", "--mesh.data", "8", *extra]
    with pytest.raises(SystemExit) as stopped:
        train.main(argv)
    return stopped.value.code or 0


@pytest.fixture(scope="module")
def finished(dataset, tiny_encoder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert run(dataset, tiny_encoder, workdir, "--model.dropout", "0.1") == 0
    return workdir


def rows(workdir, name="train/loss"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[name] for row in lines if name in row}


def assert_same_end(a, b):
    (step, params), (other_step, other) = load_params(a), load_params(b)
    assert step == other_step
    jax.tree.map(np.testing.assert_array_equal, params, other)
    assert rows(a) == rows(b)


def test_a_run_learns_and_tells(finished):
    losses = rows(finished)
    assert list(losses) == [2, 4, 6, 8, 10, 12]
    assert losses[12] < losses[2]
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-2])
    for name in ("train/grad_norm", "train/positive_rate", "train/logit_scale", "train/logit_bias", "train/learning_rate"):
        assert np.isfinite(last[name])
    assert last["perf/tokens_per_sec"] > 0
    assert rows(finished, "eval/loss").keys() == {12}
    assert list((finished / "tensorboard").iterdir())


def test_interrupted_equals_uninterrupted_bit_for_bit(dataset, tiny_encoder, finished, tmp_path, monkeypatch):
    from nuner_jax.tracking import Tracker

    workdir, dropout = tmp_path / "cut", ("--model.dropout", "0.1")

    def crash(self, step):
        if step == 7:
            raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "progress", crash)
        with pytest.raises(MemoryError):
            train.main(
                [
                    "--data.path",
                    dataset,
                    "--init_from",
                    str(tiny_encoder),
                    "--workdir",
                    str(workdir),
                    "--num_train_steps",
                    "12",
                    "--batch_size",
                    "8",
                    "--log_every_steps",
                    "2",
                    "--checkpoint_every_steps",
                    "4",
                    "--mesh.data",
                    "8",
                    *dropout,
                ]
            )
    assert run(dataset, tiny_encoder, workdir, *dropout) == 0
    assert_same_end(workdir, finished)


def test_sigterm_saves_and_the_same_command_resumes(dataset, tiny_encoder, finished, tmp_path, monkeypatch, capsys):
    from nuner_jax.tracking import Tracker

    workdir, dropout = tmp_path / "stopped", ("--model.dropout", "0.1")
    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "progress", lambda self, step: signal.raise_signal(signal.SIGTERM) if step == 5 else None)
        assert run(dataset, tiny_encoder, workdir, *dropout) == 75
    assert "after step 5 of 12" in capsys.readouterr().err
    assert run(dataset, tiny_encoder, workdir, *dropout) == 0
    assert load_params(workdir)[0] == 12
    jax.tree.map(np.testing.assert_array_equal, load_params(workdir)[1], load_params(finished)[1])


def test_a_finished_run_has_nothing_left_to_do(dataset, tiny_encoder, finished, capsys):
    before = (finished / "metrics.jsonl").read_bytes()
    assert run(dataset, tiny_encoder, finished, "--model.dropout", "0.1") == 0
    assert "nothing left to do" in capsys.readouterr().out
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("extra", "steps", "message"),
    [
        (("--model.dropout", "0.2"), 12, "this run has model.dropout 0.1, not 0.2"),
        (("--model.dropout", "0.1"), 14, "this run has 12 steps, not 14; allow it with --extend"),
        (("--model.dropout", "0.1", "--extend"), 10, "this run has 12 steps, not 10; use another workdir"),
    ],
)
def test_a_resume_that_would_change_numbers_is_refused_by_name(dataset, tiny_encoder, finished, capsys, extra, steps, message):
    assert run(dataset, tiny_encoder, finished, *extra, steps=steps) == 2
    assert message in capsys.readouterr().err


def test_other_data_is_refused_by_fingerprint(dataset, tiny_encoder, finished, tmp_path, capsys):
    path = write_mentions(tmp_path / "b.jsonl", 60, seed=5)
    sizes = {"row_length": 32, "mentions_per_row": 12}
    build(DatasetConfig(input=(str(path),), out=str(tmp_path / "other"), tokenizer=str(tiny_encoder), **sizes))
    assert run(str(tmp_path / "other"), tiny_encoder, finished, "--model.dropout", "0.1") == 2
    assert "trained with another data set" in capsys.readouterr().err


def test_another_tokenizer_is_refused_by_fingerprint(dataset, tmp_path, capsys):
    from helpers import make_encoder

    other = make_encoder(tmp_path / "other", vocab_size=300)
    assert run(dataset, other, tmp_path / "run") == 2
    assert "made with another tokenizer" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint(
    dataset, tiny_encoder, tmp_path, capsys, monkeypatch
):
    from nuner_jax import optim

    def poisoned(config, peak, num_steps):
        return lambda count: jax.numpy.where(count < 5, 1e-4, jax.numpy.nan)

    monkeypatch.setattr(optim, "schedule", poisoned)
    assert run(dataset, tiny_encoder, tmp_path / "run") == 1
    error = capsys.readouterr().err
    balance_rows = TrainConfig().data.balance_rows
    batches = Batches(PackedDataset(dataset), "train", batch_size=8, num_steps=12, seed=0, balance_rows=balance_rows)
    order = batches.order.indices(6)
    assert f"the loss of step 7 is not finite (rows {', '.join(map(str, order))} of the data set)" in error
    assert error.rstrip().endswith("checkpoints/4")
    assert load_params(tmp_path / "run")[0] == 4


def test_a_gradient_that_is_not_finite_stops_the_run_before_anything_of_it_is_saved(
    dataset, tiny_encoder, tmp_path, capsys, monkeypatch
):
    from nuner_jax.model.two_tower import TwoTower

    plain = TwoTower.loss

    def poisoned(self, params, batch, key=None):
        loss, metrics = plain(self, params, batch, key)
        return loss + jax.numpy.sqrt(0 * params["logit_bias"]), metrics  # adds 0, whose slope is infinite

    monkeypatch.setattr(TwoTower, "loss", poisoned)
    assert run(dataset, tiny_encoder, tmp_path / "run", "--checkpoint_every_steps", "1") == 1
    error = capsys.readouterr().err
    assert "the gradient of step 1 is not finite" in error
    assert error.rstrip().endswith("last good checkpoint: none")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--batch_size", "12"), "batch_size 12 is not divisible by 8 data shards"),
        (("--mesh.fsdp", "3"), "does not fit 8 devices"),
        (("--model.freeze_layers", "9"), "model.freeze_layers 9 is not between -1 and the encoder's 2 layers"),
        (("--init_from", "/no/such/encoder"), "no such folder"),
        (("--gradient_accumulation_steps", "2"), "gradient_accumulation_steps 2: refused, as the loss of a batch is not the sum"),
        (("--workdir", "gs://bucket/run"), "workdir: gs://bucket/run is not a path of the file system; mount it"),
    ],
)
def test_settings_that_cannot_work_end_in_one_line(dataset, tiny_encoder, tmp_path, capsys, extra, message):
    assert run(dataset, tiny_encoder, tmp_path / "run", *extra) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_unreadable_checkpoint_is_named(dataset, tiny_encoder, finished, tmp_path, capsys):
    workdir = tmp_path / "broken"
    shutil.copytree(finished, workdir)
    for path in (workdir / "checkpoints" / "12" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert run(dataset, tiny_encoder, workdir, "--model.dropout", "0.1", "--extend", steps=14) == 2
    assert f"{workdir / 'checkpoints' / '12'}: the checkpoint cannot be read" in capsys.readouterr().err


def test_a_run_goes_on_without_the_encoder_that_it_started_from(dataset, tiny_encoder, finished, tmp_path):
    workdir, encoder = tmp_path / "run", tmp_path / "encoder"
    shutil.copytree(tiny_encoder, encoder)
    assert run(dataset, encoder, workdir, "--model.dropout", "0.1") == 0
    shutil.rmtree(workdir / "checkpoints" / "12")
    shutil.rmtree(encoder)  # as a hub that cannot be reached
    assert run(dataset, encoder, workdir, "--model.dropout", "0.1") == 0
    assert_same_end(workdir, finished)


def test_concepts_that_find_no_place_are_counted_step_by_step_over_all_devices(dataset, tiny_encoder, tmp_path):
    limits = ("--data.max_concepts", "2", "--checkpoint_every_steps", "2")
    assert run(dataset, tiny_encoder, tmp_path / "run", *limits, steps=4) == 0
    batches = Batches(
        PackedDataset(dataset),
        "train",
        batch_size=8,
        num_steps=4,
        seed=0,
        num_shards=8,
        max_concepts=2,
        balance_rows=TrainConfig().data.balance_rows,
    )
    counts = [batches[step]["concepts_left_out"].sum() for step in range(4)]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [row["train/concepts_left_out"] for row in rows if "train/concepts_left_out" in row]
    assert found == [np.mean(counts[:2]), np.mean(counts[2:])]
    assert min(found) > 0


def test_every_parameter_has_exactly_one_sharding_rule(tiny_encoder):
    encoder_config, params, _ = hf.load_encoder(tiny_encoder)
    del encoder_config
    for path, _ in jax.tree.leaves_with_path({"text": params, "concept": params}):
        parallel.spec_of("/".join(str(entry.key) for entry in path))
    with pytest.raises(KeyError, match="0 sharding rules"):
        parallel.spec_of("text/layers/0/new_part/kernel")


def test_no_recompilation_after_the_first_step(dataset, tiny_encoder):
    config = TrainConfig(batch_size=8)
    grid = parallel.make_mesh(MeshConfig(), jax.devices()[:2])
    batches = Batches(PackedDataset(dataset), "train", batch_size=8, num_steps=5, seed=0, num_shards=2)
    encoder_config, params, _ = hf.load_encoder(tiny_encoder)
    program = Program.create(config, encoder_config, grid, 5)
    state = program.init_state(params)
    for step in range(5):
        state, _ = program.train_step(state, parallel.put_batch(batches[step], grid, parallel.local_shards(grid)))
    assert program.train_step._cache_size() == 1


def test_no_held_out_batches_no_held_out_loss(dataset, tiny_encoder, tmp_path):
    assert run(dataset, tiny_encoder, tmp_path / "run", "--eval_batches", "0", steps=2) == 0
    assert "eval/loss" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert load_params(tmp_path / "run")[0] == 2


def test_a_checkpoint_half_written_by_a_crash_is_not_seen(dataset, tiny_encoder, finished, tmp_path, capfd):
    workdir = tmp_path / "crashed"
    shutil.copytree(finished, workdir)
    newest = workdir / "checkpoints" / "12"
    newest.rename(newest.with_name("12.orbax-checkpoint-tmp"))
    (newest.with_name("12.orbax-checkpoint-tmp") / "_CHECKPOINT_METADATA").unlink()
    assert load_params(workdir)[0] == 8
    assert capfd.readouterr().err == ""
    assert run(dataset, tiny_encoder, workdir, "--model.dropout", "0.1") == 0
    assert_same_end(workdir, finished)
