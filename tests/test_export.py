"""Export: a run directory becomes a folder that others open, or nothing at all."""

import dataclasses
import json
import os
import shutil
import stat

import jax
import numpy as np
import pytest
import transformers

from nuner_jax.cli import as_dict
from nuner_jax.config import ExportConfig, ModelConfig, TrainConfig
from nuner_jax.errors import InputError
from nuner_jax.export import hf as export
from nuner_jax.export.__main__ import main
from nuner_jax.model import hf
from nuner_jax.model.encoder import EncoderConfig, init_params
from nuner_jax.pretrained import load_tokenizer, tokenizer_fingerprint
from nuner_jax.schema import write_json_lines


def params_of(config: EncoderConfig, seed: int) -> dict:
    text, concept = (jax.device_get(init_params(config, jax.random.key(seed + n))) for n in (0, 1))
    return {"text": text, "concept": concept, "logit_scale": np.float32(np.log(12.5)), "logit_bias": np.float32(-4.25)}


def make_run(workdir, source, steps=(3, 5), **settings):
    """A run directory as the train stage leaves it, with a checkpoint of random parameters for each step."""
    from nuner_jax.checkpoint import Checkpoints

    config = hf.load_encoder(source)[0]
    run = TrainConfig(init_from=str(source), model=ModelConfig(**settings))
    description = {
        "nuner_jax": "0",
        "num_steps": 5,
        "data": "0" * 64,
        "tokenizer": tokenizer_fingerprint(load_tokenizer(str(source))),
        "dataset": {
            "sentences": 7,
            "mentions": 20,
            "concepts": 9,
            "fingerprint": "0" * 64,
            "concept_text": "name_and_description",
        },
        "config": as_dict(run),
    }
    workdir.mkdir(parents=True)
    write_json_lines(workdir / "run.json", [description])
    hf.save_sidecar(workdir / "encoder", str(source))
    checkpoints = Checkpoints(workdir, keep=len(steps))
    for step in steps:
        checkpoints.save(step, {"params": params_of(config, step), "opt_state": {"mu": np.ones(3)}, "step": np.int32(step)}, {})
    checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def workdir(tiny_encoder, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "w", tiny_encoder)


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    return export.export_run(ExportConfig(workdir=str(workdir), out=str(tmp_path_factory.mktemp("out") / "deep" / "hf")))


def assert_holds(folder, config, params, carried=None):
    found_config, found, pooler = hf.load_encoder(folder)
    assert found_config == config
    assert pooler.keys() == (carried or {}).keys()
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_both_towers_of_the_newest_step_bit_for_bit(exported, tiny_encoder):
    config = hf.load_encoder(tiny_encoder)[0]
    params = params_of(config, 5)
    assert_holds(exported, config, params["text"])
    assert_holds(exported / "concept_encoder", config, params["concept"])


def test_an_older_step_by_its_number(workdir, tiny_encoder, tmp_path, capsys):
    export.export_run(ExportConfig(workdir=str(workdir), step=3, out=str(tmp_path / "hf")))
    config = hf.load_encoder(tiny_encoder)[0]
    assert_holds(tmp_path / "hf", config, params_of(config, 3)["text"])
    told = capsys.readouterr().out
    assert "step 3" in told
    assert "without pooler" in told
    assert "Transformers gives equal outputs" in told
    assert os.listdir(tmp_path) == ["hf"]


def test_nuner_json(exported):
    about = json.loads((exported / "nuner.json").read_text())
    assert about["logit"]["kind"] == "cosine"
    assert about["logit"]["scale"] == pytest.approx(12.5, rel=1e-6)
    assert about["logit"]["bias"] == pytest.approx(-4.25)
    assert about["layers"] == [-1, -2]
    assert (about["recipe"], about["step"], about["base"]) == ("nuner_jax", 5, None)
    assert about["concept_text"] == "name_and_description"  # though the data set is gone
    assert about["data"] == {"sentences": 7, "mentions": 20, "concepts": 9, "fingerprint": "0" * 64}


@pytest.mark.parametrize(("depth", "layers"), [(1, [-1]), (2, [-1, -2]), (6, [-1, -4]), (12, [-1, -7]), (24, [-1, -13])])
def test_the_head_gets_the_last_and_the_middle_state(depth, layers):
    assert export.head_layers(depth) == layers


def test_everybody_tokenises_as_in_training(workdir, exported, tiny_encoder, tmp_path):
    """Also where the source's own settings would not give the first word its space."""
    source = tmp_path / "source"
    shutil.copytree(tiny_encoder, source)
    transformers.AutoTokenizer.from_pretrained(source, add_prefix_space=False).save_pretrained(source)
    trained = load_tokenizer(str(source))
    assert transformers.AutoTokenizer.from_pretrained(source)("alpha")["input_ids"] != trained("alpha")["input_ids"]
    folder = export.export_run(ExportConfig(str(make_run(tmp_path / "w", source, steps=(1,))), out=str(tmp_path / "hf")))
    for place in (folder, folder / "concept_encoder", exported):
        assert transformers.AutoTokenizer.from_pretrained(place)("alpha beta")["input_ids"] == trained("alpha beta")["input_ids"]


def test_the_pooler_of_the_source_is_carried_through(tiny_encoder, tmp_path):
    config, params, _ = hf.load_encoder(tiny_encoder)
    rng = np.random.default_rng(0)
    pooler = {"pooler.dense.weight": rng.normal(size=(16, 16)).astype(np.float32), "pooler.dense.bias": np.ones(16, np.float32)}
    hf.save_encoder(tmp_path / "source", config, params, pooler, tiny_encoder)
    folder = export.export_run(ExportConfig(str(make_run(tmp_path / "w", tmp_path / "source", (2,))), out=str(tmp_path / "hf")))
    for place in (folder, folder / "concept_encoder"):
        found = hf.load_encoder(place)[2]
        assert found.keys() == pooler.keys()
        for name, x in pooler.items():
            np.testing.assert_array_equal(found[name], x)
    assert "the source's, unchanged" in (folder / "README.md").read_text()


def test_the_card_says_what_a_user_must_know(exported):
    card = (exported / "README.md").read_text()
    assert "The source has no pooler" in card
    assert "states[i] for i in [-1, -2]" in card
    assert "12.5 x cosine -4.25" in card
    assert "step 5 of 5" in card
    assert "tiny-roberta" not in card  # the path of the source means nothing elsewhere
    assert "/tmp" not in card
    assert card.count("---\n") == 2


def test_the_code_on_the_card_runs(exported, monkeypatch):
    card = (exported / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", str(exported))
    names: dict = {}
    exec(code, names)
    assert names["features"].shape[-1] == 32


def test_scores_on_the_card(workdir, tmp_path):
    row = {"task": "t", "k": 1, "protocol": "frozen", "layers": [-1], "system": "nuner"}
    rows = [{**row, "seed": seed, "token_macro_f1": score} for seed, score in enumerate((0.5, 0.6))]
    rows.append({**row, "seed": 0, "system": "base", "token_macro_f1": 0.25})
    write_json_lines(tmp_path / "results.jsonl", rows)
    config = ExportConfig(str(workdir), out=str(tmp_path / "hf"), results=str(tmp_path / "results.jsonl"))
    card = (export.export_run(config) / "README.md").read_text()
    assert "| nuner, frozen, layers [-1] | 55.0 ± 7.1 |" in card
    assert "| base, frozen, layers [-1] | 25.0 |" in card
    write_json_lines(tmp_path / "results.jsonl", [{"task": "t"}])
    with pytest.raises(InputError, match="line 1: not a result row"):
        export.export_run(config)


def test_a_licence_is_passed_on(tiny_encoder, tmp_path):
    shutil.copytree(tiny_encoder, tmp_path / "source")
    (tmp_path / "source" / "README.md").write_text('---\nlicense: "mit"\n---\n')
    config = ExportConfig(str(make_run(tmp_path / "w", tmp_path / "source", (1,), logit="dot")), out=str(tmp_path / "hf"))
    card = (export.export_run(config) / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    assert "is the dot product" in card


def test_an_earlier_export_is_replaced_and_anything_else_is_not(workdir, tmp_path):
    out = tmp_path / "hf"
    export.export_run(ExportConfig(str(workdir), step=3, out=str(out)))
    (out / "stale").touch()
    export.export_run(ExportConfig(str(workdir), step=5, out=str(out)))
    assert not (out / "stale").exists()
    assert json.loads((out / "nuner.json").read_text())["step"] == 5
    (out / "nuner.json").unlink()
    with pytest.raises(InputError, match="was not written by this command"):
        export.export_run(ExportConfig(str(workdir), out=str(out)))
    (out / "nuner.json").touch()
    (out / "head.json").touch()  # a recogniser that was fitted on an export
    with pytest.raises(InputError, match="was not written by this command"):
        export.export_run(ExportConfig(str(workdir), out=str(out)))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="was not written by this command"):
        export.export_run(ExportConfig(str(workdir), out=str(tmp_path / "file")))


def test_an_earlier_folder_stays_if_the_new_one_cannot_take_its_place(tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "nuner.json").write_text("{}")
    with pytest.raises(FileNotFoundError):
        export.replace(tmp_path / "hf", tmp_path / "gone")
    assert [path.name for path in tmp_path.rglob("*")] == ["hf", "nuner.json"]


@pytest.mark.parametrize("out", [".", "..", "/"])
def test_a_folder_that_cannot_be_replaced_as_a_whole_is_refused(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="name a folder"):
        export.target_of(out, "nuner.json")


def test_everybody_who_may_read_the_config_may_read_the_weights(exported):
    modes = {stat.S_IMODE((exported / name).stat().st_mode) for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1


def spoil_tensor(folder):
    tensors = hf.read_safetensors(folder / "model.safetensors")
    tensors["encoder.layer.1.output.dense.bias"][3] += 1e-7
    hf.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def spoil_config(folder):
    config = json.loads((folder / "config.json").read_text()) | {"layer_norm_eps": 1e-3}
    (folder / "config.json").write_text(json.dumps(config))


def add_tensor(folder):
    tensors = hf.read_safetensors(folder / "model.safetensors") | {"pooler.dense.bias": np.zeros(16, np.float32)}
    hf.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def spoil_tokenizer(folder):
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"<mask>"', '"<musk>"'))


def spoil_model_type(folder):
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "xlm-roberta"}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("spoil", [spoil_tensor, spoil_config, add_tensor, spoil_tokenizer, spoil_model_type])
@pytest.mark.parametrize("place", [".", "concept_encoder"])
def test_a_wrong_folder_never_gets_its_name(workdir, tmp_path, monkeypatch, spoil, place):
    write = export.write

    def write_and_spoil(folder, *rest):
        write(folder, *rest)
        spoil(folder / place)

    monkeypatch.setattr(export, "write", write_and_spoil)
    with pytest.raises((export.ExportError, InputError)):
        export.export_run(ExportConfig(str(workdir), out=str(tmp_path / "hf")))
    assert os.listdir(tmp_path) == []


def test_transformers_is_asked_too(workdir, tmp_path, monkeypatch):
    """An error that our reader and writer share would show as another output there."""
    table = dict(hf.TABLE)
    a, b = "layers/{i}/attention_norm/scale", "layers/{i}/mlp_norm/scale"
    table[a], table[b] = table[b], table[a]
    run = export.read_run(workdir, None)
    for tower in ("text", "concept"):
        rng = np.random.default_rng(0)
        for layer in run.params[tower]["layers"].values():
            layer["mlp_norm"]["scale"] = rng.normal(size=16).astype(np.float32)
    monkeypatch.setattr(export, "read_run", lambda *_: run)
    export.export_run(ExportConfig(str(workdir), out=str(tmp_path / "good")))
    monkeypatch.setattr(hf, "TABLE", table)
    with pytest.raises(export.ExportError, match="other hidden states"):
        export.export_run(ExportConfig(str(workdir), out=str(tmp_path / "hf")))
    assert os.listdir(tmp_path) == ["good"]


def test_parameters_that_are_not_finite_are_refused(workdir, tmp_path, monkeypatch):
    from nuner_jax import checkpoint

    params = export.read_run(workdir, None).params
    bias = params["text"]["layers"]["1"]["qkv"]["bias"]
    params["text"]["layers"]["1"]["qkv"]["bias"] = np.where(np.arange(16) == 2, np.nan, bias)
    monkeypatch.setattr(checkpoint, "load_params", lambda *_: (5, params))
    with pytest.raises(InputError, match="not finite in text/layers/1/qkv/bias"):
        export.export_run(ExportConfig(str(workdir), out=str(tmp_path / "hf")))


@pytest.mark.parametrize(
    ("remove", "message"),
    [("checkpoints", "no checkpoints here"), ("run.json", r"run\.json"), ("encoder", r"encoder/config\.json")],
)
def test_what_is_missing_in_the_run_directory_is_named(workdir, tmp_path, capsys, remove, message):
    copy = tmp_path / "w"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / remove) if (copy / remove).is_dir() else (copy / remove).unlink()
    with pytest.raises(InputError, match=message):
        export.export_run(dataclasses.replace(ExportConfig(), workdir=str(copy), out=str(tmp_path / "hf")))
    with pytest.raises(SystemExit) as end:
        main(["--workdir", str(copy), "--out", str(tmp_path / "hf")])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "hf").exists()


def test_the_description_of_another_version_is_told_how_to_renew(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "w")
    description = json.loads((tmp_path / "w" / "run.json").read_text())
    del description["dataset"]
    write_json_lines(tmp_path / "w" / "run.json", [description])
    with pytest.raises(InputError, match=r"run\.json: it lacks dataset; the same train command"):
        export.read_run(tmp_path / "w", None)


def test_a_step_that_is_not_there_is_refused_with_those_that_are(workdir, tmp_path):
    with pytest.raises(InputError, match=r"step 4.*3, 5"):
        export.export_run(ExportConfig(str(workdir), step=4, out=str(tmp_path / "hf")))


def test_exported_encoders_are_good_sources(exported, tmp_path):
    again = export.export_run(ExportConfig(str(make_run(tmp_path / "w", exported, (7,))), out=str(tmp_path / "hf")))
    assert json.loads((again / "nuner.json").read_text())["step"] == 7
