"""Which concepts to embed: a data set's table, a text file, or the bundled demo's."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nuner_jax.dataset.concepts import load_table, normalise_concept
from nuner_jax.dataset.records import dataset_folder
from nuner_jax.errors import InputError

DEMO = "demo"
TABLE = "concepts.jsonl"


@dataclass(frozen=True, slots=True)
class Named:
    """A concept by its name, with the description and the number of mentions where the source knows them."""

    name: str
    description: str = ""
    frequency: int = 0


def read_concepts(source: str, limit: int = 0) -> tuple[list[Named], int]:
    """The concepts of `demo`, a folder that the dataset stage wrote, its concepts.jsonl, or a text file (one a line), the most
    frequent first, at most `limit` (0: all); and how many there are in all. Raises InputError."""
    path = Path(source)
    if source == DEMO and not path.exists():
        found = _demo()
    elif path.is_dir():
        found = _of_table(_table_below(path))
    elif path.suffix == ".jsonl":
        found = _of_table(path)
    else:
        found = _lines(path)
    if not found:
        raise InputError(f"{source}: no concept in it")
    found = sorted(found, key=lambda c: -c.frequency)  # stable: a text file keeps its order
    return (found[:limit] if limit else found), len(found)


def _table_below(folder: Path) -> Path:
    for place in (folder, dataset_folder(folder)):
        if (place / TABLE).is_file():
            return place / TABLE
    raise InputError(f"{folder}: no {TABLE} here, so not a data set of the dataset stage")


def _of_table(path: Path) -> list[Named]:
    return [Named(c.name, c.description, c.frequency) for c in load_table(path)]


def _lines(path: Path) -> list[Named]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    names = (normalise_concept(line) for line in lines)
    return [Named(name) for name in dict.fromkeys(names) if name]


def _demo() -> list[Named]:
    """The concepts of the recorded replies, as often as they are named there."""
    from nuner_jax.annotate.parse import parse_reply
    from nuner_jax.demo import REPLIES

    count: Counter[str] = Counter()
    for line in REPLIES.read_text(encoding="utf8").splitlines():
        row = json.loads(line)
        count.update(normalise_concept(a.concept) for a in parse_reply(row["reply"], row["text"]).annotations)
    return [Named(name, "", n) for name, n in sorted(count.items()) if name]
