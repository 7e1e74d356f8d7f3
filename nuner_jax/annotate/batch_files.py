"""Files of requests as the Batch API and `vllm run-batch` read them, and the files of results that come back."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nuner_jax.annotate.client import Completion, read_completion, request_body
from nuner_jax.annotate.records import Request
from nuner_jax.config import LlmConfig
from nuner_jax.errors import InputError
from nuner_jax.schema import read_json_lines

ENDPOINT = "/v1/chat/completions"


class Result(NamedTuple):
    """One line of a result file: a completion, or why there is none. `final`: this input will never be answered."""

    line: int
    key: str
    completion: Completion | None
    problem: str = ""
    final: bool = False


def request_line(config: LlmConfig, request: Request) -> bytes:
    """A request in the form of a batch input file; its key comes back as custom_id."""
    row = {"custom_id": request.key, "method": "POST", "url": ENDPOINT, "body": request_body(config, request.texts)}
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def fill(lines: Iterable[tuple[Request, bytes]], max_requests: int, max_bytes: int) -> Iterator[tuple[list[Request], bytes]]:
    """Lines packed into files within the limits, in order: (its requests, its content). Holds one file in memory."""
    requests: list[Request] = []
    parts: list[bytes] = []
    size = 0
    for request, line in lines:
        if len(line) > max_bytes:
            raise InputError(f"batch.max_bytes: one request has {len(line)} bytes, a file may have {max_bytes}")
        if requests and (len(requests) == max_requests or size + len(line) > max_bytes):
            yield requests, b"".join(parts)
            requests, parts, size = [], [], 0
        requests.append(request)
        parts.append(line)
        size += len(line)
    if requests:
        yield requests, b"".join(parts)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def read_results(path: Path) -> Iterator[Result]:
    """The lines of an output or error file, OpenAI's or vLLM's. Raises InputError with file and line."""
    for number, row in read_json_lines(path):
        if not isinstance(row, dict) or not isinstance(row.get("custom_id"), str):
            raise InputError(f"{path}, line {number}: not a batch result (it has no custom_id)")
        yield _result(number, row)


def _result(number: int, row: dict[str, Any]) -> Result:
    key, response, error = row["custom_id"], row.get("response") or {}, row.get("error")
    if error or not isinstance(response, dict) or not response:
        return Result(number, key, None, _words(error) or "no response")
    status, body = response.get("status_code", 200), response.get("body")
    if status != 200:
        inner = body.get("error", body) if isinstance(body, dict) else body
        final = isinstance(status, int) and 400 <= status < 500 and status not in (401, 403, 404, 408, 409, 425, 429)
        return Result(number, key, None, f"{status} {_words(inner)}".strip(), final)
    try:
        return Result(number, key, read_completion(body))
    except ValueError as problem:
        return Result(number, key, None, str(problem))


def _words(error: Any) -> str:
    if isinstance(error, dict):
        error = error.get("message") or error.get("code") or json.dumps(error)
    return " ".join(str(error or "").split())[:200]


def digest(path: Path) -> str:
    """What a file of results is known by. Raises InputError."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
