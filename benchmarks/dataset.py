"""The dataset stage against tokenising and labelling in the training loop, as the plain PyTorch version does it every epoch.

    python benchmarks/dataset.py --data ANNOTATED.jsonl [--tokenizer minilm] [--rounds 3] [--copies 1] [--processor_time]

Both run on the same core, alternating. Ours reads, cleans, tokenises, packs and writes; its time is that of the process from start
to exit, once as it is and once less that of a process with a single sentence. The reference's time is that of its loop alone.
Then the same with two workers on two cores. --copies N makes the data N times as large, each copy's sentences with a number of
their own at the end, as start-up weighs less the more there is to do. --processor_time counts seconds of the processor, not of the
clock, for a machine that has other work; there is no scaling then.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nuner_jax.pretrained import resolve

REFERENCE = Path(__file__).parent / "reference" / "label_torch.py"


def run(command: list[str], cores: set[int], of_processor: bool) -> tuple[float, str]:
    """Seconds from start to exit, and the output, of a Python command on some cores; its errors end the benchmark."""

    def clock() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime if of_processor else time.perf_counter()

    before = os.sched_getaffinity(0)
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    try:
        os.sched_setaffinity(0, cores)
        started = clock()
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
        seconds = clock() - started
    finally:
        os.sched_setaffinity(0, before)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return seconds, done.stdout


def our_seconds(data: Path, args: argparse.Namespace, cores: set[int]) -> float:
    """Seconds that the stage takes, one worker a core."""
    with tempfile.TemporaryDirectory() as out:
        words = ["--input", str(data), "--tokenizer", args.tokenizer, "--out", out, "--num_workers", str(len(cores))]
        return run(["-m", "nuner_jax.dataset", *words], cores, args.processor_time)[0]


def copied(source: Path, copies: int, target: Path) -> int:
    """Writes the data that both work on; returns the number of its sentences."""
    lines = [json.loads(line) for line in source.read_text(encoding="utf8").splitlines()]
    with open(target, "w", encoding="utf8") as file:
        for number in range(copies):
            for record in lines:
                text = f"{record['text']} {number}" if number else record["text"]
                file.write(json.dumps({"text": text, "mentions": record["mentions"]}, ensure_ascii=False) + "\n")
    return copies * len(lines)


def main() -> None:
    """Prints every round, then the medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--tokenizer", default="minilm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--processor_time", action="store_true")
    args = parser.parse_args()
    first, *others = sorted(os.sched_getaffinity(0))
    whole, bare, scaling = [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        data, single = Path(temporary) / "data.jsonl", Path(temporary) / "single.jsonl"
        sentences = copied(args.data, args.copies, data)
        single.write_text(data.open(encoding="utf8").readline(), encoding="utf8")
        for number in range(args.rounds):
            switch = ["--processor_time"] if args.processor_time else []
            _, output = run([str(REFERENCE), str(resolve(args.tokenizer)), str(data), *switch], {first}, args.processor_time)
            theirs = float(re.findall(r"([\d.]+) sentences/s", output)[-1])
            start_up = our_seconds(single, args, {first})
            seconds = our_seconds(data, args, {first})
            whole.append(sentences / seconds / theirs)
            bare.append(sentences / (seconds - start_up) / theirs)
            line = f"round {number + 1}: PyTorch loop {theirs:,.0f}, nuner_jax {sentences / seconds:,.0f} sentences/s from start to exit"
            line += f" (ratio {whole[-1]:.2f}), {sentences / (seconds - start_up):,.0f} without start-up (ratio {bare[-1]:.2f})"
            if others and not args.processor_time:
                by_two = our_seconds(data, args, {first, others[0]})
                scaling.append(seconds / by_two)
                line += f"; two workers {sentences / by_two:,.0f} from start to exit ({scaling[-1]:.2f} times one)"
            print(line, flush=True)
    print(f"ratio from start to exit: median {statistics.median(whole):.2f}, range {min(whole):.2f} to {max(whole):.2f}")
    print(f"ratio without start-up: median {statistics.median(bare):.2f}, range {min(bare):.2f} to {max(bare):.2f}")
    if scaling:
        print(f"two workers against one: median {statistics.median(scaling):.2f} times as fast")


if __name__ == "__main__":
    main()
