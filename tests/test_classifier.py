"""The classification objective: the classes of tokens, the loss, and a run from data to an exported folder."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import write_mentions
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax import parallel, train
from nuner_jax.config import DatasetConfig, LossConfig, MeshConfig, TrainConfig
from nuner_jax.dataset.builder import build
from nuner_jax.dataset.loader import Batches, PackedDataset
from nuner_jax.errors import InputError
from nuner_jax.export.__main__ import main as export_main
from nuner_jax.model import hf
from nuner_jax.model.classifier import classes
from nuner_jax.step import Program


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, tiny_encoder):
    folder = tmp_path_factory.mktemp("classifier")
    source = str(write_mentions(folder / "a.jsonl", 200))
    config = DatasetConfig(
        input=(source,), out=str(folder / "data"), tokenizer=str(tiny_encoder), row_length=32, mentions_per_row=12
    )
    build(config)
    return config.out


def one_step(dataset, encoder, devices, **settings):
    """(model, batch, metrics, parameters before and after) of the first batch, without dropout."""
    base = TrainConfig(objective="classification", batch_size=8, **settings)
    config = TrainConfig(**{**vars(base), "model": type(base.model)(dropout=0.0)})
    mesh = parallel.make_mesh(MeshConfig(data=-1, fsdp=1 if devices == 1 else 2), jax.devices()[:devices])
    data = PackedDataset(dataset)
    batches = Batches(data, "train", batch_size=8, num_steps=4, seed=0, num_shards=parallel.num_data_shards(mesh))
    encoder_config, params, _ = hf.load_encoder(encoder)
    program = Program.create(config, encoder_config, mesh, 10, num_concepts=len(data.concepts))
    state = program.init_state(params)
    before = jax.device_get(state["params"])
    state, metrics = program.train_step(state, parallel.put_batch(batches[0], mesh, parallel.local_shards(mesh)))
    return program.model, batches[0], jax.device_get(metrics), before, jax.device_get(state["params"])


@given(
    mentions=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(-1, 6)), min_size=1, max_size=6),
    num_types=st.integers(1, 6),
)
def test_a_token_has_the_class_of_its_most_frequent_concept(mentions, num_types):
    spans = [(first, min(9, first + more), concept) for first, more, concept in mentions]
    expected = [
        min([c + 1 for first, last, c in spans if first <= t <= last and 0 <= c < num_types], default=0) for t in range(10)
    ]
    assert classes(jnp.array([spans]), 10, num_types)[0].tolist() == expected


def test_the_first_loss_is_that_of_a_uniform_guess_and_the_head_learns(dataset, tiny_encoder):
    model, batch, metrics, before, after = one_step(dataset, tiny_encoder, 1, num_types=3)
    assert metrics["loss"] == pytest.approx(np.log(4), rel=1e-5)  # a head of zeros, three types and none
    target = np.asarray(classes(jnp.asarray(batch["mentions"]), batch["tokens"].shape[1], 3))
    assert metrics["positive_rate"] == pytest.approx((target > 0)[batch["text_mask"].astype(bool)].mean())
    assert (after["head"]["kernel"] != before["head"]["kernel"]).any()
    assert model.num_types == 3


def test_no_more_classes_than_the_data_has(dataset, tiny_encoder):
    model, *_ = one_step(dataset, tiny_encoder, 1)
    assert model.num_types == len(PackedDataset(dataset).concepts) < 315


def test_eight_devices_equal_one(dataset, tiny_encoder):
    one, eight = (one_step(dataset, tiny_encoder, devices) for devices in (1, 8))
    np.testing.assert_allclose(one[2]["loss"], eight[2]["loss"], rtol=1e-5)
    np.testing.assert_allclose(one[2]["grad_norm"], eight[2]["grad_norm"], rtol=1e-5)


def test_options_that_do_not_fit_are_refused(dataset, tiny_encoder):
    with pytest.raises(InputError, match="num_types 0 is below 1"):
        one_step(dataset, tiny_encoder, 1, num_types=0)
    with pytest.raises(InputError, match="loss: its options belong to the contrastive objective"):
        one_step(dataset, tiny_encoder, 1, loss=LossConfig(focal_exponent=1.0))


def status(main, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def test_from_data_to_a_folder_without_concept_encoder(dataset, tiny_encoder, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "hf"
    arguments = ["--objective", "classification", "--num_types", "5", "--data.path", dataset, "--init_from", str(tiny_encoder)]
    arguments += ["--workdir", str(run), "--num_train_steps", "30", "--batch_size", "8", "--optim.learning_rate", "1e-3"]
    assert status(train.main, arguments) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    assert 0 < rows[-2]["train/accuracy"] <= 1
    assert status(export_main, ["--workdir", str(run), "--out", str(out)]) == 0
    about = json.loads((out / "nuner.json").read_text())
    assert about["objective"] == "classification"
    assert "concept_encoder" not in about
    assert not (out / "concept_encoder").exists()
    assert "no concept encoder" in (out / "README.md").read_text()
    assert "Transformers gives equal outputs" in capsys.readouterr().out
    assert status(train.main, arguments[2:]) == 2
    assert "objective classification, not contrastive" in capsys.readouterr().err
