"""Fitted recognisers and encoders for others: a Transformers pipeline and ONNX Runtime give what predict gives, or nothing is left."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import make_bert

from nuner_jax import NuNER
from nuner_jax.__main__ import main
from nuner_jax.export import token_classifier
from nuner_jax.export.hf import ExportError
from nuner_jax.model import hf

EXAMPLES = ["[alpha](letter) sees a [movie](thing)", "the [beta](letter) eats [food](thing)", "a person, in the city."]
TEXTS = ["Alpha, the movie (eats) food-delta.", "é 🍣 beta", "a"]


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["export", *argv])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module", params=["roberta", "bert"])
def recogniser(request, tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    encoder = tiny_encoder if request.param == "roberta" else make_bert(folder / "bert")
    ner = NuNER.from_pretrained(encoder).fit(EXAMPLES, portable=True)
    ner.save(folder / "m")
    return ner, str(folder / "m")


FOREIGN = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "jaxlib", "flax", "nuner_jax"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
folder, onnx, strategy, texts = json.loads(sys.argv[1])
from transformers import pipeline
pipe = pipeline("token-classification", model=folder, aggregation_strategy=strategy)
found = [[(e["start"], e["end"], e["entity_group"], float(e["score"])) for e in pipe(text) if e["end"] > e["start"]]
         for text in texts]  # a blank that the tokenizer put before the text is a token without a character
import onnxruntime
batch = pipe.tokenizer(texts, return_tensors="pt", padding=True)
theirs = pipe.model(**batch).logits.detach().numpy()
session = onnxruntime.InferenceSession(onnx + "/model.onnx")
ours = session.run(None, {n: batch[n].numpy() for n in ("input_ids", "attention_mask")})[0]
real = batch["attention_mask"].numpy().astype(bool)
print(json.dumps([found, float(abs(ours - theirs)[real].max())]))
"""


def test_transformers_and_onnx_runtime_alone_give_the_entities_of_predict(recogniser, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    ner, folder = recogniser
    assert run("--model", folder, "--out", str(tmp_path / "hf")) == 0
    assert run("--model", folder, "--format", "onnx", "--out", str(tmp_path / "onnx")) == 0
    out = capsys.readouterr().out
    assert "a Transformers pipeline finds the same" in out
    assert "model_int8.onnx: " in out
    assert "times as fast" in out
    arguments = json.dumps([str(tmp_path / "hf"), str(tmp_path / "onnx"), token_classifier.strategy(ner), TEXTS])
    done = subprocess.run([sys.executable, "-c", FOREIGN, arguments], capture_output=True, text=True, cwd=tmp_path, check=True)
    found, gap = json.loads(done.stdout.splitlines()[-1])
    assert gap < 1e-4
    expected = [[(e.start, e.end, e.label) for e in entities] for entities in ner.predict(TEXTS)]
    assert [[tuple(e[:3]) for e in entities] for entities in found] == expected
    assert any(expected)  # the vocabulary of the tiny tokenizer differs from run to run, and with it what is found
    scores = [e.score for entities in ner.predict(TEXTS) for e in entities]
    np.testing.assert_allclose([e[3] for entities in found for e in entities], scores, atol=1e-4)
    assert NuNER.from_pretrained(tmp_path / "hf").predict(TEXTS) == ner.predict(TEXTS)
    told = [hf.read_json(tmp_path / name / "config.json") for name in ("hf", "onnx")]
    assert told[0]["id2label"] == told[1]["id2label"]
    assert list(told[1]["id2label"].values()) == ["O", *ner.labels]


def test_a_head_that_a_token_classifier_cannot_hold_is_refused(tiny_encoder, tmp_path, capsys):
    NuNER.from_pretrained(tiny_encoder).fit(EXAMPLES).save(tmp_path / "m")
    assert run("--model", str(tmp_path / "m"), "--out", str(tmp_path / "out")) == 2
    assert "fit it again with --portable" in capsys.readouterr().err
    assert run("--model", str(tiny_encoder), "--out", str(tmp_path / "out")) == 2
    assert "no fitted head here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_differs_from_its_source_gets_no_name(recogniser, tmp_path, monkeypatch):
    write = token_classifier.write

    def spoil(folder, ner):
        write(folder, ner)
        tensors = hf.read_safetensors(folder / "model.safetensors")
        tensors["classifier.bias"][1] += 9
        hf.save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(token_classifier, "write", spoil)
    with pytest.raises(ExportError, match="the pipeline"):
        token_classifier.export_token_classifier(recogniser[1], str(tmp_path / "hf"))
    assert list(tmp_path.iterdir()) == []


def test_onnx_of_an_encoder_gives_its_states_at_any_batch_and_length(tiny_encoder, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    from nuner_jax.model.encoder import hidden_states, structure

    assert run("--model", str(tiny_encoder), "--format", "onnx", "--out", str(tmp_path / "o")) == 0
    assert "mean cosine" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "o" / "model.onnx")
    config, params, _ = hf.load_encoder(tiny_encoder)
    rng = np.random.default_rng(0)
    for rows, length in ((1, 3), (4, 17)):
        tokens = rng.integers(5, config.vocab_size, (rows, length))
        mask = (np.arange(length) < rng.integers(1, length + 1, (rows, 1))).astype(np.int64)
        last, features = session.run(None, {"input_ids": tokens, "attention_mask": mask})
        states = hidden_states(structure(config)[0], params, tokens, mask)
        real = mask.astype(bool)
        np.testing.assert_allclose(last[real], np.asarray(states[-1])[real], atol=1e-4)
        np.testing.assert_allclose(features[real][:, 16:], np.asarray(states[-2])[real], atol=1e-4)


def test_onnx_wants_a_model_and_a_free_place(tiny_encoder, tmp_path, capsys):
    assert run("--format", "onnx", "--out", str(tmp_path / "o")) == 2
    assert "--model" in capsys.readouterr().err
    (tmp_path / "mine.txt").write_text("keep me")
    assert run("--format", "onnx", "--model", str(tiny_encoder), "--out", str(tmp_path)) == 2
    assert "was not written by this command" in capsys.readouterr().err
