"""The frozen few-shot grid against the plain PyTorch version: same samples, same linear head, same layers, same cores.

    python benchmarks/fewshot.py --encoders NAME=DIR ... --tasks NAME=TRAIN.bio,TEST.bio ... [--ks 1,4,16,64] [--seeds 10]
                                 [--layers=-1,-4] [--reference_seeds N] [--out DIR]

Prints the time per cell of both (a cell is one head: encoder, task, k, seed), the ratios, and how far the scores are apart. Times
are whole processes from start to exit, features and reports included. Ours runs four times: with nothing stored; with the features
of the first run, every head fitted anew; the same with the default head instead of the reference's; and the first command again,
which finds all its cells done. With --reference_seeds the
PyTorch side fits the heads of the first N seeds only: its time for the whole grid is then its features once plus its heads in
proportion, and the output says so. CPU seconds are printed beside: on a machine that has other things to do, their ratio holds where
that of the times does not (with OMP_WAIT_POLICY=passive, or PyTorch's threads count while they wait).
"""

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REFERENCE = Path(__file__).parent / "reference"
SCORE = "token_macro_f1"
SAME_HEAD = ["--head.kind", "linear", "--head.class_weight", "none", "--head.num_steps", "300"]
SAME_HEAD += ["--head.learning_rate", "1e-2", "--head.weight_decay", "1e-2"]
Cell = tuple[str, str, int, int]
"""(encoder, task, k, seed)"""
Seconds = np.ndarray
"""[2]: on the clock, and of CPU"""


def now(who: int = resource.RUSAGE_SELF) -> Seconds:
    """The clock, and the CPU time of this process or of its ended children."""
    usage = resource.getrusage(who)
    return np.array([time.perf_counter(), usage.ru_utime + usage.ru_stime])


def run(command: list[str]) -> tuple[Seconds, str]:
    """Seconds and standard output of a Python process; its errors end the benchmark."""
    started = now(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    return now(resource.RUSAGE_CHILDREN) - started, result.stdout


def ours(args: argparse.Namespace, out: Path, cache: Path, head: list[str]) -> tuple[Seconds, dict[Cell, float]]:
    """Seconds of the whole grid, and its scores in points."""
    command = ["-m", "nuner_jax.evaluate", "--encoders", *args.encoders, "--tasks", *args.tasks, "--ks", args.ks]
    command += ["--seeds", str(args.seeds), f"--layers={args.layers}", "--out", str(out), "--cache", str(cache)]
    seconds, _ = run([*command, "--labels", "io", *head])
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf8").splitlines()]
    return seconds, {(row["system"], row["task"], row["k"], row["seed"]): 100 * row[SCORE] for row in rows}


def reference(args: argparse.Namespace, samples: Path) -> tuple[Seconds, Seconds, dict[Cell, float]]:
    """Seconds of the PyTorch version outside its heads, seconds in its heads and scores, and the scores in points."""
    features, heads, scores = np.zeros(2), np.zeros(2), {}
    seeds = args.reference_seeds or args.seeds
    for spec in args.encoders:
        name, _, source = spec.rpartition("=")
        command = [__file__, "--inside", str(resolved(source)), *args.tasks, "--ks", args.ks, "--seeds", str(seeds)]
        seconds, text = run([*command, f"--layers={args.layers}", "--samples", str(samples)])
        report = json.loads(text.splitlines()[-1])
        features += seconds - report["heads"]
        heads += report["heads"]  # both numbers of it
        tasks = [task.partition("=")[0] for task in args.tasks]
        cells = [(name or source, task, k, seed) for task in tasks for k in numbers(args.ks) for seed in range(seeds)]
        scores |= dict(zip(cells, report["scores"], strict=True))
    return features, heads, scores


def inside() -> None:
    """Runs the reference in this process, unchanged; notes the seconds that its heads take, and the score of every cell."""
    del sys.argv[1]
    sys.path.insert(0, str(REFERENCE))
    fewshot_torch: Any = importlib.import_module("fewshot_torch")

    seconds, scores = [], []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = now()
            result = function(*args)
            seconds.append(now() - start)
            return result

        return call

    def kept(*args: Any) -> float:
        scores.append(100 * token_macro_f1(*args))
        return scores[-1] / 100

    token_macro_f1 = timed(fewshot_torch.token_macro_f1)
    fewshot_torch.token_macro_f1 = kept
    fewshot_torch.fit_predict, fewshot_torch.f1_score = timed(fewshot_torch.fit_predict), timed(fewshot_torch.f1_score)
    fewshot_torch.main()
    print(json.dumps({"heads": np.sum(seconds, axis=0).tolist(), "scores": scores}))


def resolved(source: str) -> Path:
    """The folder of a named encoder."""
    from nuner_jax.pretrained import resolve

    return resolve(source)


def told(seconds: Seconds) -> str:
    """Both times for people."""
    return f"{seconds[0]:.1f} s (CPU {seconds[1]:.1f} s)"


def numbers(text: str) -> list[int]:
    """Comma-separated integers."""
    return [int(part) for part in text.split(",")]


def agreement(ours: dict[Cell, float], theirs: dict[Cell, float]) -> list[str]:
    """Lines that say how far the scores of the same cells are apart, in points."""
    lines = ["", "token macro F1, mean over tasks and seeds: nuner_jax, PyTorch, difference"]
    encoders, ks = dict.fromkeys(c[0] for c in theirs), sorted({c[2] for c in theirs})
    for encoder in encoders:
        for k in ks:
            cells = [c for c in theirs if c[0] == encoder and c[2] == k]
            a, b = statistics.fmean(ours[c] for c in cells), statistics.fmean(theirs[c] for c in cells)
            lines.append(f"  {encoder:12} k={k:<3} {a:6.2f} {b:6.2f} {a - b:+6.2f}   ({len(cells)} cells)")
    gaps = [ours[c] - theirs[c] for c in theirs]
    lines.append(
        f"all {len(gaps)} cells: mean difference {statistics.fmean(gaps):+.3f}, mean absolute difference "
        f"{statistics.fmean(map(abs, gaps)):.3f}, largest {max(map(abs, gaps)):.2f} points"
    )
    return lines


def main() -> None:
    """Runs ours, then the reference; prints times, ratios and agreement."""
    if sys.argv[1:2] == ["--inside"]:
        return inside()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=["minilm"])
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--ks", default="1,4,16,64")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--layers", default="-1,-4")
    parser.add_argument("--reference_seeds", type=int)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        if (folder / "first").exists():
            sys.exit(f"{folder}: holds an earlier run; the first run has to start with nothing stored")
        runs, scores = {}, {}
        plan = [("nothing stored", "first", SAME_HEAD), ("features stored", "second", SAME_HEAD)]
        plan += [("features stored, default head", "third", []), ("all cells done", "first", SAME_HEAD)]
        for title, name, head in plan:
            runs[title], scores[name] = ours(args, folder / name, folder / "features", head)
            print(f"nuner_jax, {title}: {told(runs[title])} for {len(scores[name])} cells", flush=True)
        features, heads, theirs = reference(args, folder / "first" / "samples.jsonl")
    total = len(scores["first"])
    whole = features + heads * total / len(theirs)
    part = "" if len(theirs) == total else f"; heads of {len(theirs)} cells measured, in proportion for {total}"
    print(f"PyTorch: {told(whole)} for {total} cells (features {told(features)}{part})")
    for title, seconds in runs.items():
        (mine, other), (ratio, cpu) = (x[0] / total for x in (seconds, whole)), whole / seconds
        print(f"{title}: {mine:.3f} s a cell, PyTorch {other:.3f}, ratio {ratio:.1f} (of CPU time {cpu:.1f})")
    print("\n".join(agreement(scores["first"], theirs)))
    print("\nthe default head in the place of the reference's:", *agreement(scores["third"], theirs)[1:-1], sep="\n")


if __name__ == "__main__":
    main()
