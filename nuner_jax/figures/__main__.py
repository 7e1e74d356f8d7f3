"""`python -m nuner_jax.figures`: the paper's figures from run directories."""

from nuner_jax import cli
from nuner_jax.config import FiguresConfig

PROG = "nuner_jax.figures"


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and draws what the directories hold."""
    config = cli.parse(FiguresConfig, argv, prog=PROG, positional="runs")

    def figures() -> None:
        from nuner_jax.figures.stage import draw_all

        for path, what in draw_all(config):
            print(f"{path}: {what}")

    cli.run(figures, PROG)


if __name__ == "__main__":
    main()
