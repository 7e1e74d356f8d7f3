"""Speed of predict beside a Transformers pipeline and ONNX Runtime on the same recogniser, in turn in one process, on the CPU.

    python benchmarks/predict.py                  # MiniLM; --shape base for a random encoder of the shape of roberta-base

Prints milliseconds for one sentence (median) and sentences a second for many (best of the rounds), and ratios to the pipeline. The
pipeline is given its best of several batch sizes; ONNX Runtime gets batches of sentences of like length. With --one_core everything
runs in one thread on one core and CPU time is measured in place of wall time: what holds on a machine that others use too.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCHES = (1, 8, 32)
CLOCK = time.perf_counter


def one_core() -> None:
    """One thread on one core, and the clock that only runs with us; before JAX starts."""
    global CLOCK
    import torch

    CLOCK = time.process_time
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)


def texts_of(count: int) -> list[str]:
    """Sentences of the bundled tasks, over and over."""
    from nuner_jax.inference.examples import bundled_texts

    texts = bundled_texts(10_000)
    return [texts[i % len(texts)] for i in range(count)]


def encoder_of(shape: str, folder: Path) -> str:
    """`minilm`, or a folder with a random BERT of 12 layers of width 768 and MiniLM's tokenizer."""
    if shape == "minilm":
        return shape
    import jax

    from nuner_jax.model.encoder import EncoderConfig, init_params
    from nuner_jax.model.hf import save_encoder
    from nuner_jax.pretrained import resolve

    config = EncoderConfig("bert", 30522, 768, 12, 12, 3072, 512, 2, 1e-12)
    save_encoder(folder / "base", config, init_params(config, jax.random.key(0)), {}, resolve("minilm"))
    return str(folder / "base")


def onnx_run(file: Path, tokenizer: Any, batch: int) -> Callable[[list[str]], Any]:
    """Labels of all sub-tokens, sentences of like length together."""
    from nuner_jax.export.onnx import inputs, session

    opened = session(file)

    def run(texts: list[str]) -> list[Any]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        result: list[Any] = [None] * len(texts)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            labels = opened.run(None, inputs(tokenizer, [texts[i] for i in chosen], 512))[0].argmax(-1)
            for i, row in zip(chosen, labels, strict=True):
                result[i] = row
        return result

    return run


def seconds(run: Callable[[], Any]) -> float:
    start = CLOCK()
    run()
    return CLOCK() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("minilm", "base"), default="minilm")
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one_core", action="store_true")
    options = parser.parse_args()
    if options.one_core:
        one_core()
    from transformers import pipeline

    from nuner_jax import NuNER
    from nuner_jax.evaluate.tasks import bundled
    from nuner_jax.export.onnx import FLOAT, INT8, export_onnx
    from nuner_jax.export.token_classifier import export_token_classifier

    texts = texts_of(options.sentences)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ner = NuNER.from_pretrained(encoder_of(options.shape, folder)).fit(bundled("kitchen")[0], portable=True)
        ner.save(folder / "m")
        export_token_classifier(str(folder / "m"), str(folder / "hf"))
        export_onnx(str(folder / "m"), str(folder / "onnx"))
        pipe = pipeline("token-classification", model=str(folder / "hf"), aggregation_strategy="first", device="cpu")
        systems: dict[str, Callable[[list[str]], Any]] = {"predict": ner.predict}
        systems |= {f"pipeline, batch {n}": lambda t, n=n: pipe(t, batch_size=n) for n in BATCHES}
        tokenizer = ner._runner.tokenizer
        systems |= {
            f"{file}, batch {n}": onnx_run(folder / "onnx" / file, tokenizer, n) for file in (FLOAT, INT8) for n in (8, 32)
        }
        report(systems, texts, options.rounds)


def report(systems: dict[str, Callable[[list[str]], Any]], texts: list[str], rounds: int) -> None:
    """Measures the systems in turn and prints a table."""
    single = {name: run for name, run in systems.items() if not name.endswith(("batch 8", "batch 32")) or "onnx, batch 8" in name}
    single |= {name: run for name, run in systems.items() if "int8" in name and name.endswith("batch 8")}
    for run in systems.values():
        run(texts[:64])
    for text in texts[:40]:
        for run in single.values():
            run([text])
    one = {name: [] for name in single}
    for text in texts[:100]:
        for name, run in single.items():
            one[name].append(seconds(lambda run=run, text=text: run([text])))
    latency = {name: 1000 * statistics.median(values) for name, values in one.items()}
    many: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, run in systems.items():
            many[name].append(seconds(lambda run=run: run(texts)))
    speed = {name: len(texts) / min(values) for name, values in many.items()}
    best = max(rate for name, rate in speed.items() if name.startswith("pipeline"))
    base = latency["pipeline, batch 1"]
    print(f"{len(texts)} sentences of {np.mean([len(text.split()) for text in texts]):.1f} words")
    for name, rate in speed.items():
        ms = f"{latency[name]:7.2f} ms one sentence ({base / latency[name]:.2f}x)" if name in latency else ""
        print(f"{name:28}{rate:8.1f} sentences/s ({rate / best:.2f}x the best pipeline)  {ms}")


if __name__ == "__main__":
    main()
