"""`python -m nuner_jax.ablate`: an ablation from its declaration to a table and a figure."""

from nuner_jax import cli
from nuner_jax.config import AblateConfig

PROG = "nuner_jax.ablate"


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, runs what is missing, and writes table and figure."""
    from nuner_jax.ablate import plan

    config = cli.parse(AblateConfig, argv, prog=PROG, check=plan.check)

    def ablate() -> None:
        if config.dry_run:
            print("\n".join(plan.describe(plan.make_plan(config))))
            return
        from nuner_jax.ablate.report import write_report
        from nuner_jax.ablate.runner import run

        run(config)
        path = write_report(config.out)
        print("\n" + path.read_text(encoding="utf8"))
        print(f"written to {path}")

    cli.run(ablate, PROG)


if __name__ == "__main__":
    main()
