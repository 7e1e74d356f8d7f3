"""An encoder or a portable recogniser as ONNX files, float32 and int8, compared with their source before they get their names."""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from nuner_jax.errors import InputError
from nuner_jax.export.hf import SAMPLE_LENGTH, SAMPLES, TOLERANCE, expect, head_layers, removed_in_the_end, replace, target_of
from nuner_jax.export.token_classifier import check_portable, label_names, sample_texts
from nuner_jax.model import hf
from nuner_jax.model.encoder import hidden_states, structure

FLOAT, INT8 = "model.onnx", "model_int8.onnx"
ROUNDS = 5


def export_onnx(model: str, out: str) -> Path:
    """Writes OUT/model.onnx and OUT/model_int8.onnx with tokenizer and config; prints what int8 loses and gains.

    Raises InputError if onnx is not installed or the head cannot be exported, ExportError if the files do not give the outputs of
    the source.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401 - asked for before the work
    except ImportError as error:
        raise InputError(f"ONNX export needs {error.name}; run: pip install 'nuner-jax[onnx]'") from None
    from nuner_jax.export.onnx_graph import build
    from nuner_jax.inference.nuner import NuNER

    target = target_of(out, FLOAT)
    ner = NuNER.from_pretrained(model)
    if ner.head is not None:
        check_portable(ner, model)
    config, params, _ = hf.load_encoder(ner.folder)
    classifier = None
    if ner.head is not None:
        classifier = {name: ner.head.params[name] / ner.head.temperature for name in ("kernel", "bias")}
    layers = default_features(ner.folder, config.num_hidden_layers)
    new = target.with_name(f".{target.name}.new-{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with removed_in_the_end(new):
        new.mkdir()
        settings = hf.read_json(ner.folder / "config.json") | (label_names(ner.head.types) if ner.head is not None else {})
        (new / "config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
        hf.copy_tokenizer(ner.folder, new)
        onnx.save(build(config, params, layers, classifier), new / FLOAT)
        quantize(new / FLOAT, new / INT8, classifier is not None)
        lines = verify(new, ner, classifier)
        replace(target, new)
    print(f"{target}: {FLOAT} and {INT8}, inputs input_ids and attention_mask, any batch and length")
    for line in lines:
        print(line)
    return target


def quantize(source: Path, target: Path, has_classifier: bool) -> None:
    """Products with weights in int8, by output channel; embeddings and the classifier stay float32, for their labels' sake."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    products = [node.name for node in onnx.load(source).graph.node if node.op_type == "MatMul"]
    logging.disable(logging.WARNING)  # its advice on preprocessing is for images
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,  # 8 bits overflow on CPUs without VNNI
            weight_type=QuantType.QInt8,
            nodes_to_exclude=products[-1:] if has_classifier else [],
        )
    finally:
        logging.disable(logging.NOTSET)


def default_features(folder: Path, depth: int) -> tuple[int, ...]:
    """The hidden states that a head reads: as nuner.json says, else last and middle."""
    about = folder / "nuner.json"
    return tuple(hf.read_json(about)["layers"] if about.is_file() else head_layers(depth))


def session(file: Path) -> Any:
    """ONNX Runtime on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def verify(folder: Path, ner: Any, classifier: Any) -> list[str]:
    """Compares both files with the source; tells what int8 loses and gains. Raises ExportError."""
    runner = ner._runner
    config, params, _ = hf.load_encoder(ner.folder)
    batch = inputs(runner.tokenizer, SAMPLES, min(SAMPLE_LENGTH, config.max_length))
    real = batch["attention_mask"].astype(bool)
    ours = np.asarray(hidden_states(structure(config)[0], params, batch["input_ids"], batch["attention_mask"])[-1])
    if classifier is not None:
        ours = ours @ classifier["kernel"] + classifier["bias"]
    sessions = {name: session(folder / name) for name in (FLOAT, INT8)}
    theirs = {name: opened.run(None, batch)[0] for name, opened in sessions.items()}
    gap = float(np.abs(theirs[FLOAT] - ours)[real].max())
    expect(gap <= TOLERANCE, f"{FLOAT} gives other outputs (difference {gap:.1e})")
    lines = [f"{FLOAT}: equal outputs (largest difference {gap:.1e}), {megabytes(folder / FLOAT)}"]
    if classifier is None:
        loss = f"mean cosine to {FLOAT} {cosine(theirs[INT8][real], theirs[FLOAT][real]):.4f}"
    else:
        loss = f"{100 * agreement(sessions, runner.tokenizer, config.max_length):.1f} % of the sub-tokens get the same label"
    times = speed(sessions, inputs(runner.tokenizer, sample_texts()[4:36], config.max_length))
    ratio = times[FLOAT] / times[INT8]
    return [*lines, f"{INT8}: {loss}, {ratio:.2f} times as fast (32 sentences), {megabytes(folder / INT8)}"]


def inputs(tokenizer: Any, texts: list[str], max_length: int) -> dict[str, np.ndarray]:
    """input_ids and attention_mask [B, T] of texts, padded, cut to the encoder's length."""
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="np")
    return {name: batch[name].astype(np.int64) for name in ("input_ids", "attention_mask")}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Mean cosine of rows."""
    return float(((a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12)).mean())


def agreement(sessions: dict[str, Any], tokenizer: Any, max_length: int) -> float:
    """Share of the real sub-tokens of sample texts on whose label both files agree."""
    batch = inputs(tokenizer, sample_texts(), max_length)
    labels = [opened.run(None, batch)[0].argmax(-1) for opened in sessions.values()]
    return float((labels[0] == labels[1])[batch["attention_mask"].astype(bool)].mean())


def speed(sessions: dict[str, Any], batch: dict[str, np.ndarray]) -> dict[str, float]:
    """Seconds of the fastest of several rounds, in turn."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(1 + ROUNDS):
        for name, opened in sessions.items():
            start = time.perf_counter()
            opened.run(None, batch)
            times[name].append(time.perf_counter() - start)
    return {name: min(values[1:]) for name, values in times.items()}


def megabytes(file: Path) -> str:
    """The size of a file."""
    return f"{file.stat().st_size / 1e6:.0f} MB"
