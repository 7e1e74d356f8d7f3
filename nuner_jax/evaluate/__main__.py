"""`python -m nuner_jax.evaluate`: few-shot evaluation of encoders on tasks, side by side."""

from pathlib import Path

from nuner_jax import cli
from nuner_jax.config import EvaluateConfig, recipes
from nuner_jax.memory import use_huge_pages

PROG = "nuner_jax.evaluate"


def is_current(report: Path, results: Path) -> bool:
    """Whether the report, HTML page included, was written after the last result row."""
    parts = [report, report.with_suffix(".html")]
    return all(part.is_file() and part.stat().st_mtime_ns >= results.stat().st_mtime_ns for part in parts)


def main(argv: list[str] | None = None) -> None:
    """Runs the grid and prints its tables."""
    config = cli.parse(EvaluateConfig, argv, prog=PROG, recipes=recipes("evaluate"))

    def evaluate() -> None:
        from nuner_jax.evaluate.expected import check, comparison
        from nuner_jax.evaluate.grid import run
        from nuner_jax.evaluate.tables import markdown

        check(config.expected, config.expected_metric)
        results = run(config)
        if not results.rows:
            print("no result rows")
            return
        path = Path(config.out) / "report.md"
        if results.added or not is_current(path, results.path):
            from nuner_jax.evaluate.report import write_report

            path = write_report([config.out], Path(config.out))
        print("\n" + path.read_text(encoding="utf8"))
        print(f"written to {path}")
        if config.expected:
            cells = comparison(results.rows.values(), config.expected, config.expected_metric)
            text = f"Expected and measured, {config.expected_metric} in points, mean of the tasks:\n\n{markdown(cells)}\n"
            (Path(config.out) / "expected.md").write_text(text, encoding="utf8")
            print("\n" + text)

    cli.run(evaluate, PROG)


if __name__ == "__main__":
    use_huge_pages()
    main()
