"""`nuner fit`: a recogniser from a few examples."""

from nuner_jax import cli
from nuner_jax.config import FitConfig
from nuner_jax.errors import InputError

PROG = "nuner_jax.fit"


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, fits and saves."""
    config = cli.parse(FitConfig, argv, prog=PROG)
    cli.run(lambda: fit(config), PROG)


def fit(config: FitConfig) -> None:
    """Writes the folder config.out and tells what was learnt. Raises InputError."""
    from nuner_jax.evaluate.ranges import check_ranges
    from nuner_jax.inference.examples import read_examples
    from nuner_jax.inference.nuner import NuNER, check_target

    if not config.examples:
        raise InputError("examples: name a file of examples, --examples FILE")
    check_target(config.out)  # before the work
    check_ranges("frozen", config.frozen)
    check_ranges("finetune", config.finetune)
    examples = read_examples(config.examples)
    ner = NuNER.from_pretrained(config.model).fit(
        examples,
        config.head,
        layers=config.layers,
        portable=config.portable,
        head_config=config.frozen,
        finetune_config=config.finetune,
        seed=config.seed,
    )
    out = ner.save(config.out)
    assert ner.head is not None
    mentions = sum(len(example.spans) for example in examples)
    print(f"{out}: {', '.join(ner.labels)}; learnt from {len(examples)} examples with {mentions} mentions ({config.head})")
    print(f"calibration: {ner.head.calibration}; {ner.head.temperature:.2f}")


if __name__ == "__main__":
    main()
