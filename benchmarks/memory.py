"""Memory of the training step against the number of concepts in the batch, from the compiled program.

    python benchmarks/memory.py [--encoder minilm] [--rows 64] [--concepts 256,4096] [--limit 0.2] [OPTION OF nuner_jax.train ...]

8,192 text tokens a step in rows of 128, concepts of 8 tokens, one CPU device; the concept encoder's own activations are part of it.
Exit status 1 if the temporary bytes grow by more than the limit from the first number of concepts to the last.
"""

import argparse
import sys

from nuner_jax import cli
from nuner_jax.compile_only import compile_step, topology
from nuner_jax.config import TrainConfig


def temporaries(encoder: str, rows: int, concepts: int, options: list[str]) -> int:
    """Temporary bytes of the compiled step."""
    words = ["--init_from", encoder, "--batch_size", str(rows), "--data.max_concepts", str(concepts), "--num_train_steps", "1"]
    config = cli.parse(
        TrainConfig, [*words, "--compile_only", "cpu:1", *options], prog="memory", alternatives=("num_train_steps",)
    )
    return compile_step(config, topology("cpu:1")).memory["temporaries"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--rows", type=int, default=64, help="rows of 128 tokens")
    parser.add_argument("--concepts", default="256,4096", help="numbers of concepts, comma-separated")
    parser.add_argument("--limit", type=float, default=0.2, help="growth that is allowed")
    args, options = parser.parse_known_args()
    sizes = {}
    for concepts in map(int, args.concepts.split(",")):
        sizes[concepts] = temporaries(args.encoder, args.rows, concepts, options)
        print(f"{concepts:>6} concepts: {sizes[concepts] / 2**20:,.1f} MiB of temporaries", flush=True)
    first, *_, last = sizes.values()
    print(f"growth {last / first - 1:+.1%} (allowed {args.limit:.0%})")
    sys.exit(last > (1 + args.limit) * first)


if __name__ == "__main__":
    main()
