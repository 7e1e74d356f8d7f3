"""`python -m nuner_jax.docs [FILE]`: the configuration reference, written from the option classes themselves.

Without FILE it goes to standard output; in a clone `make docs` writes docs/configuration.md.
"""

import argparse
import ast
import dataclasses
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nuner_jax import config
from nuner_jax.config import RECIPES

COMMANDS: dict[str, type] = {
    "annotate": config.AnnotateConfig,
    "dataset": config.DatasetConfig,
    "train": config.TrainConfig,
    "export": config.ExportConfig,
    "evaluate": config.EvaluateConfig,
    "fit": config.FitConfig,
    "predict": config.PredictConfig,
    "report": config.ReportConfig,
    "ablate": config.AblateConfig,
    "figures": config.FiguresConfig,
    "serve": config.ServeConfig,
    "concepts map": config.ConceptMapConfig,
    "concepts nearest": config.NearestConfig,
}
"""Command -> its options."""

INTRODUCTION = """# Configuration reference

Every option of every command, with its default. This page is written by `make docs` from the option classes.

An option comes from, lowest first: the default, the recipe (`--recipe`), the YAML file (`--config FILE`, or the name of a packaged one
such as `demo/train`), the command line (`--model.dropout 0.2`). In YAML a dotted name is nested. `--print_config` prints what would run,
`--help` explains the same on a terminal. Lists are written `1,4,16` on the command line and `[1, 4, 16]` in YAML; options of kind
"texts" take several words after one flag.
"""


def reference() -> str:
    """The page, as Markdown."""
    parts = [INTRODUCTION, *(section(name, options) for name, options in COMMANDS.items()), recipes()]
    return "\n".join(parts)


def section(command: str, options: type) -> str:
    """A command's table."""
    lines = [f"## {command}\n", f"{doc(options)}\n", "| option | kind | default | |", "|---|---|---|---|"]
    for name, kind, default, about in rows(options):
        lines.append(f"| `{name}` | {kind} | {default} | {about} |")
    return "\n".join(lines) + "\n"


def doc(options: type) -> str:
    """A class's docstring in one line."""
    return " ".join((options.__doc__ or "").split())


def rows(options: type, prefix: str = "") -> list[tuple[str, str, str, str]]:
    """(dotted name, kind, default, explanation) of every option; those of a group follow where the group stands."""
    kinds, told = get_type_hints(options), explanations(options)
    found: list[tuple[str, str, str, str]] = []
    for field in dataclasses.fields(options):
        kind = kinds[field.name]
        if dataclasses.is_dataclass(kind):
            found += rows(kind, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            found.append((prefix + field.name, kind_of(kind), default_of(field), cell(told.get(field.name, ""))))
    return found


def explanations(options: type) -> dict[str, str]:
    """Field -> the string below it in the source; a class has those of its bases too."""
    told = {}
    for source in (c for c in reversed(options.__mro__) if dataclasses.is_dataclass(c)):
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(source))).body
        assert isinstance(tree, ast.ClassDef)
        for line, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(below, ast.Expr):
                told[line.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return told


def kind_of(kind: Any) -> str:
    """A type in words."""
    names = {int: "integer", float: "number", bool: "true, false", str: "text", type(None): "null"}
    lists = {"Ints": "integers", "Floats": "numbers", "Strs": "texts"}
    if kind in names:
        return names[kind]
    if getattr(kind, "__name__", "") in lists:
        return lists[kind.__name__]
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) in (dict, list, tuple):
        return "mapping" if get_origin(kind) is dict else "list"
    parts = get_args(kind)
    return " or ".join(kind_of(part) for part in parts) if parts else cell(str(kind))


def default_of(field: Any) -> str:
    """A default as one writes it on the command line; the empty ones are told."""
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is dataclasses.MISSING:
        return "(needed)"
    if isinstance(value, (tuple, list)):
        value = (" " if all(isinstance(v, str) for v in value) else ",").join(map(str, value))
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return "" if text in ("", "{}") else f"`{cell(text)}`"


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def recipes() -> str:
    """What each recipe sets."""
    lines = ["## Recipes\n", "What `--recipe` changes against the defaults above.\n"]
    lines += ["| recipe | stage | option | value |", "|---|---|---|---|"]
    for recipe, stages in RECIPES.items():
        changes = [(stage, key, value) for stage, keys in stages.items() for key, value in keys.items()]
        lines += [f"| `{recipe}` | {stage} | `{key}` | `{value}` |" for stage, key, value in changes]
        lines += [] if changes else [f"| `{recipe}` | | | the defaults |"]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Writes the reference."""
    parser = argparse.ArgumentParser(prog="python -m nuner_jax.docs", description="The configuration reference, as Markdown.")
    parser.add_argument("file", nargs="?", help="file to write (default: standard output)")
    path = parser.parse_args(argv).file
    if path:
        Path(path).write_text(reference(), encoding="utf8")
    else:
        sys.stdout.write(reference())


if __name__ == "__main__":
    main()
