"""Contrastive pre-training against the plain PyTorch version, alternating on the same cores, data and encoder.

    python benchmarks/pretrain.py --data ANNOTATED.jsonl [--encoder minilm] [--freeze -1|0|3] [--steps 30] [--rounds 3] [--group_by_length]

Both train as many text tokens a step as 48 sentences have on average. A rate is real text tokens a second, without start-up,
compilation and the first steps; the ratio is taken round by round. Frozen layers: ours count the embeddings as 0, PyTorch's too.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from nuner_jax.dataset.loader import PackedDataset
from nuner_jax.pretrained import resolve

REFERENCE = Path(__file__).parent / "reference" / "pretrain_torch.py"
SENTENCES_A_STEP = 48
WARM_UP_STEPS = 5


def run(command: list[str]) -> str:
    """Standard output of a command; its errors end the benchmark."""
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stderr}")
    return result.stdout


def reference_rate(args: argparse.Namespace, encoder: Path, folder: Path) -> float:
    """Text tokens a second between step 5 and the last."""
    grouped = ["--group-by-length"] if args.group_by_length else []
    command = [
        str(REFERENCE),
        str(encoder),
        args.data,
        str(folder / "out"),
        "--freeze",
        str(args.freeze),
        "--max-steps",
        str(args.steps),
    ]
    return float(re.findall(r"([\d.]+) real tokens/s", run([*command, *grouped]))[-1])


def our_rate(args: argparse.Namespace, data: Path, batch_size: int, folder: Path) -> float:
    """Text tokens a second after the first log row."""
    command = ["-m", "nuner_jax.train", "--data.path", str(data), "--init_from", args.encoder, "--workdir", str(folder / "run")]
    command += ["--num_train_steps", str(args.steps + WARM_UP_STEPS), "--batch_size", str(batch_size), "--eval_batches", "0"]
    command += [
        "--log_every_steps",
        str(WARM_UP_STEPS),
        "--model.freeze_layers",
        str(args.freeze),
        "--checkpoint_every_steps",
        "0",
    ]
    run(command)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [row["perf/tokens_per_sec"] for row in rows if "perf/tokens_per_sec" in row][1:]
    return len(rates) / sum(1 / rate for rate in rates)


def main() -> None:
    """Alternates the two and prints every round, the median ratio and its range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--freeze", type=int, default=0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row_length", type=int, default=64, help="the reference cuts sentences at 64 tokens")
    parser.add_argument("--group_by_length", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build = ["-m", "nuner_jax.dataset", "--input", args.data, "--tokenizer", args.encoder, "--out", str(folder / "data")]
        run([*build, "--row_length", str(args.row_length), "--validation_fraction", "0"])
        manifest = PackedDataset(folder / "data").manifest
        rows_a_sentence = manifest["rows"]["train"] / manifest["sentences"]
        batch_size = max(1, round(SENTENCES_A_STEP * rows_a_sentence))
        ratios = []
        for number in range(args.rounds):
            place = folder / str(number)
            place.mkdir()
            theirs = reference_rate(args, resolve(args.encoder), place)
            ours = our_rate(args, folder / "data", batch_size, place)
            ratios.append(ours / theirs)
            print(
                f"round {number + 1}: PyTorch {theirs:,.0f}, nuner_jax {ours:,.0f} text tokens/s, ratio {ratios[-1]:.2f}",
                flush=True,
            )
    print(f"ratio: median {statistics.median(ratios):.2f}, range {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
