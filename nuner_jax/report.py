"""`python -m nuner_jax.report OUT ...`: tables and plots of one or several result directories."""

import argparse

from nuner_jax import cli

PROG = "nuner_jax.report"


def main(argv: list[str] | None = None) -> None:
    """Reads results.jsonl of every directory and writes the report into the first one, or --out."""
    parser = argparse.ArgumentParser(prog=PROG, description="Tables and plots of few-shot results.")
    parser.add_argument("results", nargs="+", help="result directories of nuner_jax.evaluate; the first system is the baseline")
    parser.add_argument("--out", help="directory for the report (default: the first result directory)")
    args = parser.parse_args(argv)

    def report() -> None:
        from pathlib import Path

        from nuner_jax.evaluate.report import write_report

        path = write_report(args.results, Path(args.out or args.results[0]))
        print(path.read_text(encoding="utf8"))
        print(f"written to {path}")

    cli.run(report, PROG)


if __name__ == "__main__":
    main()
