"""The command line of every stage: YAML file + dotted overrides through jsonargparse, one-line errors, fixed exit statuses.

Precedence, lowest first: field defaults, the recipe, the --config file, the command line.
"""

import dataclasses
import difflib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_origin, get_type_hints

import jsonargparse
import yaml
from jsonargparse.typing import register_type

from nuner_jax.errors import InputError, NunerError
from nuner_jax.lists import Floats, Ints, Strs, to_floats, to_ints, to_strs

Config = TypeVar("Config")
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


def _keys(config_class: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> type, of every option and of every group of options (a dataclass)."""
    keys: dict[str, Any] = {}
    for name, kind in get_type_hints(config_class).items():
        keys[prefix + name] = kind
        if dataclasses.is_dataclass(kind):
            keys |= _keys(kind, f"{prefix}{name}.")
    return keys


def _open_groups(keys: Mapping[str, Any]) -> tuple[str, ...]:
    """Beginnings of the names of entries of mappings, which may be called anything."""
    return tuple(f"{key}." for key, kind in keys.items() if get_origin(kind) is dict)


def _hint(key: str, keys: Iterable[str]) -> str:
    """The name that was probably meant: one beside it, or the same name in another group; else all names beside it."""
    group, _, name = key.rpartition(".")
    beside = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == group}
    elsewhere = {k.rpartition(".")[2]: k for k in keys}
    for names in (beside, elsewhere):
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
        if close:
            return f"did you mean {names[close[0]]}?"
    return f"there are {', '.join(beside.values())}" if group and beside else "--help lists them"


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
    open_groups = _open_groups(keys)

    def walk(node: Any, prefix: str) -> None:
        nonlocal recipe
        place = f"{path}, line {node.start_mark.line + 1}" if node is not None else str(path)
        if not isinstance(node, yaml.MappingNode):
            raise InputError(f"{place}: {prefix.rstrip('.') or 'a config'} has to be a mapping (key: value)")
        for key_node, value in node.value:
            key = prefix + str(key_node.value)
            place = f"{path}, line {key_node.start_mark.line + 1}"
            if key not in keys and not key.startswith(open_groups):
                raise InputError(f"{place}: there is no option {key} ({_hint(key, keys)})")
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


def _normalise(argv: Sequence[str], keys: Mapping[str, Any], positional: str = "") -> tuple[list[str], list[Path]]:
    """The words for jsonargparse and the config files. Every option is `--key=value`: a lone switch becomes true, several
    values after one flag (or after the same flag again) one JSON list, `--layers -1,-4` one word. Words without an option before
    them are values of the option `positional`, if there is one. Raises InputError."""
    configs: list[Path] = []
    words: list[str] = []
    lists: dict[str, list[str]] = {}
    open_groups = _open_groups(keys)
    i = 0
    while i < len(argv):
        word, i = argv[i], i + 1
        if positional and (word == "-" or not word.startswith("-")):
            lists.setdefault(f"--{positional}", []).append(word)
            continue
        flag, equals, value = word.partition("=")
        key = flag[2:]
        if flag in ("-h", "--help", "--print_config"):
            words.append(word)
            continue
        if not flag.startswith("--") or not key:
            raise InputError(f"{word}: not an option, and no option before it takes it")
        if key != "config" and key not in keys and not key.startswith(open_groups):
            raise InputError(f"there is no option {flag} ({_hint(key, keys)})")
        values = [value] if equals else []
        most = sys.maxsize if keys.get(key) is Strs else 1
        while i < len(argv) and len(values) < most and (not argv[i].startswith("-") or re.match(r"-[\d.]", argv[i])):
            values, i = [*values, argv[i]], i + 1
        if not values and keys.get(key) is bool:
            values = ["true"]
        if not values:
            raise InputError(f"{flag} needs a value")
        if key == "config":
            configs.append(config_path(values[0]))
        elif most > 1:
            lists[flag] = [*lists.get(flag, []), *values]
        else:
            words.append(f"{flag}={values[0]}")
    words += [f"{flag}={json.dumps(values, ensure_ascii=False)}" for flag, values in lists.items()]
    return words, configs


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
    parser, keys = _parser(config_class, prog), _keys(config_class)
    places: dict[str, str] = {}
    chosen = parser.get_defaults().recipe if recipes is not None else None
    words, configs = _normalise(argv, keys, positional)
    words, entries = _entries(words, keys)
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
            so_far[key] = _with_entry(so_far[key] or {}, path, value)
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
    parser, keys = _parser(config_class, ""), _keys(config_class)
    tree: dict[str, Any] = {}
    for key, value in values.items():
        if key not in keys or dataclasses.is_dataclass(keys[key]):
            raise InputError(
                f"there is no option {key} ({_hint(key, [k for k in keys if not dataclasses.is_dataclass(keys[k])])})"
            )
        tree = _with_entry(tree, key.split("."), value)
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
    for key in _keys(config_class):
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


def _entries(words: Sequence[str], keys: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str], Any]]]:
    """Words apart from those that set an entry of a mapping (`--extra.a.b=1`), and these as (key, path in it, value)."""
    rest: list[str] = []
    entries: list[tuple[str, list[str], Any]] = []
    for word in words:
        flag, _, text = word.partition("=")
        group = next((group for group in _open_groups(keys) if flag.startswith(f"--{group}")), None)
        if group is None:
            rest.append(word)
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        entries.append((group[:-1], flag[2 + len(group) :].split("."), value))
    return rest, entries


def _with_entry(tree: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of a nested dict with a new value at a path; keys keep their order, and one written with dots is found as well."""
    whole = ".".join(path)
    if len(path) == 1 or whole in tree:
        return {**tree, whole: value}
    below = tree.get(path[0])
    return {**tree, path[0]: _with_entry(below if isinstance(below, dict) else {}, path[1:], value)}


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
