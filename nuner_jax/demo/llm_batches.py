"""The files and batches half of the demo server: upload, create, retrieve, cancel, download, with every way a batch can end."""

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

from nuner_jax.demo.llm_replies import name_of
from nuner_jax.demo.llm_server import error
from nuner_jax.errors import InputError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from nuner_jax.demo.llm_server import Server

OUTCOMES = ("completed", "partial", "expired", "errors", "failed", "cancelled")
MAX_REQUESTS, MAX_BYTES = 50_000, 200_000_000


def check_outcomes(text: str) -> None:
    """Raises InputError unless the text is a comma-separated list of outcomes."""
    if not text or set(text.split(",")) - set(OUTCOMES):
        raise InputError(f"batch_outcomes: a comma-separated list of {', '.join(OUTCOMES)}, got {text!r}")


def _add_file(server: "Server", name: str, purpose: str, content: bytes) -> dict[str, Any]:
    number = len(server.files)
    record = {"id": f"file-{number:04d}", "object": "file", "bytes": len(content), "created_at": int(time.time())}
    record |= {"filename": name, "purpose": purpose, "status": "processed"}
    server.files[str(record["id"])] = (record, content)
    return record


async def upload(server: "Server", request: "Request") -> "Response":
    """POST /v1/files."""
    from starlette.datastructures import UploadFile
    from starlette.responses import JSONResponse

    form = await request.form(max_part_size=MAX_BYTES)
    file = form.get("file")
    if not isinstance(file, UploadFile):
        return error(400, "missing_file", "The form has no file.")
    content = await file.read()
    if len(content) > MAX_BYTES:
        return error(400, "file_too_large", f"The file has {len(content)} bytes; the limit is {MAX_BYTES}.")
    return JSONResponse(_add_file(server, file.filename or "upload", str(form.get("purpose")), content))


async def file_content(server: "Server", request: "Request") -> "Response":
    """GET /v1/files/{id}/content."""
    from starlette.responses import Response

    found = server.files.get(request.path_params["id"])
    return Response(found[1], media_type="application/octet-stream") if found else error(404, "not_found", "No such file.")


def _run(server: "Server", content: bytes, outcome: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Output and error lines of a batch. Of a partial one a third has failed; an expired or cancelled one is half done."""
    done, failed = [], []
    lines = content.decode().splitlines()
    for number, line in enumerate(lines):
        row = json.loads(line)
        result = {"id": f"batch_req_{number}", "custom_id": row["custom_id"], "response": None, "error": None}
        if outcome in ("expired", "cancelled") and number >= len(lines) // 2:
            code = "batch_expired" if outcome == "expired" else "batch_cancelled"
            failed.append(result | {"error": {"code": code, "message": "This request was not run before the batch ended."}})
        elif outcome == "errors" or (outcome == "partial" and number % 3 == 0):
            body = {"error": {"message": "The server had an error.", "type": "server_error", "code": "internal_error"}}
            failed.append(result | {"response": {"status_code": 500, "request_id": "", "body": body}})
        else:
            text = name_of(row["body"]["messages"][-1]["content"])
            server.sent[text] += 1
            server.answered[text] += 1
            done.append(result | {"response": {"status_code": 200, "request_id": "", "body": server.completion(row["body"])}})
    return done, failed


def _problem(content: bytes) -> str:
    """What is wrong with a batch's input file; "" if nothing."""
    try:
        rows = [json.loads(line) for line in content.splitlines()]
        ids = {row["custom_id"] for row in rows if (row["method"], row["url"]) == ("POST", "/v1/chat/completions")}
    except (ValueError, KeyError, TypeError):
        return "A line is not a request."
    if not 0 < len(rows) <= MAX_REQUESTS:
        return f"The file has {len(rows)} requests; 1 to {MAX_REQUESTS} are allowed."
    return "" if len(ids) == len(rows) else "A line is no chat completion, or a custom_id comes twice."


async def create(server: "Server", request: "Request") -> "Response":
    """POST /v1/batches."""
    from starlette.responses import JSONResponse

    body = json.loads(await request.body())
    if body.get("input_file_id") not in server.files:
        return error(400, "invalid_file", "No such input file.")
    number = len(server.batches)
    identity = "batch_" + hashlib.blake2b(f"{number}".encode(), digest_size=8).hexdigest()
    batch = {"id": identity, "object": "batch", "endpoint": body.get("endpoint"), "input_file_id": body["input_file_id"]}
    batch |= {"completion_window": body.get("completion_window"), "created_at": int(time.time()), "status": "validating"}
    batch |= {"metadata": body.get("metadata"), "output_file_id": None, "error_file_id": None, "errors": None}
    batch["request_counts"] = {"total": 0, "completed": 0, "failed": 0}
    outcomes = server.config.batch_outcomes.split(",")
    batch["_end"] = (time.monotonic() + server.config.batch_seconds, outcomes[min(number, len(outcomes) - 1)])
    server.batches[identity] = batch
    return JSONResponse(_public(batch))


def _public(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in batch.items() if key != "_end"}


def _advance(server: "Server", batch: dict[str, Any]) -> None:
    """Takes a batch on by one state: validating, in_progress, finalizing, then how it ends."""
    when, outcome = batch["_end"]
    content = server.files[batch["input_file_id"]][1]
    if batch["status"] == "validating":
        problem = "The batch was refused." if outcome == "failed" else _problem(content)
        if problem:
            batch |= {"status": "failed", "errors": {"object": "list", "data": [{"code": "invalid", "message": problem}]}}
        else:
            batch["status"] = "in_progress"
            batch["request_counts"]["total"] = len(content.splitlines())
    elif batch["status"] == "in_progress" and time.monotonic() >= when:
        batch["status"] = "finalizing"
    elif batch["status"] == "finalizing":
        done, failed = _run(server, content, outcome)
        for key, rows in (("output_file_id", done), ("error_file_id", failed)):
            if rows:
                text = "".join(json.dumps(row) + "\n" for row in rows)
                batch[key] = _add_file(server, f"{batch['id']}_{key}.jsonl", "batch_output", text.encode())["id"]
        batch["request_counts"] |= {"completed": len(done), "failed": len(failed)}
        batch["status"] = outcome if outcome in ("expired", "cancelled") else "completed"


async def retrieve(server: "Server", request: "Request") -> "Response":
    """GET /v1/batches/{id}."""
    from starlette.responses import JSONResponse

    batch = server.batches.get(request.path_params["id"])
    if batch is None:
        return error(404, "not_found", "No such batch.")
    _advance(server, batch)
    return JSONResponse(_public(batch))


async def list_batches(server: "Server", request: "Request") -> "Response":
    """GET /v1/batches, newest first."""
    from starlette.responses import JSONResponse

    newest = [_public(batch) for batch in reversed(server.batches.values())]
    after = request.query_params.get("after")
    if after:
        newest = newest[[b["id"] for b in newest].index(after) + 1 :]
    page = newest[: int(request.query_params.get("limit", 20))]
    return JSONResponse({"object": "list", "data": page, "has_more": len(page) < len(newest)})


async def cancel(server: "Server", request: "Request") -> "Response":
    """POST /v1/batches/{id}/cancel."""
    from starlette.responses import JSONResponse

    batch = server.batches.get(request.path_params["id"])
    if batch is None:
        return error(404, "not_found", "No such batch.")
    if batch["status"] in ("validating", "in_progress"):
        batch |= {"status": "finalizing", "_end": (0.0, "cancelled")}
    return JSONResponse(_public(batch))


ROUTES = (
    ("/v1/files", upload, "POST"),
    ("/v1/files/{id}/content", file_content, "GET"),
    ("/v1/batches", create, "POST"),
    ("/v1/batches", list_batches, "GET"),
    ("/v1/batches/{id}", retrieve, "GET"),
    ("/v1/batches/{id}/cancel", cancel, "POST"),
)
