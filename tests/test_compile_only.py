"""--compile_only: shapes from the config alone, a report of what the step needs, status 3 if it does not fit."""

import dataclasses
import json
import re

import jax
import pytest
from helpers import make_dataset

from nuner_jax import compile_only, hardware, parallel, train
from nuner_jax.config import DataConfig, MeshConfig, ModelConfig, TrainConfig
from nuner_jax.dataset.loader import Batches, PackedDataset
from nuner_jax.errors import DoesNotFitError, InputError

SIZES = ("--data.row_length", "32", "--data.mentions_per_row", "12", "--data.max_concepts", "40", "--num_epochs", "1")


def run(capsys, encoder, topology, *extra):
    """(exit status, standard output, standard error) of the real main."""
    with pytest.raises(SystemExit) as ended:
        train.main(["--compile_only", topology, "--init_from", str(encoder), "--batch_size", "16", *SIZES, *extra])
    printed = capsys.readouterr()
    return ended.value.code or 0, printed.out, printed.err


def test_shapes_are_those_of_real_batches(tmp_path, tiny_encoder):
    data_dir = make_dataset(tmp_path, tiny_encoder)
    mesh = parallel.make_mesh(MeshConfig(), jax.devices()[:4])
    data = DataConfig(path=str(data_dir), row_length=32, mentions_per_row=12, max_concepts=40, concept_group=16, concept_length=9)
    config = TrainConfig(data=data, batch_size=8)
    shapes = compile_only.abstract_batch(config, compile_only.encoder_shape(str(tiny_encoder)), mesh)
    limits = {"concept_group": 16, "max_concepts": 40, "num_shards": 4}
    batch = Batches(PackedDataset(data_dir), "train", batch_size=8, num_steps=2, seed=0, **limits)[0]
    assert shapes.keys() == batch.keys()
    for name, value in batch.items():
        assert shapes[name].dtype == value.dtype, name
        assert shapes[name].ndim == value.ndim, name
    for name in ("tokens", "segment_ids", "positions", "text_mask", "mentions"):
        assert shapes[name].shape == batch[name].shape, name


def test_the_step_is_compiled_and_described_without_data_and_weights(capsys, tiny_encoder, tmp_path):
    bare = tmp_path / "no-weights"
    bare.mkdir()
    (bare / "config.json").write_text((tiny_encoder / "config.json").read_text())
    status, out, err = run(capsys, bare, "cpu:8", "--data.path", str(tmp_path / "none"), "--mesh.fsdp", "2", "--mesh.data", "4")
    assert (status, err) == (0, "")
    assert "8 x cpu, data 4 x fsdp 2 x tensor 1" in out
    assert "16 rows of 32 tokens a step, 2 a shard; 40 concepts of 8 tokens a shard" in out
    sizes = {
        m[1]: float(m[2]) for m in re.finditer(r"^  (arguments|outputs|temporaries|code|total) +([\d.]+)$", out, re.MULTILINE)
    }
    assert sizes.keys() == {"arguments", "outputs", "temporaries", "code", "total"}
    assert sizes["total"] == pytest.approx(sum(sizes.values()) / 2, abs=0.3)
    assert sizes["arguments"] > 0
    assert re.search(r"all-gather +2 .* text_encoder", out)  # the parameters, gathered over fsdp
    assert re.search(r"all-reduce .* metrics", out)
    assert not list(tmp_path.glob("**/checkpoints"))


def test_parameters_travel_over_fsdp_and_activations_do_not(capsys, tiny_encoder):
    status, out, _ = run(capsys, tiny_encoder, "cpu:4", "--mesh.fsdp", "4", "--mesh.data", "1")
    assert status == 0
    kinds = re.findall(r"^  (\S+) +\d+ +\d+ .*  (text|concept)_encoder$", out, re.MULTILINE)  # of the forward pass
    assert {kind for kind, _ in kinds} <= {"all-gather", "all-to-all"}, out  # all-to-all: the embeddings looked up, once
    assert ("all-gather", "text") in kinds
    assert ("all-gather", "concept") in kinds


@pytest.mark.parametrize(("fsdp", "frozen"), [(2, 1), (4, -1)])
def test_no_device_gathers_a_whole_embedding_table(tiny_encoder, fsdp, frozen):
    """It looks its columns up for the rows of its group. Left alone, XLA gathers tables at some of these shapes."""
    model = ModelConfig(freeze_layers=frozen, freeze_concept_layers=frozen)
    data = DataConfig(row_length=32, mentions_per_row=12, max_concepts=16)
    mesh = MeshConfig(data=8 // fsdp, fsdp=fsdp)
    config = TrainConfig(init_from=str(tiny_encoder), batch_size=64, model=model, data=data, mesh=mesh)
    report = compile_only.compile_step(config, jax.devices()[:8])
    gathered = [
        c.largest for c in report.collectives if c.kind == "all-gather" and c.origin in ("text_encoder", "concept_encoder")
    ]
    sizes = json.loads((tiny_encoder / "config.json").read_text())
    assert 0 < max(gathered) < 4 * sizes["vocab_size"] * sizes["hidden_size"]
    exchanges = [c for c in report.collectives if c.kind == "all-to-all" and c.origin in ("text_encoder", "concept_encoder")]
    assert {c.group_size for c in exchanges} == {fsdp}


def test_a_step_that_does_not_fit_ends_with_status_3_and_the_numbers(capsys, tiny_encoder, monkeypatch):
    small = hardware.Hardware(1e12, 1000.0, 1e9, 1e9)
    monkeypatch.setattr(hardware, "of_kind", lambda kind: small)
    status, out, err = run(capsys, tiny_encoder, "cpu:2")
    assert status == 3
    assert err.count("\n") == 1
    assert re.search(r"cpu:2: the step needs [\d.]+ GiB of the 0.00 GiB that a cpu has", err)
    assert re.search(r"roofline: [\d.]+ ms a step \(arithmetic [\d.]+, memory [\d.]+, links [\d.]+\)", out)


def test_the_compilers_own_refusal_is_status_3_too(tiny_encoder, monkeypatch):
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.31G of 15.75G hbm. Exceeded hbm capacity by 4.56G."
    )

    class Refusing:
        def lower(self, *_):
            raise jax.errors.JaxRuntimeError(message)

    create = compile_only.Program.create
    patched = classmethod(lambda cls, *a: dataclasses.replace(create(*a), train_step=Refusing()))
    monkeypatch.setattr(compile_only.Program, "create", patched)
    config = TrainConfig(init_from=str(tiny_encoder), compile_only="cpu:1", data=DataConfig(max_concepts=8, row_length=32))
    with pytest.raises(DoesNotFitError, match=r"cpu:1: the step does not fit a device .Used 20\.31G of 15.75G hbm"):
        compile_only.compile_step(config, jax.devices()[:1])


@pytest.mark.parametrize(
    ("topology", "extra", "message"),
    [
        ("cpu", (), "compile_only cpu: expected a topology such as v5e:16x16"),
        ("v5e:16*16", (), "expected a topology such as v5e:16x16"),
        ("cpu:8", ("--data.max_concepts", "0"), "data.max_concepts has to be set"),
        ("cpu:8", ("--batch_size", "12"), "batch_size 12 is not divisible by 8 data shards"),
        ("cpu:8", ("--data.row_length", "512"), "data.row_length 512, but "),
        ("cpu:8", ("--mesh.tensor", "3"), "does not fit 8 devices"),
        ("cpu:9999", (), "compile_only cpu:9999: this process has 8 CPU devices"),
    ],
)
def test_what_cannot_be_compiled_for_is_refused_in_one_line(capsys, tiny_encoder, topology, extra, message):
    status, _, err = run(capsys, tiny_encoder, topology, *extra)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err


def test_roberta_is_known_by_name():
    base, large = compile_only.encoder_shape("FacebookAI/roberta-base"), compile_only.encoder_shape("roberta-large")
    assert (base.hidden_size, base.num_hidden_layers, base.max_length) == (768, 12, 512)
    assert (large.hidden_size, large.num_hidden_layers, large.num_attention_heads) == (1024, 24, 16)
    with pytest.raises(InputError, match="no such folder"):
        compile_only.encoder_shape("/no/such/folder")


def test_memory_hardly_grows_with_the_number_of_concepts(tiny_encoder):
    def temporaries(concepts, group=16, chunk=32):
        data = DataConfig(row_length=32, mentions_per_row=12, max_concepts=concepts, concept_group=group)
        config = TrainConfig(data=data, model=ModelConfig(logit_chunk=chunk), batch_size=32, init_from=str(tiny_encoder))
        return compile_only.compile_step(config, jax.devices()[:1]).memory["temporaries"]

    few, many = temporaries(32), temporaries(512)
    assert many < 1.2 * few
    assert temporaries(512, group=512, chunk=512) > 1.5 * many  # all at once would need more
