"""`nuner <command> ...`: the same commands as `python -m nuner_jax.<command> ...`."""

import difflib
import importlib.util
import sys

from nuner_jax import __version__
from nuner_jax.memory import use_huge_pages

COMMANDS = {
    "annotate": "an LLM labels every sentence with open concepts: ledger, annotated text",
    "dataset": "annotated text to packed, tokenised training rows",
    "train": "contrastive pre-training of a text encoder against a concept encoder",
    "export": "a checkpoint to a Hugging Face folder, checked",
    "evaluate": "few-shot evaluation of encoders on tasks, side by side",
    "fit": "a recogniser from a few examples",
    "predict": "entities in text, by a fitted recogniser or by label names",
    "report": "tables and figures of one or several evaluations",
    "ablate": "an ablation: points that differ in a few options, with a table and a figure",
    "figures": "the paper's figures from run directories",
    "serve": "a web page and a JSON API for a model",
    "concepts": "map of concept embeddings; the concepts nearest to a phrase",
}
"""Command -> what it does; each is the module nuner_jax.<command> with its `main(argv)`."""

COMPUTING = ("train", "evaluate")  # commands that spend their time in XLA programs


def usage() -> str:
    """The help text."""
    rows = "\n".join(f"  {name:<10}{purpose}" for name, purpose in COMMANDS.items())
    return f"usage: nuner COMMAND [options]\n\nnuner_jax {__version__}\n\n{rows}\n\nnuner COMMAND --help explains every option."


def main(argv: list[str] | None = None) -> None:
    """Hands the rest of the command line to the command's own main; exits with status 2 if there is no such command."""
    words = sys.argv[1:] if argv is None else argv
    if not words:
        sys.stderr.write(f"{usage()}\n\nnuner: error: name a command\n")
        sys.exit(2)
    command, rest = words[0], words[1:]
    if command in ("-h", "--help"):
        print(usage())
    elif command == "--version":
        print(__version__)
    elif command in COMMANDS:
        if argv is None and command in COMPUTING:
            use_huge_pages()
        importlib.import_module(module_of(command)).main(rest)
    else:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}"
        sys.stderr.write(f"nuner: error: there is no command {command} ({hint})\n")
        sys.exit(2)


def module_of(command: str) -> str:
    """Where the command's `main` is: nuner_jax.train, nuner_jax.dataset.__main__."""
    spec = importlib.util.find_spec(f"nuner_jax.{command}")
    return f"nuner_jax.{command}" + (".__main__" if spec is not None and spec.submodule_search_locations else "")


if __name__ == "__main__":
    main()
