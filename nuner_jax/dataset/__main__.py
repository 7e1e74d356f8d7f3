"""`python -m nuner_jax.dataset`: annotated text to a packed training set."""

from nuner_jax import cli
from nuner_jax.config import DatasetConfig, recipes

PROG = "nuner_jax.dataset"


def main(argv: list[str] | None = None) -> None:
    """Runs the stage and prints its summary."""
    config = cli.parse(DatasetConfig, argv, prog=PROG, recipes=recipes("dataset"))

    def build() -> None:
        from nuner_jax.dataset import builder
        from nuner_jax.files import is_address

        if is_address(config.out):
            print(builder.build_remotely(config))
            print(f"written to {config.out}")
            return
        folder = builder.build(config)
        print((folder / "summary.md").read_text(encoding="utf8"))
        print(f"written to {folder}")

    cli.run(build, PROG)


if __name__ == "__main__":
    main()
