"""`python -m nuner_jax.annotate`, `annotate parse`, `annotate batch submit|poll|merge|files`: options as in AnnotateConfig."""

import sys
from collections.abc import Sequence

from nuner_jax import cli
from nuner_jax.config import AnnotateConfig
from nuner_jax.errors import InputError

PROG = "python -m nuner_jax.annotate"
BATCH = ("submit", "poll", "merge", "files")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the stage, `parse`, or `batch submit|poll|merge|files`; exits with the status of the command-line contract."""
    words = list(sys.argv[1:] if argv is None else argv)
    cli.run(lambda: _run(words), PROG)


def _run(words: list[str]) -> int | None:
    command = words.pop(0) if words and not words[0].startswith("-") else ""
    if command == "batch":
        action = words.pop(0) if words and not words[0].startswith("-") else ""
        if action not in BATCH and not {"-h", "--help"} & set(words):
            raise InputError(f"annotate batch: name one of {', '.join(BATCH)}" + (f", got {action}" if action else ""))
        command = f"batch {action}".strip()
    elif command not in ("", "parse"):
        raise InputError(f"there is no annotate {command}; there are annotate parse and annotate batch {'|'.join(BATCH)}")
    config = cli.parse(AnnotateConfig, words, prog=f"{PROG} {command}".strip())
    try:
        from nuner_jax.annotate import batch, stage
    except ModuleNotFoundError as error:
        raise InputError(f"annotating needs the package {error.name}: pip install 'nuner-jax[llm]'") from None
    if command.startswith("batch"):
        return batch.run(command.removeprefix("batch "), config)
    return stage.parse(config) if command == "parse" else stage.annotate(config)


if __name__ == "__main__":
    main()
