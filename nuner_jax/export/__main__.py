"""`python -m nuner_jax.export`: a run's checkpoint to a Hugging Face folder, verified before it appears."""

from nuner_jax import cli
from nuner_jax.config import ExportConfig

PROG = "nuner_jax.export"


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and exports."""
    config = cli.parse(ExportConfig, argv, prog=PROG)

    def export() -> None:
        from nuner_jax.export.hf import export_run

        export_run(config)

    cli.run(export, PROG)


if __name__ == "__main__":
    main()
