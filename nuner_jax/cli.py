"""The command line of every stage: YAML file + dotted overrides through jsonargparse, one-line errors, fixed exit statuses.

Precedence, lowest first: field defaults, the recipe, the --config file, the command line.
"""

import dataclasses
import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jsonargparse
import yaml
from jsonargparse.typing import register_type

from nuner_jax.errors import InputError, NunerError

Config = TypeVar("Config")


class Ints(tuple[int, ...]):
    """A comma-separated list of integers on the command line, a list in YAML."""


class Strs(tuple[str, ...]):
    """Several values after one flag (`--input A B`) on the command line, a list in YAML."""


def _to_ints(value: Any) -> Ints:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    elif isinstance(value, int):
        value = [value]
    if any(isinstance(v, (bool, float)) for v in value):
        raise ValueError(f"expected comma-separated integers, got {value!r}")
    return Ints(int(v) for v in value)


def _to_strs(value: Any) -> Strs:
    if isinstance(value, str):
        value = json.loads(value) if value.startswith("[") else [value]
    return Strs(str(v) for v in value)


register_type(Ints, serializer=list, deserializer=_to_ints)
register_type(Strs, serializer=list, deserializer=_to_strs)
jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


class _Parser(jsonargparse.ArgumentParser):
    """Errors are one line on standard error and exit status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        del ex
        text = re.sub(r"\s+", " ", message.replace("<class '", "").replace("'>", "")).strip()
        text = re.sub(r'^Parser key "([^"]*)": ', r"\1: ", text)
        unknown = re.search(r"(?:unrecognized arguments: --|Option ')([\w.]+)", text)
        if unknown:
            close = difflib.get_close_matches(unknown[1], _keys(self), n=1, cutoff=0.6)
            text += f" (did you mean {close[0]}?)" if close else ""
        sys.stderr.write(f"{self.prog}: error: {text}\n")
        sys.exit(InputError.exit_status)


def _keys(parser: jsonargparse.ArgumentParser) -> list[str]:
    return [action.dest for action in parser._actions]  # argparse offers no public list of its options


def config_path(name: str) -> Path:
    """A file path as given, or `demo/train` for the packaged configs/demo/train.yaml. Raises InputError."""
    if Path(name).is_file():
        return Path(name)
    here = Path(__file__).resolve().parent
    for folder in (here / "configs", here.parent / "configs"):  # in a wheel; in a clone
        packaged = folder / f"{name.removesuffix('.yaml')}.yaml"
        if packaged.is_file():
            return packaged
    raise InputError(f"--config {name}: no such file, and no packaged config of that name")


def _normalise(argv: Sequence[str], many: set[str]) -> list[str]:
    """--config goes first, so that the command line always wins; several values after one flag become one JSON list."""
    configs: list[str] = []
    rest: list[str] = []
    i = 0
    while i < len(argv):
        word, i = argv[i], i + 1
        flag, _, value = word.partition("=")
        if flag == "--config":
            if "=" not in word:
                if i == len(argv):
                    raise InputError("--config needs a file or the name of a packaged config")
                value, i = argv[i], i + 1
            configs.append(f"--config={config_path(value)}")
        elif flag.removeprefix("--") in many and flag.startswith("--"):
            values = [value] if "=" in word else []
            while i < len(argv) and not argv[i].startswith("--"):
                values, i = [*values, argv[i]], i + 1
            rest.append(f"{flag}={json.dumps(values, ensure_ascii=False)}")
        else:
            rest.append(word)
    return configs + rest


def _recipe_of(argv: Sequence[str], default: str) -> str:
    """The recipe that the command line or else the config file names."""
    recipe = default
    for word in argv:
        if word.startswith("--config="):
            try:
                with open(word.removeprefix("--config="), encoding="utf8") as file:
                    loaded = yaml.safe_load(file)
            except (OSError, yaml.YAMLError, UnicodeDecodeError):
                continue  # the parser reports it
            if isinstance(loaded, dict):
                recipe = loaded.get("recipe", recipe)
    for i, word in enumerate(argv):
        if word == "--recipe" and i + 1 < len(argv):
            recipe = argv[i + 1]
        elif word.startswith("--recipe="):
            recipe = word.removeprefix("--recipe=")
    return recipe


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
    alternatives: Sequence[str] = (),
) -> Config:
    """The config that `argv` (default: the process's) asks for; exits with status 2 and one line on bad input.

    `recipes` maps a recipe's name to the dotted keys that it sets in this stage; the class then has a field `recipe`.
    Of the fields `alternatives` exactly one must be set; one given on the command line replaces another of the file.
    """
    parser = _Parser(prog=prog, description=(config_class.__doc__ or "").strip())
    parser.add_argument("--config", action="config", help="YAML file, or the name of a packaged config (demo/train)")
    parser.add_class_arguments(config_class, None)
    try:
        many = {f.name for f in dataclasses.fields(config_class) if f.type in (Strs, "Strs")}  # type: ignore[arg-type]
        words = _normalise(sys.argv[1:] if argv is None else argv, many)
    except InputError as error:
        parser.error(str(error))
    if recipes is not None:
        chosen = _recipe_of(words, parser.get_defaults().recipe)
        if chosen not in recipes:
            parser.error(f"recipe: there is no recipe {chosen!r}; the recipes are {', '.join(recipes)}")
        parser.set_defaults(dict(recipes[chosen]))
    given = [name for name in alternatives if any(word.split("=")[0] == f"--{name}" for word in words)]
    if len(given) == 1:
        words += [f"--{name}=null" for name in alternatives if name not in given]
    namespace = parser.instantiate(parser.parse_args(words))
    if alternatives and sum(namespace[name] is not None for name in alternatives) != 1:
        parser.error(f"set exactly one of {' and '.join(alternatives)}")
    return config_class(**{f.name: namespace[f.name] for f in dataclasses.fields(config_class)})  # type: ignore[arg-type]


def as_dict(config: Any) -> dict[str, Any]:
    """A config as plain YAML-able values, for the run directory and for result rows."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))


def run(main: Callable[[], int | None], prog: str) -> NoReturn:
    """Runs a command: a NunerError ends it with one line and its exit status, Ctrl-C with 130, a closed pipe quietly."""
    try:
        status = main()
        sys.stdout.flush()
    except NunerError as error:
        sys.stderr.write(f"{prog}: error: {' '.join(str(error).split())}\n")
        status = error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write(f"{prog}: interrupted; the same command goes on from here\n")
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status or 0)
