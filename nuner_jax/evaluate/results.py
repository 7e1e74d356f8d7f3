"""Result rows: one a (system, task, protocol, layers, head, k, seed), kept in results.jsonl; a run resumes from them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nuner_jax.errors import InputError
from nuner_jax.schema import read_json_lines, write_json_lines

Row = dict[str, Any]
KEY = ("system", "task", "protocol", "layers", "head", "labels", "sampling", "k", "seed")
"""What tells rows apart."""
NEEDED = ("system", "task", "protocol", "k", "seed")
"""What no row can be without."""
TRACE = ("test_sentences", "encoder_hash", "data_hash", "sample_hash", "settings")
"""What must agree for a stored row to count as done: everything else that moves numbers."""


def key(row: Row) -> str:
    """The identity of a row."""
    return json.dumps([row.get(name) for name in KEY])


class Results:
    """The rows of OUT/results.jsonl, written whole and renamed, so that a reader never sees half of them."""

    def __init__(self, folder: Path):
        self.path = folder / "results.jsonl"
        self.rows: dict[str, Row] = {}
        self.added = 0  # rows that this run has made
        if self.path.is_file():
            for number, row in read_json_lines(self.path):
                check_row(row, self.path, number)
                self.rows[key(row)] = row

    def has(self, row: Row) -> bool:
        """Whether this cell is done. Raises InputError that names what differs if it was done with other data or settings."""
        done = self.rows.get(key(row))
        if done is None:
            return False
        for name in TRACE:
            if done.get(name) != row.get(name):
                raise InputError(
                    f"{self.path} holds results of {row['system']} on {row['task']} (k={row['k']}) "
                    f"that were made with another {_difference(name, done.get(name), row.get(name))}; use another --out"
                )
        return True

    def add(self, rows: Iterable[Row]) -> None:
        """Stores rows durably."""
        new = {key(row): row for row in rows}
        self.rows |= new
        self.added += len(new)
        write_json_lines(self.path, self.rows.values())


def check_row(row: Any, path: Path, number: int) -> None:
    """Raises InputError for what is no result row."""
    missing = next((name for name in NEEDED if name not in row), None) if isinstance(row, dict) else "system"
    if missing:
        raise InputError(f"{path}, line {number}: not a result row (it has no {missing!r})")


def _difference(name: str, done: Any, asked: Any) -> str:
    if isinstance(done, dict) and isinstance(asked, dict):
        changed = sorted(k for k in done.keys() | asked.keys() if done.get(k) != asked.get(k))
        return ", ".join(f"{k} ({done.get(k)!r}, now {asked.get(k)!r})" for k in changed)
    names = {"encoder_hash": "state of the encoder", "data_hash": "state of the task's files"}
    names["test_sentences"] = f"number of test sentences ({done}, now {asked})"
    return names.get(name, name)


def read_rows(folders: Sequence[str | Path]) -> list[Row]:
    """The rows of several result directories, each cell once. Raises InputError if one has none, or if a system of one name is
    another one, or was measured otherwise, elsewhere."""
    rows: dict[str, Row] = {}
    encoders: dict[str, tuple[Any, Any]] = {}  # system -> (what it is, where it was seen first)
    for folder in folders:
        path = Path(folder) / "results.jsonl"
        if not path.is_file():
            raise InputError(f"{folder}: holds no results.jsonl")
        for number, row in read_json_lines(path):
            check_row(row, path, number)
            known, first = encoders.setdefault(row["system"], (row.get("encoder_hash"), folder))
            done = rows.setdefault(key(row), row)
            differs = next((name for name in TRACE if done.get(name) != row.get(name)), None)
            differs = "encoder_hash" if known != row.get("encoder_hash") else differs
            if differs:
                what = _difference(differs, done.get(differs), row.get(differs))
                raise InputError(f"{folder}: {row['system']} on {row['task']} is not that of {first}: another {what}")
    if not rows:
        raise InputError(f"{', '.join(map(str, folders))}: no result rows")
    return list(rows.values())
