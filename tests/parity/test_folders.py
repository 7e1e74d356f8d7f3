"""Folders in and out: what Transformers saves we read, what we save it opens, bit for bit; everything else is refused by name."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file

from nuner_jax.errors import InputError
from nuner_jax.model import hf
from nuner_jax.model.encoder import EncoderConfig, structure
from parity.conftest import KINDS, SMALL, Pair, randomise


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name, x in a.items():
        assert x.dtype == b[name].dtype
        np.testing.assert_array_equal(x, b[name], err_msg=name)


def state_of(model) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items() if name not in hf.BUFFERS}


def test_the_table_covers_every_parameter_once(pair: Pair):
    paths = [path for path, _ in hf.rows(pair.config)]
    flat, _ = jax.tree.flatten_with_path(structure(pair.config)[1])
    assert sorted(paths) == sorted(tuple(key.key for key in path) for path, _ in flat)
    names = [name for _, names in hf.rows(pair.config) for name in names]
    assert len(names) == len(set(names))


def test_saved_by_us_and_opened_by_transformers(pair: Pair, tmp_path):
    hf.save_encoder(tmp_path, pair.config, pair.params, pair.carried)
    model, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model) is type(pair.theirs)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert_same(state_of(model), state_of(pair.theirs))
    config, params, carried = hf.load_encoder(tmp_path)
    assert config == pair.config
    assert_same(hf.params_to_hf(config, params, carried), state_of(pair.theirs))


def test_an_encoder_without_pooler_is_opened_without_one(pair: Pair, tmp_path):
    hf.save_encoder(tmp_path, pair.config, pair.params, {})
    _, report = type(pair.theirs).from_pretrained(tmp_path, add_pooling_layer=False, output_loading_info=True)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert hf.load_encoder(tmp_path)[2] == {}


@pytest.mark.parametrize(
    ("kind", "head", "has_pooler"),
    [
        ("roberta", "RobertaForMaskedLM", False),
        ("xlm-roberta", "XLMRobertaForMaskedLM", False),
        ("bert", "BertForPreTraining", True),
        ("bert", "BertForTokenClassification", False),
        ("roberta", "RobertaForSequenceClassification", False),
    ],
)
def test_checkpoints_with_a_head(tmp_path, kind, head, has_pooler):
    config_class, fixed = KINDS[kind]
    model = getattr(transformers, head)(config_class(**SMALL, **fixed))
    randomise(model, 0.1)
    model.save_pretrained(tmp_path)
    config, params, carried = hf.load_encoder(tmp_path)
    assert_same(hf.params_to_hf(config, params, carried), state_of(model.base_model))
    assert bool(carried) == has_pooler


def test_shards_with_an_index(roberta: Pair, tmp_path):
    roberta.theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_same(hf.params_to_hf(*hf.load_encoder(tmp_path)), state_of(roberta.theirs))
    next(iter(sorted(tmp_path.glob("model-*.safetensors")))).unlink()
    with pytest.raises(InputError, match=r"model-00001.*cannot be read"):
        hf.load_encoder(tmp_path)


def test_old_spelling_of_layer_norm(roberta: Pair, tmp_path):
    tensors = hf.read_safetensors(roberta.folder / "model.safetensors")
    old = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
        for k, x in tensors.items()
    }
    assert old.keys() != tensors.keys()
    shutil.copy(roberta.folder / "config.json", tmp_path)
    save_file(old, tmp_path / "model.safetensors")
    assert_same(hf.params_to_hf(*hf.load_encoder(tmp_path)), state_of(roberta.theirs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_become_float32(roberta: Pair, tmp_path, dtype):
    half = transformers.AutoModel.from_pretrained(roberta.folder, dtype=dtype)
    half.save_pretrained(tmp_path)
    assert_same(hf.params_to_hf(*hf.load_encoder(tmp_path)), state_of(half.float()))


def broken(pair: Pair, folder, change) -> None:
    tensors = hf.read_safetensors(pair.folder / "model.safetensors")
    change(tensors)
    shutil.copy(pair.folder / "config.json", folder)
    save_file(tensors, folder / "model.safetensors")


def test_everything_wrong_with_the_tensors_is_told_at_once(roberta: Pair, tmp_path):
    def change(tensors):
        del tensors["encoder.layer.0.attention.self.key.weight"]
        tensors["encoder.layer.1.intermediate.dense.weight"] = np.zeros((80, 47), np.float32)
        tensors["embeddings.word_embeddings.weight"] = np.zeros((7, 48), np.float32)
        tensors["encoder.layer.2.output.dense.bias"] = np.zeros(48, np.float32)
        tensors["adapter.down"] = np.zeros(3, np.float32)
        tensors["lm_head.bias"] = np.zeros(101, np.float32)

    broken(roberta, tmp_path, change)
    with pytest.raises(InputError) as error:
        hf.load_encoder(tmp_path)
    message = str(error.value)
    for part in (
        "encoder.layer.0.attention.self.key.weight is missing",
        "encoder.layer.1.intermediate.dense.weight is (80, 47), expected (80, 48)",
        "embeddings.word_embeddings.weight is (7, 48), expected (101, 48)",
        "encoder.layer.2.output.dense.bias is unknown",
        "adapter.down is unknown",
    ):
        assert part in message
    assert "lm_head" not in message
    assert "\n" not in message


def test_a_wrong_part_of_the_fused_kernel_is_named_by_its_own_name(roberta: Pair, tmp_path):
    broken(roberta, tmp_path, lambda t: t.update({"encoder.layer.0.attention.self.value.weight": np.zeros((24, 48), np.float32)}))
    with pytest.raises(InputError, match=r"self\.value\.weight is \(24, 48\), expected \(48, 48\)$"):
        hf.load_encoder(tmp_path)


def test_a_pickle_is_never_read(roberta: Pair, tmp_path):
    shutil.copy(roberta.folder / "config.json", tmp_path)
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        hf.load_encoder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(InputError, match=r"pytorch_model\.bin, a pickle.*save_pretrained"):
        hf.load_encoder(tmp_path)


@pytest.mark.parametrize("size", [0, 7, 500, 20_000])
def test_a_cut_file_is_refused_by_name(roberta: Pair, tmp_path, size):
    shutil.copy(roberta.folder / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes((roberta.folder / "model.safetensors").read_bytes()[:size])
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
        hf.load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "deberta-v2"}, r"model_type 'deberta-v2' is not supported \(supported: bert, roberta"),
        ({"hidden_act": "mish"}, "hidden_act 'mish'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is_decoder True"),
        ({"add_cross_attention": True}, "add_cross_attention True"),
        ({"num_attention_heads": 7}, "hidden_size 48 is not divisible by 7 heads"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps is 'small'"),
        ({"model_type": "gpt2", "hidden_act": "mish"}, "gpt2.*mish"),
    ],
)
def test_configs_that_we_cannot_compute_are_refused_with_the_setting(roberta: Pair, change, message):
    config = json.loads((roberta.folder / "config.json").read_text()) | change
    with pytest.raises(InputError, match=message):
        EncoderConfig.from_hf(config, "folder/config.json")


@pytest.mark.parametrize("text", ["", "[1]", "{", "\ufeff{}"])
def test_a_broken_config_is_refused_by_name(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        hf.load_encoder(tmp_path)


def test_positions_start_where_the_model_type_says():
    values = {**SMALL, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    roberta = EncoderConfig.from_hf({"model_type": "roberta", **values})
    assert (roberta.pad_token_id, roberta.position_offset, roberta.max_length) == (1, 2, 38)
    assert EncoderConfig.from_hf({"model_type": "roberta", "pad_token_id": 4, **values}).position_offset == 5
    bert = EncoderConfig.from_hf({"model_type": "bert", **values})
    assert (bert.pad_token_id, bert.position_offset, bert.max_length) == (0, 0, 40)


def test_the_sidecar_keeps_what_export_needs(roberta: Pair, tmp_path):
    source, sidecar = tmp_path / "source", tmp_path / "sidecar"
    shutil.copytree(roberta.folder, source)
    (source / "tokenizer.json").write_text("{}")
    (source / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n")
    hf.save_sidecar(sidecar, str(source))
    config, carried, about = hf.load_sidecar(sidecar)
    assert config == roberta.config
    assert_same(carried, roberta.carried)
    assert about == {"name": str(source), "license": "mit"}
    assert (sidecar / "tokenizer.json").is_file()
    assert not (sidecar / "model.safetensors").exists()
