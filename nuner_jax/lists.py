"""The list types of options: as users write them and as configs hold them."""

import json
import math
from typing import Any


class Ints(tuple[int, ...]):
    """A comma-separated list of integers on the command line, a list in YAML."""


class Floats(tuple[float, ...]):
    """A comma-separated list of numbers on the command line, a list in YAML."""


class Strs(tuple[str, ...]):
    """Several values after one flag (`--input A B`) on the command line, a list in YAML."""


def to_ints(value: Any) -> Ints:
    """From the text of the command line or a list. Raises ValueError."""
    parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    parts = [parts] if isinstance(parts, int) else parts
    try:
        if any(isinstance(part, (bool, float)) for part in parts):
            raise ValueError
        return Ints(int(part) for part in parts)
    except (TypeError, ValueError):
        raise ValueError(f"expected comma-separated integers, got {value!r}") from None


def to_floats(value: Any) -> Floats:
    """From the text of the command line or a list. Raises ValueError."""
    parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    parts = [parts] if isinstance(parts, (int, float)) else parts
    try:
        numbers = Floats(float(part) for part in parts)
        if any(isinstance(part, bool) for part in parts) or not all(map(math.isfinite, numbers)):
            raise ValueError
        return numbers
    except (TypeError, ValueError):
        raise ValueError(f"expected comma-separated numbers, got {value!r}") from None


def to_strs(value: Any) -> Strs:
    """From one text, a JSON list of them, or a list. Raises ValueError."""
    if isinstance(value, str):
        value = json.loads(value) if value.startswith("[") else [value]
    if not isinstance(value, (list, tuple)) or any(isinstance(v, (dict, list)) for v in value):
        raise ValueError(f"expected a list of texts, got {value!r}")
    return Strs(str(v) for v in value)
