"""Replies, or lines of them, that are JSON: their entries as lines of the asked format. Pure."""

import json
import re
from typing import Any

_OPENING = re.compile(r"^[\[{]", re.MULTILINE)
_KEYS = (
    ("mention", "entity", "entity from the text", "text", "name", "span", "word", "phrase"),
    ("concept", "type", "label", "category", "entity concept", "entity type"),
    ("description", "definition", "explanation", "concept description"),
)


def in_lines(reply: str) -> str:
    """The reply with a JSON document in it, such as a list of objects, replaced by a line for each entry; else as it is."""
    opening = _OPENING.search(reply)
    start, end = opening.start() if opening else 0, max(reply.rfind("]"), reply.rfind("}")) + 1
    items = _parsed(reply[start:end]) if opening else None
    if isinstance(items, dict):
        lists = [value for value in items.values() if isinstance(value, list)]
        items = lists[0] if len(lists) == 1 else [items]
    lines = [_line(item) for item in items] if isinstance(items, list) else []
    if not lines or None in lines:
        return reply  # what its lines are by themselves, line_of says
    return reply[:start] + "\n".join(filter(None, lines)) + "\n" + reply[end:]


def line_of(line: str) -> str:
    """A line that is a JSON object or list, or quoted fields between commas, in the asked format; any other as it is."""
    bare = line.rstrip(", \t")
    opening, closing = bare[:1], bare[-1:]
    if opening + closing in ("[]", "{}"):
        return _line(_parsed(bare)) or line
    return (_line(_parsed(f"[{bare}]")) or line) if opening + closing == '""' and '",' in bare else line


def _parsed(document: str) -> Any:
    try:
        return json.loads(document)
    except (ValueError, RecursionError):
        return None


def _line(item: Any) -> str | None:
    """An entry; None if it has no mention and concept."""
    if isinstance(item, dict):
        named = {str(key).casefold().replace("_", " "): value for key, value in item.items()}
        item = [next((named[key] for key in keys if key in named), "") for keys in _KEYS]
    if not isinstance(item, list) or len(item) not in (2, 3) or not all(isinstance(field, str) for field in item):
        return None
    fields = [" ".join(field.split("\n")) for field in item]
    return " <> ".join(fields) if all(field.strip() for field in fields[:2]) else None
