"""The options of a config class: their dotted keys, and the words of a command line that set them."""

import dataclasses
import difflib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import yaml

from nuner_jax.errors import InputError
from nuner_jax.lists import Strs


def keys_of(config_class: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> type, of every option and of every group of options (a dataclass)."""
    keys: dict[str, Any] = {}
    for name, kind in get_type_hints(config_class).items():
        keys[prefix + name] = kind
        if dataclasses.is_dataclass(kind):
            keys |= keys_of(kind, f"{prefix}{name}.")
    return keys


def open_groups(keys: Mapping[str, Any]) -> tuple[str, ...]:
    """Beginnings of the names of entries of mappings, which may be called anything."""
    return tuple(f"{key}." for key, kind in keys.items() if get_origin(kind) is dict)


def hint(key: str, keys: Iterable[str]) -> str:
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


def normalise(argv: Sequence[str], keys: Mapping[str, Any], positional: str = "") -> tuple[list[str], list[Path]]:
    """The words for jsonargparse and the config files. Every option is `--key=value`: a lone switch becomes true, several
    values after one flag (or after the same flag again) one JSON list, `--layers -1,-4` one word. Words without an option before
    them are values of the option `positional`, if there is one. Raises InputError."""
    configs: list[Path] = []
    words: list[str] = []
    lists: dict[str, list[str]] = {}
    open_ = open_groups(keys)
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
        if key != "config" and key not in keys and not key.startswith(open_):
            raise InputError(f"there is no option {flag} ({hint(key, keys)})")
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


def entries_of(words: Sequence[str], keys: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str], Any]]]:
    """Words apart from those that set an entry of a mapping (`--extra.a.b=1`), and these as (key, path in it, value)."""
    rest: list[str] = []
    entries: list[tuple[str, list[str], Any]] = []
    for word in words:
        flag, _, text = word.partition("=")
        group = next((group for group in open_groups(keys) if flag.startswith(f"--{group}")), None)
        if group is None:
            rest.append(word)
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        entries.append((group[:-1], flag[2 + len(group) :].split("."), value))
    return rest, entries


def with_entry(tree: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of a nested dict with a new value at a path; keys keep their order, and one written with dots, or as a number in
    YAML, is found as well."""
    whole, keys = ".".join(path), {str(key): key for key in tree}
    if len(path) == 1 or whole in keys:
        return {**tree, keys.get(whole, whole): value}
    key = keys.get(path[0], path[0])
    below = tree.get(key)
    return {**tree, key: with_entry(below if isinstance(below, dict) else {}, path[1:], value)}
