"""`python -m nuner_jax.ablate.cut`: an encoder with its first layers only, for ablations of the model's size."""

from nuner_jax import cli
from nuner_jax.config import CutConfig

PROG = "nuner_jax.ablate.cut"


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and writes the folder."""
    config = cli.parse(CutConfig, argv, prog=PROG)

    def cut() -> None:
        from nuner_jax.model.hf import cut_encoder

        cut_encoder(config.source, config.layers, config.out)
        print(f"{config.out}: the first {config.layers} layers of {config.source}")

    cli.run(cut, PROG)


if __name__ == "__main__":
    main()
