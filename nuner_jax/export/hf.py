"""A run's checkpoint to a folder that Transformers, spaCy and nuner_jax open: text encoder, concept encoder, nuner.json, card.

The folder is written beside its place, read back, compared, and only then gets its name.
"""

import contextlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nuner_jax import __version__
from nuner_jax.config import ExportConfig
from nuner_jax.errors import InputError, NunerError
from nuner_jax.export.card import model_card
from nuner_jax.model import hf
from nuner_jax.model.encoder import EncoderConfig, Params, hidden_states, structure
from nuner_jax.pretrained import load_tokenizer, tokenizer_fingerprint

TOLERANCE = 1e-4
SAMPLES = [
    "Marie Curie, born in Warsaw, won the Nobel Prize in Physics in 1903.",
    "is there a sushi place open past midnight near the harbor",
    "naïve café 🍣 東京 – IL-2 gene expression and NF-kappa B activation through CD28, " * 4,
    "no",
]
SAMPLE_LENGTH = 64


class ExportError(NunerError):
    """The written folder does not give back what was trained; nothing is left under its name."""


@dataclass(frozen=True)
class Run:
    """What export reads of a run directory."""

    step: int
    params: Params  # {"text", "concept", "logit_scale" (log), "logit_bias"}, or {"text", "head"} of a classifier
    encoder: EncoderConfig
    carried: hf.Tensors
    source: dict[str, Any]  # {"name", "license"} of the encoder that the run started from
    sidecar: Path
    description: dict[str, Any]  # run.json

    def towers(self, folder: Path) -> list[tuple[str, Path]]:
        """(name, place in the exported folder) of each encoder of the run."""
        return [(name, folder / place) for name, place in (("text", ""), ("concept", "concept_encoder")) if name in self.params]


def read_run(workdir: str | Path, step: int | None) -> Run:
    """A run's checkpoint (the newest by default) and what lies beside it. Raises InputError."""
    from nuner_jax.checkpoint import load_params

    chosen, params = load_params(workdir, step)
    sidecar = Path(workdir) / "encoder"
    config, carried, source = hf.load_sidecar(sidecar)
    description = hf.read_json(Path(workdir) / "run.json")
    if missing := {"config", "dataset", "num_steps", "tokenizer"} - description.keys():
        told = ", ".join(sorted(missing))
        raise InputError(f"{Path(workdir) / 'run.json'}: it lacks {told}; the same train command once more writes it anew")
    for name, leaf in leaves(params):
        if not np.isfinite(leaf).all():
            raise InputError(f"{workdir}: step {chosen} has numbers that are not finite in {name}")
    return Run(chosen, params, config, carried, source, sidecar, description)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of a nested dict."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", np.asarray(value)


def head_layers(num_layers: int) -> list[int]:
    """The hidden states that a head does best on, concatenated: the last and the middle one by depth ([-1, -7] of 12)."""
    return [-1] if num_layers < 2 else [-1, -(num_layers // 2) - 1]


def facts(run: Run) -> dict[str, Any]:
    """nuner.json: what a user of the folder needs besides the two encoders."""
    config, data = run.description["config"], run.description["dataset"]
    concepts = {}
    if "concept" in run.params:
        scale, bias = float(np.exp(run.params["logit_scale"])), float(run.params["logit_bias"])
        concepts = {
            "logit": {"kind": config["model"]["logit"], "scale": scale, "bias": bias},
            "concept_encoder": "concept_encoder",
            "concept_pooling": "mean",
            "concept_text": data["concept_text"],
        }
    return {
        "format": 1,
        "nuner_jax": __version__,
        "recipe": config["recipe"],
        "objective": config["objective"],
        **concepts,
        "layers": head_layers(run.encoder.num_hidden_layers),
        "step": run.step,
        "num_steps": run.description["num_steps"],
        "base": source_name(run),
        "tokenizer": run.description["tokenizer"],
        "data": {key: data[key] for key in ("sentences", "mentions", "concepts", "fingerprint")},
    }


def source_name(run: Run) -> str | None:
    """The hub name of the encoder that the run started from; None for a folder, whose path means nothing elsewhere."""
    name = run.source["name"]
    if name == "minilm":
        return "sentence-transformers/all-MiniLM-L6-v2"
    return None if Path(name).exists() or name.count("/") != 1 else name


def export_run(config: ExportConfig) -> Path:
    """Writes, verifies and names the folder config.out, and tells what was done.

    Raises InputError, and ExportError if the folder does not give back the checkpoint; then nothing is left of it.
    """
    out = target_of(config.out, "nuner.json")
    run = read_run(config.workdir, config.step)
    new = out.with_name(f".{out.name}.new-{os.getpid()}")
    with removed_in_the_end(new):
        write(new, run, config.results)
        checks = verify(new, run)
        replace(out, new)
    pooler = "with the source's pooler" if run.carried else "without pooler (the source has none)"
    print(f"{out}: step {run.step}, {pooler}; verified: {', '.join(checks)}")
    return out


def target_of(out: str, mark: str) -> Path:
    """The folder to write, if it is not there, empty, or an earlier one, in which the file `mark` lies. Raises InputError."""
    folder = Path(out)
    if folder.name in ("", ".."):
        raise InputError(f"out {out!r}: name a folder that can be replaced as a whole")
    fitted = any((folder / name).is_file() for name in ("head.json", ".saved"))  # it has an export's nuner.json as well
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or ((folder / mark).is_file() and not fitted))):
        raise InputError(f"{folder}: is there already and was not written by this command; remove it or choose another --out")
    return folder


@contextlib.contextmanager
def removed_in_the_end(folder: Path) -> Iterator[None]:
    """Whatever happens, nothing is left under this name."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace(out: Path, new: Path) -> None:
    """Gives `new` the name `out`; the folder that had it goes, or stays if that fails."""
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write(folder: Path, run: Run, results: str) -> None:
    """The whole folder, unverified."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    for tower, place in run.towers(folder):
        hf.save_encoder(place, run.encoder, run.params[tower], run.carried, run.sidecar)
        set_prefix_space(place)
    about = facts(run)
    (folder / "nuner.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf8")
    card = model_card(about, run.description["config"], run.encoder, run.source.get("license"), bool(run.carried), results)
    (folder / "README.md").write_text(card, encoding="utf8")


def set_prefix_space(folder: Path) -> None:
    """Byte-level tokenizers are told to give the first word its space, so that they tokenise for everybody as in training."""
    state = json.loads(load_tokenizer(str(folder)).backend_tokenizer.to_str())
    if '"ByteLevel"' not in json.dumps(state.get("pre_tokenizer")):
        return
    file = folder / "tokenizer_config.json"
    settings = hf.read_json(file) if file.is_file() else {}
    file.write_text(json.dumps(settings | {"add_prefix_space": True}, indent=2) + "\n", encoding="utf8")


def verify(folder: Path, run: Run) -> list[str]:
    """Reads the folder back, by our reader and (given torch) by Transformers; tells what was checked. Raises ExportError."""
    for tower, place in run.towers(folder):
        config, params, carried = hf.load_encoder(place)
        expect(config == run.encoder, f"{tower} encoder: the config reads back as another one")
        expect(same_tensors(params, run.params[tower]), f"{tower} encoder: parameters read back with other values")
        expect(same_tensors(carried, run.carried), f"{tower} encoder: the pooler reads back with other values")
        found = tokenizer_fingerprint(load_tokenizer(str(place)))
        expect(found == run.description["tokenizer"], f"{tower} encoder: not the tokenizer that the run was trained with")
    if importlib.util.find_spec("torch") is None:
        return ["tensors bit-equal", "not opened with Transformers, which needs torch"]
    gaps = [compare_with_transformers(place, run) for _, place in run.towers(folder)]
    return ["tensors bit-equal", f"Transformers gives equal outputs (largest difference {max(gaps):.1e})"]


def expect(holds: bool, otherwise: str) -> None:
    """Raises ExportError with the message `otherwise` unless it holds."""
    if not holds:
        raise ExportError(f"nothing exported: {otherwise}")


def same_tensors(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two nested dicts have the same names and bit-equal arrays."""
    left, right = dict(leaves(a)), dict(leaves(b))
    return left.keys() == right.keys() and all(
        x.dtype == right[name].dtype and x.shape == right[name].shape and x.tobytes() == right[name].tobytes()
        for name, x in left.items()
    )


def compare_with_transformers(folder: Path, run: Run) -> float:
    """The largest difference of hidden states on sample texts between Transformers and us. Raises ExportError."""
    from transformers import AutoModel, AutoTokenizer

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    missing = [key for key in report["missing_keys"] if run.carried or not key.startswith("pooler.")]
    for what, keys in (
        ("missing", missing),
        ("unexpected", report["unexpected_keys"]),
        ("mismatched", report["mismatched_keys"]),
    ):
        expect(not keys, f"Transformers finds {what} keys: {', '.join(map(str, sorted(keys)))}")
    expect(tokenizer_fingerprint(tokenizer) == run.description["tokenizer"], "Transformers opens another tokenizer")
    state = model.state_dict()
    written = hf.read_safetensors(folder / "model.safetensors")
    changed = [name for name, x in written.items() if name not in state or state[name].numpy().tobytes() != x.tobytes()]
    expect(not changed, f"Transformers reads other values of {', '.join(changed)}")

    config, params, _ = hf.load_encoder(folder)
    length = min(SAMPLE_LENGTH, config.max_length)
    batch = tokenizer(SAMPLES, padding=True, truncation=True, max_length=length, return_tensors="pt")
    theirs = model.eval()(**batch, output_hidden_states=True).hidden_states
    mask = batch["attention_mask"].numpy()
    ours = hidden_states(structure(config)[0], params, batch["input_ids"].numpy(), mask)
    real = mask.astype(bool)
    gap = max(float(np.abs(np.asarray(x)[real] - y.detach().numpy()[real]).max()) for x, y in zip(ours, theirs, strict=True))
    expect(gap <= TOLERANCE, f"Transformers computes other hidden states (difference {gap:.1e})")
    return gap


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and load reports from Transformers."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
