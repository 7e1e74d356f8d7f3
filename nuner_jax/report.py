"""`python -m nuner_jax.report OUT ...`: tables and plots of one or several result directories."""

from nuner_jax import cli
from nuner_jax.config import ReportConfig

PROG = "nuner_jax.report"


def main(argv: list[str] | None = None) -> None:
    """Reads results.jsonl of every directory and writes the report into the first one, or --out."""
    config = cli.parse(ReportConfig, argv, prog=PROG, positional="results")

    def report() -> None:
        from pathlib import Path

        from nuner_jax.errors import InputError
        from nuner_jax.evaluate.report import write_report

        if not config.results:
            raise InputError("name at least one result directory of nuner_jax.evaluate")
        path = write_report(config.results, Path(config.out or config.results[0]))
        print(path.read_text(encoding="utf8"))
        print(f"written to {path}")

    cli.run(report, PROG)


if __name__ == "__main__":
    main()
