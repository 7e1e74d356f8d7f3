"""The probe of the training loop gives the scores of the evaluate stage."""

import json

import jax
import pytest
from helpers import make_encoder

from nuner_jax.evaluate.__main__ import main
from nuner_jax.evaluate.probe import probe
from nuner_jax.model import hf
from nuner_jax.model.encoder import structure
from nuner_jax.pretrained import load_tokenizer


def test_probe_equals_the_grid_on_the_bundled_tasks(tmp_path):
    folder = str(make_encoder(tmp_path / "tiny"))
    config, params, _ = hf.load_encoder(folder)
    tokenizer = load_tokenizer(folder)
    params = jax.tree.map(jax.numpy.asarray, params)
    scores = probe(structure(config)[0], params, tokenizer, config, k=1, seeds=2)
    with pytest.raises(SystemExit) as stop:
        main(["--encoders", f"tiny={folder}", "--ks", "1", "--seeds", "2", "--out", str(tmp_path / "out")])
    assert stop.value.code == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").open(encoding="utf8")]
    for name in ("kitchen", "helpdesk"):
        expected = sum(row["token_macro_f1"] for row in rows if row["task"] == name) / 2
        assert scores[f"probe/{name}"] == pytest.approx(expected, abs=0.01)
    assert scores["probe/f1"] == pytest.approx((scores["probe/kitchen"] + scores["probe/helpdesk"]) / 2)
