"""The command line of every stage: YAML file + dotted overrides through jsonargparse, one-line errors, fixed exit statuses.

Precedence, lowest first: field defaults, the recipe, the --config file, the command line.
"""

import dataclasses
import errno
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_origin

import jsonargparse
import yaml
from jsonargparse.typing import register_type

from nuner_jax.errors import InputError, NunerError
from nuner_jax.lists import Floats, Ints, Strs, to_floats, to_ints, to_strs
from nuner_jax.options import entries_of, hint, keys_of, normalise, open_groups, with_entry

Config = TypeVar("Config")
REFUSALS = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
REFUSALS += (errno.ENOSPC, errno.EDQUOT)  # what a file system says of paths that cannot be used, and when it is full
PLACES = ("workdir", "data.path", "init_from", "input", "out", "results")  # paths of the file system, unlike corpus.path


register_type(Ints, serializer=list, deserializer=to_ints)
register_type(Floats, serializer=list, deserializer=to_floats)
register_type(Strs, serializer=list, deserializer=to_strs)
jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


class _Parser(jsonargparse.ArgumentParser):
    """Errors are InputErrors of one line."""

    places: Mapping[str, str] = {}  # dotted key -> the file and line that set it

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        del ex
        text = _plain(message)
        key = text.split(":")[0]
        raise InputError(f"{self.places[key]}: {text}" if key in self.places else text)


def _plain(message: str) -> str:
    """jsonargparse's message in one line and in the words of a person who does not know Python's types."""
    text = re.sub(r"<class '(\w+)'>", r"\1", re.sub(r"\s+", " ", message)).strip()
    text = re.sub(r'^Parser key "([^"]*)": ', r"\1: ", text)
    text = re.sub(r"Not of type \w+: ", "", text)
    several = r"Does not validate against any of the Union subtypes Subtypes: \[(.*)\] Errors: .* Given value: (.*)"
    union = re.match(rf"([\w.]+: ){several}", text)
    single = re.match(r"([\w.]+: )Expected a (.*)\. Got value: (.*)", text)
    found = union or single
    if found:
        kinds = re.sub(r"typing\.Literal\[([^\]]*)\]", r"\1", found[2]).replace("NoneType", "null")
        for name, word in (("int", "an integer"), ("float", "a number"), ("bool", "true or false"), ("str", "a text")):
            kinds = re.sub(rf"\b{name}\b", word, kinds)
        text = f"{found[1]}expected {re.sub(r', (?=[^,]*$)', ' or ', kinds)}, got {found[3]}"
    return text


def _read_config(path: Path, keys: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    """(recipe that the file names or None, dotted key -> file and line). Raises InputError for what the file may not hold."""
    try:
        root = yaml.compose(path.read_text(encoding="utf8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    places: dict[str, str] = {}
    recipe = None
    open_ = open_groups(keys)

    def walk(node: Any, prefix: str) -> None:
        nonlocal recipe
        place = f"{path}, line {node.start_mark.line + 1}" if node is not None else str(path)
        if not isinstance(node, yaml.MappingNode):
            raise InputError(f"{place}: {prefix.rstrip('.') or 'a config'} has to be a mapping (key: value)")
        for key_node, value in node.value:
            key = prefix + str(key_node.value)
            place = f"{path}, line {key_node.start_mark.line + 1}"
            if key not in keys and not key.startswith(open_):
                raise InputError(f"{place}: there is no option {key} ({hint(key, keys)})")
            if key in places:
                raise InputError(f"{place}: {key} is set twice")
            places[key] = place
            entry = key not in keys or get_origin(keys[key]) is dict
            if dataclasses.is_dataclass(keys.get(key)) or (entry and isinstance(value, yaml.MappingNode)):
                walk(value, f"{key}.")
            if key == "recipe" and isinstance(value, yaml.ScalarNode):
                recipe = value.value

    walk(root, "")
    return recipe, places


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
    alternatives: Sequence[str] = (),
    check: Callable[[Config], Any] | None = None,
    positional: str = "",
) -> Config:
    """The config that `argv` (default: the process's) asks for; exits with status 2 and one line on bad input.

    `recipes` maps a recipe's name to the dotted keys that it sets in this stage; the class then has a field `recipe`.
    Of the fields `alternatives` exactly one must be set; one given on the command line replaces another of the file.
    `check` may refuse the config by an InputError "key: what is wrong", to which the line of the file is added.
    Words that no option takes are values of the list field `positional`, if one is named (`predict FILE`).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        config, places = _parse(config_class, argv, prog, recipes, alternatives, positional)
        if check is not None:
            _check(check, config, places)
        return config
    except InputError as error:
        sys.stderr.write(f"{prog}: error: {error}\n")
        sys.exit(error.exit_status)


def _parse(
    config_class: type[Config],
    argv: Sequence[str],
    prog: str,
    recipes: Mapping[str, Mapping[str, Any]] | None,
    alternatives: Sequence[str],
    positional: str,
) -> tuple[Config, Mapping[str, str]]:
    parser, keys = _parser(config_class, prog), keys_of(config_class)
    places: dict[str, str] = {}
    chosen = parser.get_defaults().recipe if recipes is not None else None
    words, configs = normalise(argv, keys, positional)
    words, entries = entries_of(words, keys)
    for path in configs:
        recipe, new = _read_config(path, keys)
        chosen = recipe if recipe is not None else chosen
        places |= new
    given = {word.partition("=")[0].removeprefix("--"): word.partition("=")[2] for word in words}
    parser.places = {key: place for key, place in places.items() if key not in given}
    _set_recipe(parser, recipes, given.get("recipe", chosen))
    given_alternatives = [name for name in alternatives if given.get(name, "null") != "null"]
    if len(given_alternatives) == 1:
        words += [f"--{name}=null" for name in alternatives if name not in given]
    words = [f"--config={path}" for path in configs] + words
    if entries:  # the mappings of the files are needed whole, as an option replaces a mapping
        so_far = parser.parse_args([word for word in words if word != "--print_config"])
        for key, path, value in entries:
            so_far[key] = with_entry(so_far[key] or {}, path, value)
        words += [f"--{key}={json.dumps(so_far[key], ensure_ascii=False)}" for key in dict.fromkeys(key for key, _, _ in entries)]
    return _finish(parser, parser.parse_args(words), config_class, alternatives), parser.places


def _check(check: Callable[[Config], Any], config: Config, places: Mapping[str, str]) -> None:
    try:
        check(config)
    except InputError as error:
        key = str(error).partition(": ")[0]
        while key and key not in places:  # what is missing is told by the line of the group that it belongs to
            key = key.rpartition(".")[0]
        raise InputError(f"{places[key]}: {error}" if key else str(error)) from None


def from_values(
    config_class: type[Config],
    values: Mapping[str, Any],
    *,
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
    alternatives: Sequence[str] = (),
) -> Config:
    """The config that dotted keys with plain YAML values ask for; recipes and alternatives as in parse.

    Raises InputError that names the key.
    """
    parser, keys = _parser(config_class, ""), keys_of(config_class)
    tree: dict[str, Any] = {}
    for key, value in values.items():
        if key not in keys or dataclasses.is_dataclass(keys[key]):
            raise InputError(
                f"there is no option {key} ({hint(key, [k for k in keys if not dataclasses.is_dataclass(keys[k])])})"
            )
        tree = with_entry(tree, key.split("."), value)
    _set_recipe(parser, recipes, tree.get("recipe", parser.get_defaults().recipe) if recipes is not None else None)
    return _finish(parser, parser.parse_object(tree), config_class, alternatives)


def _parser(config_class: Any, prog: str) -> _Parser:
    parser = _Parser(prog=prog, description=(config_class.__doc__ or "").strip())
    parser.add_argument("--config", action="config", help="YAML file, or the name of a packaged config (demo/train)")
    parser.add_class_arguments(config_class, None)
    return parser


def _set_recipe(parser: _Parser, recipes: Mapping[str, Mapping[str, Any]] | None, chosen: Any) -> None:
    if recipes is not None:
        if chosen not in list(recipes):
            parser.error(f"recipe: there is no recipe {chosen!r}; the recipes are {', '.join(recipes)}")
        parser.set_defaults(dict(recipes[chosen]))


def _finish(parser: _Parser, namespace: Any, config_class: type[Config], alternatives: Sequence[str]) -> Config:
    namespace = parser.instantiate(namespace)
    if alternatives and sum(namespace[name] is not None for name in alternatives) != 1:
        parser.error(f"set exactly one of {' and '.join(alternatives)}")
    config = config_class(**{f.name: namespace[f.name] for f in dataclasses.fields(config_class)})  # type: ignore[arg-type]
    anywhere = getattr(config_class, "ADDRESSES", ())  # the keys that take gs:// all the same
    for key in keys_of(config_class):
        value = attrgetter(key)(config)
        if isinstance(value, float) and not math.isfinite(value):
            parser.error(f"{key}: expected a finite number, got {value}")
        if (
            key in PLACES
            and key not in anywhere
            and (buckets := [x for x in _texts(value) if re.match(r"(gs|s3|abfss?|hdfs)://", x)])
        ):
            parser.error(
                f"{key}: {buckets[0]} is not a path of the file system; mount it (gcsfuse, s3fs) and name the mount point"
            )
    return config


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value) if isinstance(value, Strs) else []


def as_dict(config: Any) -> dict[str, Any]:
    """A config as plain YAML-able values, for the run directory and for result rows."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))


def run(main: Callable[[], int | None], prog: str) -> NoReturn:
    """Runs a command: a NunerError or a refusal of the file system ends it with one line, Ctrl-C with 130, a closed pipe quietly."""
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
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"{prog}: error: {where}{(error.strerror or str(error)).lower()}\n")
        status = InputError.exit_status
    sys.exit(status or 0)
