"""Hugging Face folders <-> our parameters, by one reversible table; numpy and safetensors only, never a pickle.

A folder holds config.json, model.safetensors (or shards with an index) and tokenizer files.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nuner_jax.errors import InputError
from nuner_jax.model.encoder import EncoderConfig, Params, structure
from nuner_jax.pretrained import resolve, verify

Tensors = dict[str, np.ndarray]

# Ours (/ between the levels) -> theirs. Their matrices are (out, in), ours (in, out); several of theirs are stacked on the axis
# before the last. {i} is the layer.
TABLE: dict[str, list[str]] = {
    "embeddings/word": ["embeddings.word_embeddings.weight"],
    "embeddings/position": ["embeddings.position_embeddings.weight"],
    "embeddings/token_type": ["embeddings.token_type_embeddings.weight"],
    "embeddings/norm/scale": ["embeddings.LayerNorm.weight"],
    "embeddings/norm/bias": ["embeddings.LayerNorm.bias"],
    "layers/{i}/qkv/kernel": [f"encoder.layer.{{i}}.attention.self.{x}.weight" for x in ("query", "key", "value")],
    "layers/{i}/qkv/bias": [f"encoder.layer.{{i}}.attention.self.{x}.bias" for x in ("query", "key", "value")],
    "layers/{i}/attention_output/kernel": ["encoder.layer.{i}.attention.output.dense.weight"],
    "layers/{i}/attention_output/bias": ["encoder.layer.{i}.attention.output.dense.bias"],
    "layers/{i}/attention_norm/scale": ["encoder.layer.{i}.attention.output.LayerNorm.weight"],
    "layers/{i}/attention_norm/bias": ["encoder.layer.{i}.attention.output.LayerNorm.bias"],
    "layers/{i}/mlp_input/kernel": ["encoder.layer.{i}.intermediate.dense.weight"],
    "layers/{i}/mlp_input/bias": ["encoder.layer.{i}.intermediate.dense.bias"],
    "layers/{i}/mlp_output/kernel": ["encoder.layer.{i}.output.dense.weight"],
    "layers/{i}/mlp_output/bias": ["encoder.layer.{i}.output.dense.bias"],
    "layers/{i}/mlp_norm/scale": ["encoder.layer.{i}.output.LayerNorm.weight"],
    "layers/{i}/mlp_norm/bias": ["encoder.layer.{i}.output.LayerNorm.bias"],
}
PREFIXES = ("bert.", "roberta.")  # of checkpoints saved with a head
BESIDES = ("pooler.", "lm_head.", "cls.", "classifier.")  # what an encoder may carry besides; poolers are kept, heads are not
BUFFERS = ("embeddings.position_ids",)
LEGACY = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")
CONVERT = (
    "python -c \"from transformers import AutoModel as M, AutoTokenizer as T; n = '{name}'; "
    "M.from_pretrained(n).save_pretrained('OUT'); T.from_pretrained(n).save_pretrained('OUT')\""
)


def rows(config: EncoderConfig) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """The table written out for every layer: path of ours, names of theirs."""
    for ours, theirs in TABLE.items():
        for i in range(config.num_hidden_layers if "{i}" in ours else 1):
            yield tuple(ours.format(i=i).split("/")), [name.format(i=i) for name in theirs]


def params_from_hf(config: EncoderConfig, tensors: Mapping[str, np.ndarray], where: str) -> tuple[Params, Tensors]:
    """(float32 parameters, pooler tensors) from a checkpoint's tensors.

    Raises InputError with every name that is missing, unknown or of the wrong shape.
    """
    tensors, wrong = _bare_names(tensors)
    shapes = structure(config)[1]
    params: Params = {}
    for path, names in rows(config):
        wanted = get(shapes, path).shape
        missing = [name for name in names if name not in tensors]
        wrong += [f"{name} is missing" for name in missing]
        if missing:
            continue
        parts = [tensors.pop(name).T if path[-1] == "kernel" else tensors.pop(name) for name in names]
        shape = wanted if len(names) == 1 else (*wanted[:-2], wanted[-1])
        bad = [(name, part) for name, part in zip(names, parts, strict=True) if part.shape != shape]
        turn = -1 if path[-1] == "kernel" else 1  # the message speaks of the checkpoint's own shapes
        wrong += [f"{name} is {part.shape[::turn]}, expected {shape[::turn]}" for name, part in bad]
        if not bad:
            put(params, path, np.ascontiguousarray(parts[0] if len(parts) == 1 else np.stack(parts, -2), np.float32))
    carried = {name: np.asarray(x, np.float32) for name, x in tensors.items() if name.startswith("pooler.")}
    wrong += [f"{name} is unknown" for name in sorted(set(tensors) - set(carried))]
    if wrong:
        raise InputError(f"{where}: {'; '.join(wrong[:20])}{f'; and {len(wrong) - 20} more' if len(wrong) > 20 else ''}")
    return params, carried


def _bare_names(tensors: Mapping[str, np.ndarray]) -> tuple[Tensors, list[str]]:
    """Names without the prefix of a model with head, in today's spelling, without heads and buffers; and what is wrong."""
    prefixed = {p for p in PREFIXES if f"{p}embeddings.word_embeddings.weight" in tensors}
    prefix = prefixed.pop() if len(prefixed) == 1 else ""
    bare: Tensors = {}
    wrong = []
    for name, tensor in tensors.items():
        new = name.removeprefix(prefix)
        for old, now in LEGACY.items():
            new = new.replace(old, now)
        if new in BUFFERS or (new.startswith(BESIDES) and not new.startswith("pooler.")):
            continue
        if new in bare:
            wrong.append(f"{name} is there twice")
        bare[new] = tensor
    return bare, wrong


def params_to_hf(config: EncoderConfig, params: Params, carried: Mapping[str, np.ndarray]) -> Tensors:
    """The inverse of params_from_hf."""
    tensors = dict(carried)
    for path, names in rows(config):
        value = np.asarray(get(params, path))
        parts = [value] if len(names) == 1 else [value[..., n, :] for n in range(len(names))]
        for name, part in zip(names, parts, strict=True):
            tensors[name] = np.ascontiguousarray(part.T if path[-1] == "kernel" else part)
    return tensors


def load_config(name: str | Path) -> EncoderConfig:
    """The shape of `minilm`, a folder or a hub name. Raises InputError."""
    path = resolve(str(name)) / "config.json"
    return EncoderConfig.from_hf(read_json(path), str(path))


def load_encoder(name: str | Path) -> tuple[EncoderConfig, Params, Tensors]:
    """(config, parameters, pooler tensors) of `minilm`, a folder or a hub name. Raises InputError."""
    folder = resolve(str(name))
    verify(folder)
    config = load_config(folder)
    tensors: Tensors = {}
    for file in _weight_files(folder, str(name)):
        tensors |= read_safetensors(file)
    return config, *params_from_hf(config, tensors, str(folder))


def _weight_files(folder: Path, name: str) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if index.is_file():
        files = read_json(index).get("weight_map")
        if not isinstance(files, dict) or not files:
            raise InputError(f"{index}: it has no weight_map")
        return [folder / file for file in sorted(set(files.values()))]
    pickles = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern)]
    what = f"only {pickles[0]}, a pickle, which is never read" if pickles else "no model.safetensors"
    raise InputError(f"{name}: the encoder folder has {what}; convert it where you trust it: {CONVERT.format(name=name)}")


def read_safetensors(file: Path, containing: str = "") -> Tensors:
    """The tensors of a file whose names contain a string. Raises InputError."""
    try:
        with safe_open(file, "np") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys() if containing in name}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, TypeError) as error:
        raise InputError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError."""
    try:
        value = json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{file}: not a JSON object")
    return value


def save_encoder(
    folder: str | Path, config: EncoderConfig, params: Params, carried: Mapping[str, np.ndarray], tokenizer: Path | None = None
) -> None:
    """Writes a folder that Transformers, spaCy and load_encoder open, with the tokenizer files (if any) of folder `tokenizer`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = config.to_hf()
    if tokenizer is not None:
        copy_tokenizer(tokenizer, folder)
        source = read_json(tokenizer / "config.json") if (tokenizer / "config.json").is_file() else {}
        settings |= {key: source[key] for key in ("tokenizer_class",) if source.get(key)}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf8")
    save_file(params_to_hf(config, params, carried), folder / "model.safetensors", {"format": "pt"})
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # safetensors makes files that only the owner reads


def cut_encoder(source: str | Path, num_layers: int, folder: str | Path) -> None:
    """Writes the encoder `source` with its first layers only, and its tokenizer, but no pooler, which read the last layer.

    Raises InputError if it has no so many layers.
    """
    config, params, _ = load_encoder(source)
    if not 1 <= num_layers <= config.num_hidden_layers:
        raise InputError(f"layers {num_layers}: {source} has {config.num_hidden_layers}")
    layers = {name: layer for name, layer in params["layers"].items() if int(name) < num_layers}
    cut = replace(config, num_hidden_layers=num_layers)
    save_encoder(folder, cut, {**params, "layers": layers}, {}, resolve(str(source)))


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies the tokenizer files as they are."""
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def save_sidecar(folder: str | Path, init_from: str) -> None:
    """What export needs of the encoder that a run starts from: config, tokenizer, pooler, name and licence."""
    source, folder = resolve(init_from), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "config.json", folder / "config.json")
    copy_tokenizer(source, folder)
    poolers: Tensors = {}
    for file in _weight_files(source, init_from):
        for name, x in read_safetensors(file, containing="pooler.").items():
            poolers[name[name.index("pooler.") :]] = np.asarray(x, np.float32)
    save_file(poolers, folder / "carried.safetensors")
    (folder / "source.json").write_text(json.dumps({"name": init_from, "license": _license(source)}) + "\n", encoding="utf8")


def load_sidecar(folder: str | Path) -> tuple[EncoderConfig, Tensors, dict[str, Any]]:
    """(config, pooler tensors, {"name", "license"}) that save_sidecar wrote. Raises InputError."""
    folder = Path(folder)
    config = EncoderConfig.from_hf(read_json(folder / "config.json"), str(folder / "config.json"))
    return config, read_safetensors(folder / "carried.safetensors"), read_json(folder / "source.json")


def _license(source: Path) -> str | None:
    """The licence that a model card's front matter names, or None."""
    for line in front_matter(source / "README.md", ("license",)):
        return line.removeprefix("license:").strip().strip("\"'") or None
    return None


def front_matter(card: Path, keys: Sequence[str]) -> list[str]:
    """The one-line entries of these keys at the head of a model card, if there is one."""
    lines = card.read_text(encoding="utf8", errors="replace").splitlines()[:60] if card.is_file() else []
    return [line for line in lines if line.startswith(tuple(f"{key}:" for key in keys))]


def get(tree: Params, path: tuple[str, ...]) -> Any:
    """The leaf of a nested dict at a path of keys."""
    for key in path:
        tree = tree[key]
    return tree


def put(tree: Params, path: tuple[str, ...], value: Any) -> None:
    """Sets the leaf of a nested dict at a path of keys, making what is missing on the way."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
