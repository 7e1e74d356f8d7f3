"""Full few-shot fine-tuning against the plain PyTorch version: same support sets, epochs, rates and two-layer head.

    python benchmarks/finetune.py --task NAME=TRAIN.bio,TEST.bio [--encoder minilm] [--k 8] [--seeds 3] [--layers=-1]

The support sets hold k to 2k words of each type. Prints strict entity F1 of every support set and the seconds that one takes,
training and prediction, of both; ours with its compilations, both without the start of their process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from nuner_jax.pretrained import resolve

REFERENCE = Path(__file__).parent / "reference" / "finetune_torch.py"


def run(command: list[str]) -> str:
    """Standard output of a Python process; its errors end the benchmark."""
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout


def ours(args: argparse.Namespace, out: Path) -> tuple[list[float], list[float]]:
    """Entity F1 in points and seconds of each support set."""
    command = ["-m", "nuner_jax.evaluate", "--protocol", "finetune", "--encoders", f"e={args.encoder}", "--tasks", args.task]
    command += ["--sampling", "words", "--labels", "io", "--ks", str(args.k), "--seeds", str(args.seeds), "--out", str(out)]
    run([*command, f"--layers={args.layers}", "--finetune.num_epochs", str(args.epochs)])
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf8").splitlines()]
    return [100 * row["entity_micro_f1"] for row in rows], [row["seconds"] for row in rows]


def reference(args: argparse.Namespace, samples: Path) -> tuple[list[float], list[float]]:
    """The same of the PyTorch version."""
    command = [str(REFERENCE), str(resolve(args.encoder)), args.task, "--samples", str(samples), "--ks", str(args.k)]
    command += ["--seeds", str(args.seeds), f"--layers={args.layers}", "--epochs", str(args.epochs)]
    row = json.loads(run(command).splitlines()[-1])
    return [100 * score for score in row["entity_micro_f1"]], row["seconds"]


def main() -> None:
    """Runs both, one after the other, and prints the pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--layers", default="-1")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pair = {"nuner_jax": ours(args, Path(folder))}
        pair["PyTorch"] = reference(args, Path(folder) / "samples.jsonl")
    for name, (scores, seconds) in pair.items():
        each = ", ".join(f"{score:.1f}" for score in scores)
        print(f"{name:10} entity F1 {statistics.fmean(scores):.2f} ({each}), {statistics.fmean(seconds):.1f} s a support set")
    (a, s), (b, t) = ((statistics.fmean(scores), sum(seconds)) for scores, seconds in pair.values())
    print(f"difference {a - b:+.2f} points, {t / s:.2f} times as fast")


if __name__ == "__main__":
    main()
