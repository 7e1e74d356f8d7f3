"""`nuner concepts map` and `nuner concepts nearest PHRASE`; options as in ConceptMapConfig and NearestConfig."""

import sys
from collections.abc import Sequence

from nuner_jax import cli
from nuner_jax.config import ConceptMapConfig, NearestConfig
from nuner_jax.errors import InputError

PROG = "nuner concepts"
USAGE = f"""usage: {PROG} map [options]            a map of concept embeddings, as picture and page
       {PROG} nearest PHRASE [options] the concepts nearest to a phrase

{PROG} map --help and {PROG} nearest --help explain every option."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one of the two; exits with the status of the command-line contract."""
    words = list(sys.argv[1:] if argv is None else argv)
    cli.run(lambda: _run(words), PROG)


def _run(words: list[str]) -> None:
    command = words.pop(0) if words else ""
    if command in ("-h", "--help"):
        print(USAGE)
    elif command == "map":
        config = cli.parse(ConceptMapConfig, words, prog=f"{PROG} map")
        from nuner_jax.concepts.stage import draw_map

        draw_map(config)
    elif command == "nearest":
        phrase = words.pop(0) if words and not words[0].startswith("-") else ""
        config = cli.parse(NearestConfig, words, prog=f"{PROG} nearest")
        if not phrase.strip():
            raise InputError('nearest: name a phrase, as in: nearest "car part"')
        from nuner_jax.concepts.stage import print_nearest

        print_nearest(phrase, config)
    else:
        raise InputError(f"there are map and nearest{f', no {command}' if command else ''}")


if __name__ == "__main__":
    main()
