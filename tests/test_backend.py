"""The dataset stage's tokenizer is Transformers' one, whoever has made it."""

import json
import shutil
import subprocess
import sys

import pytest
from helpers import make_bert

from nuner_jax.dataset.backend import _usual_bert, load_backend
from nuner_jax.pretrained import load_tokenizer, state_of

TEXTS = ["the movie", "", "Café in a city, theta!", "kind of person " * 20]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder as most published BERTs have it: settings in three files that agree."""
    folder = make_bert(tmp_path_factory.mktemp("encoder") / "tiny-bert")
    told = {"do_lower_case": True, "tokenizer_class": "BertTokenizer", "model_max_length": 512, "strip_accents": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    specials = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    return folder


def same_as_transformers(folder):
    found, expected = load_backend(str(folder)), load_tokenizer(str(folder))
    assert state_of(found.tokenizer) == state_of(expected.backend_tokenizer)
    assert (found.special_ids, found.unk_id, found.pad_id, found.num_special) == (
        set(expected.all_special_ids),
        expected.unk_token_id,
        expected.pad_token_id,
        expected.num_special_tokens_to_add(),
    )
    assert found.encode(TEXTS, 12) == expected(TEXTS, truncation=True, max_length=12)["input_ids"]
    assert len(found.tokenizer.encode(TEXTS[-1]).ids) > 40  # no truncation is left behind


def test_a_usual_bert_needs_no_transformers(bert):
    same_as_transformers(bert)
    code = f"""
import sys
from nuner_jax.dataset.backend import load_backend
load_backend({str(bert)!r})
assert "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer_config.json", {"do_lower_case": False}),
        ("tokenizer_config.json", {"strip_accents": False}),
        ("tokenizer_config.json", {"tokenize_chinese_chars": False}),
        ("tokenizer_config.json", {"mask_token": "movie"}),
        ("tokenizer_config.json", {"extra_special_tokens": {"x_token": "[X]"}}),
        ("special_tokens_map.json", {"additional_special_tokens": ["[X]"]}),
        ("tokenizer.json", {"normalizer": None}),
        ("tokenizer.json", {"post_processor": None}),
        ("tokenizer.json", {"added_tokens": []}),
        ("tokenizer.json", {"model": 3}),
        ("tokenizer.json", None),
    ],
)
def test_another_than_the_usual_is_left_to_transformers(bert, tmp_path, file, change):
    folder = shutil.copytree(bert, tmp_path / "bert")
    if change is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | change))
    assert _usual_bert(folder) is None
    if change != {"model": 3} and change != {"do_lower_case": False}:
        same_as_transformers(folder)


def test_other_kinds_of_tokenizer(tiny_encoder):
    same_as_transformers(tiny_encoder)
