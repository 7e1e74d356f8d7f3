"""The loader alone: real text tokens a second on one core, and where the time goes.

    python benchmarks/loader.py --data ANNOTATED.jsonl [--encoder minilm] [--batch_size 16] [--seconds 5] [--rounds 3] [--profile]

The data set is built first, outside the clock, or taken ready with --dataset DIR. A rate counts text tokens, without padding and
special tokens, of batches as training takes them: balanced, concepts packed, prefetched by threads. The process is held to one core.
"""

import argparse
import cProfile
import os
import pstats
import statistics
import tempfile
import time

from nuner_jax.config import DataConfig, DatasetConfig
from nuner_jax.dataset.builder import build
from nuner_jax.dataset.loader import Batches, PackedDataset, prefetched
from nuner_jax.lists import Strs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="annotated text, as the dataset stage takes it")
    source.add_argument("--dataset", help="data_dir of a data set that is there already")
    parser.add_argument("--encoder", default="minilm", help="encoder whose tokenizer makes the data set")
    parser.add_argument("--batch_size", type=int, default=16, help="packed rows a batch")
    parser.add_argument("--threads", type=int, default=2, help="threads that prefetch")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="show the functions that take longest")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        if args.data:
            build(DatasetConfig(input=Strs([args.data]), out=folder, tokenizer=args.encoder))
        data = PackedDataset(args.dataset or folder)
        balanced = DataConfig().balance_rows
        batches = Batches(data, "train", batch_size=args.batch_size, num_steps=10**7, seed=0, balance_rows=balanced)
        core = min(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})
        print(f"{data.num_rows('train')} rows of {data.manifest['row_length']} tokens, {args.batch_size} a batch, core {core}")
        rounds = [rate(batches, args) for _ in range(args.rounds)]
        for unit, rates in zip(("second", "second of the processor"), zip(*rounds, strict=True), strict=True):
            spread = " ".join(f"{r:,.0f}" for r in rates)
            print(f"median {statistics.median(rates):,.0f} text tokens a {unit} ({spread})")
        if args.profile:
            profile(batches)


def rate(batches: Batches, args: argparse.Namespace) -> tuple[float, float]:
    """Text tokens a second, and a second that the process really ran, through the prefetching iterator, after a first batch.

    The two differ where other programs want the same core.
    """
    iterator = prefetched(batches, 0, args.threads)
    next(iterator)
    tokens, started, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < args.seconds:
        tokens += int(next(iterator)["text_mask"].sum())
    return tokens / (time.perf_counter() - started), tokens / (time.process_time() - used)


def profile(batches: Batches) -> None:
    """Two hundred batches in this thread, under the profiler."""
    with cProfile.Profile() as profiler:
        for step in range(200):
            batches[step]
    pstats.Stats(profiler).sort_stats("tottime").print_stats(20)


if __name__ == "__main__":
    main()
