"""Replies laid out in another way, as JSON or with a line for each field: their entries as lines of the asked format. Pure."""

import json
import re
from collections.abc import Iterable
from typing import Any

_OPENING = re.compile(r"^[\[{]", re.MULTILINE)
_BETWEEN = re.compile(r"[\[,]?\s*")
_FIELD = re.compile(
    r"(?i)[\W_]*(?:(?P<concept>(?:entity )?(?:concept|type|label|category)(?: name)?)|description)[*_`]*:[*_`]*\s*"
)
_KEYS = (
    ("mention", "entity", "entity from the text", "text", "name", "span", "word", "phrase"),
    ("concept", "type", "label", "category", "entity concept", "entity type"),
    ("description", "definition", "explanation", "concept description"),
)


def in_lines(reply: str) -> str:
    """The reply with a JSON document in it, such as a list of objects, replaced by a line for each entry; else as it is.

    Of a document that breaks off, the entries before that.
    """
    opening = _OPENING.search(reply)
    if opening is None:
        return reply
    start, end = opening.start(), max(reply.rfind("]"), reply.rfind("}")) + 1
    items = _parsed(reply[start:end])
    if items is None:
        items, end = _whole_items(reply, start)
    if isinstance(items, dict):
        lists = [value for value in items.values() if isinstance(value, list)]
        items = lists[0] if len(lists) == 1 else [items]
    lines = [_line(item) for item in items] if isinstance(items, list) else []
    if not lines or None in lines:
        return reply  # what its lines are by themselves, line_of says
    return reply[:start] + "\n".join(filter(None, lines)) + "\n" + reply[end:]


def joined(lines: Iterable[str]) -> list[str]:
    """The lines, with those that give the fields of one entry one by one (`Entity: Paris`, `Concept: city`) made one line."""
    found: list[str] = []
    for line in lines:
        name = _FIELD.match(line)
        fields = 0 if name and name["concept"] else 1  # that the entry has to have behind its mention so far
        if name is None or not found or "<>" in line or found[-1].count("<>") != fields:
            found.append(line)
        else:
            found[-1] += f" <> {line[name.end() :]}"
    return found


def line_of(line: str) -> str:
    """A line that is a JSON object or list, or quoted fields between commas, in the asked format; any other as it is."""
    bare = line.rstrip(", \t")
    opening, closing = bare[:1], bare[-1:]
    if opening + closing in ("[]", "{}"):
        return _line(_parsed(bare)) or line
    return (_line(_parsed(f"[{bare}]")) or line) if opening + closing == '""' and '",' in bare else line


def _whole_items(reply: str, start: int) -> tuple[list[Any], int]:
    """The entries of the list that begins there, as far as they are whole, and where the last one ends."""
    items: list[Any] = []
    decoder, end = json.JSONDecoder(), reply.find("[", start)
    while end >= 0 and (more := _BETWEEN.match(reply, end)):
        try:
            item, end = decoder.raw_decode(reply, more.end())
        except (ValueError, RecursionError):
            break
        items.append(item)
    return items, end


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
