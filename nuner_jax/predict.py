"""`nuner predict`: entities in the texts of files or of standard input."""

import contextlib
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuner_jax import cli
from nuner_jax.config import PredictConfig
from nuner_jax.errors import InputError
from nuner_jax.schema import is_unicode

if TYPE_CHECKING:
    from nuner_jax.inference.entities import Entity

PROG = "nuner_jax.predict"
BATCH = 512  # texts read before they are predicted: a pipe gives its results in parts of this
COLORS = (41, 42, 43, 44, 45, 46, 101, 102, 103, 104, 105, 106)  # backgrounds of a terminal


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and predicts."""
    config = cli.parse(PredictConfig, argv, prog=PROG, positional="input")
    cli.run(lambda: predict(config), PROG)


def predict(config: PredictConfig) -> None:
    """Prints a line a text, in the order of the input. Raises InputError with file and line."""
    from nuner_jax.inference.nuner import NuNER

    labels = read_labels(config.labels)
    missing = next((name for name in config.input if name != "-" and not Path(name).is_file()), None)
    if missing:
        raise InputError(f"{missing}: no such file")
    ner = NuNER.from_pretrained(config.model)
    colored = config.format == "color" or (config.format == "auto" and sys.stdout.isatty())
    for rows in batches(records(config.input)):
        found = ner.predict([row["text"] for row in rows], labels, config.threshold, config.flat)
        for row, entities in zip(rows, found, strict=True):
            print(painted(row["text"], entities) if colored else line_of(row, entities))
        sys.stdout.flush()


def read_labels(labels: str) -> list[str] | dict[str, str] | None:
    """Labels by commas, or a JSON file of {label: description}; None for "". Raises InputError."""
    if not labels.endswith(".json"):
        return [name.strip() for name in labels.split(",") if name.strip()] or None
    try:
        told = json.loads(Path(labels).read_text(encoding="utf8"))
    except OSError as error:
        raise InputError(f"{labels}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{labels}: not valid JSON ({error})") from None
    names = told if isinstance(told, list) else list(told.values()) if isinstance(told, dict) else [None]
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{labels}: expected {{label: description}} or a list of labels")
    return told


def records(inputs: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """A row with "text" for every line; a line that begins with { is JSON, and its other keys are kept. Raises InputError."""
    for name in inputs:
        with contextlib.ExitStack() as stack:
            file = sys.stdin.buffer if name == "-" else stack.enter_context(open(name, "rb"))
            json_lines = name.endswith(".jsonl")
            for number, raw in enumerate(file, start=1):
                where = f"{'standard input' if name == '-' else name}, line {number}"
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise InputError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from None
                json_lines = json_lines or (number == 1 and line.startswith("{"))
                if json_lines and not line.strip():
                    continue
                yield record(line, where) if json_lines else {"text": line}


def record(line: str, where: str) -> dict[str, Any]:
    """A JSON line with a text. Raises InputError."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise InputError(f'{where}: expected a JSON object with "text"')
    if not is_unicode(json.dumps(row, ensure_ascii=False)):
        raise InputError(f"{where}: half of a surrogate pair, which is not valid Unicode")
    return row


def batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Lists of at most BATCH rows."""
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def line_of(row: dict[str, Any], entities: "list[Entity]") -> str:
    """The row with its entities, as JSON."""
    return json.dumps({**row, "entities": [{**asdict(e), "score": round(e.score, 4)} for e in entities]}, ensure_ascii=False)


def painted(text: str, entities: "list[Entity]") -> str:
    """The text with entities on a coloured ground and their labels behind; a label always has the same colour."""
    result, end = "", 0
    for e in entities:
        if e.start < end:  # overlaps the one before: told behind it
            result += f"\033[2m({printable(f'{e.text} {e.label}')})\033[0m"
            continue
        color = COLORS[zlib.crc32(e.label.encode()) % len(COLORS)]
        result += f"{printable(text[end : e.start])}\033[30;{color}m{printable(e.text)}\033[0m"
        result += f"\033[2m({printable(e.label)} {e.score:.2f})\033[0m"
        end = e.end
    return result + printable(text[end:])


def printable(text: str) -> str:
    """Without the control characters that would steer a terminal."""
    return "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text)


if __name__ == "__main__":
    main()
