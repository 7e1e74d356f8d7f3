"""An OpenAI-compatible server that answers recorded replies, with seeded faults on request: no account, no network, no model.

    python -m nuner_jax.demo.llm_server --replies replies.jsonl --port 0

The reply is a function of the request. Chat completions, models, files and batches are served under /v1; /debug/requests tells
how often each input was sent and answered, so that a client can be shown to pay for nothing twice.
"""

import asyncio
import hashlib
import json
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nuner_jax import cli
from nuner_jax.demo.llm_replies import Replies, load_replies, message_of, name_of
from nuner_jax.errors import InputError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PROG = "python -m nuner_jax.demo.llm_server"
FAULTS = ("rate_limit", "server_error", "hang", "drop", "cut", "empty", "garbled", "huge")


@dataclass(frozen=True)
class ServerConfig:
    """A local server for the OpenAI protocol that answers recorded replies, with faults on request."""

    replies: str = ""
    """JSON lines of {"text", "reply"}, optionally "type", "finish_reason", "status"; empty: the demo's; others get one by rule."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8765
    """Port; 0 takes a free one. Printed when the server is ready."""
    models: str = ""
    """Comma-separated names that exist, any other is a 404; empty: every name does."""
    key: str = ""
    """API key that requests must carry; empty: none."""
    latency: float = 0.0
    """Seconds before each reply."""
    faults: str = ""
    """Share of requests hit, as kind=share,...: rate_limit, server_error, hang, drop, cut, empty, garbled, huge."""
    seed: int = 0
    """Which requests the faults hit: a function of seed, input and how often the input was sent before."""
    retry_after: float = 1.0
    """Seconds that a rate_limit fault asks the client to wait."""
    hang_seconds: float = 30.0
    """How long a hang fault keeps the client waiting before it drops the connection."""
    batch_outcomes: str = "completed"
    """Ends of the batches in order, the last one repeats: completed, partial, expired, errors, failed, cancelled."""
    batch_seconds: float = 0.0
    """How long a batch takes."""
    stop_with_stdin: bool = False
    """Exit when standard input closes: a parent that dies takes the server along."""


def parse_faults(text: str) -> dict[str, float]:
    """`"drop=0.1,cut=0.05"` as shares by kind. Raises InputError."""
    shares: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        kind, _, share = part.partition("=")
        try:
            shares[kind.strip()] = float(share)
        except ValueError:
            raise InputError(f"faults: {part!r} is not of the form kind=share") from None
    unknown = set(shares) - set(FAULTS)
    if unknown or any(not 0 <= s <= 1 for s in shares.values()) or sum(shares.values()) > 1:
        raise InputError(f"faults: shares of {', '.join(FAULTS)} that add up to 1 at most, got {text!r}")
    return shares


def uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts only."""
    digest = hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def tokens(text: str) -> int:
    """About as many tokens as a byte-pair tokenizer would count."""
    return math.ceil(len(text) / 4)


def spoil(kind: str, reply: str, chance: float) -> tuple[str, str]:
    """The reply as a fault leaves it, and its finish_reason."""
    if kind == "cut":
        return reply[: max(1, int(len(reply) * (0.1 + 0.8 * chance)))], "length"
    if kind == "empty":
        return "", "stop"
    if kind == "garbled":
        return "".join(chr(0x20 + int(uniform(chance, i) * 0x250)) for i in range(len(reply))), "stop"
    if kind == "huge":
        return (reply + "\n") * (1 + 400_000 // (len(reply) + 1)), "stop"
    return reply, "stop"


@dataclass
class Server:
    """What the server knows: recorded replies, counts by input, files and batches."""

    config: ServerConfig
    replies: Replies
    shares: dict[str, float]
    sent: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    faulted: Counter[str] = field(default_factory=Counter)
    too_early: int = 0
    not_before: dict[str, float] = field(default_factory=dict)
    files: dict[str, tuple[dict[str, Any], bytes]] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)

    def fault(self, text: str) -> tuple[str, float]:
        """Which fault this sending of the text meets ("" for none), and a chance for its shape."""
        chance = uniform(self.config.seed, text, self.sent[text])
        edge = 0.0
        for kind, share in self.shares.items():
            if chance < edge + share:
                return kind, (chance - edge) / share
            edge += share
        return "", chance

    def refusal(self, model: object, authorization: str) -> tuple[int, str, str] | None:
        """(status, code, message) for a wrong key or model, else None."""
        if self.config.key and authorization != f"Bearer {self.config.key}":
            return 401, "invalid_api_key", "Incorrect API key provided."
        names = [name for name in self.config.models.split(",") if name]
        if names and model not in names:
            return 404, "model_not_found", f"The model `{model}` does not exist or you do not have access to it."
        return None

    def completion(self, body: dict[str, Any], kind: str = "", chance: float = 0.0) -> dict[str, Any]:
        """The completion object for a request body; max_tokens cuts as a model's does."""
        message = message_of(body)
        script = self.replies.to(message)
        reply, finish_reason = spoil(kind, script.reply, chance)
        finish_reason = script.finish_reason if finish_reason == "stop" else finish_reason
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 0
        if limit and kind != "huge" and tokens(reply) > limit:
            reply, finish_reason = reply[: 4 * limit], "length"
        prompt_tokens, completion_tokens = tokens(message), tokens(reply)
        content = {"text": reply} if "prompt" in body else {"message": {"role": "assistant", "content": reply}}
        return {
            "id": "chatcmpl-" + hashlib.blake2b(message.encode(), digest_size=12).hexdigest(),
            "object": "text_completion" if "prompt" in body else "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [{"index": 0, **content, "finish_reason": finish_reason, "logprobs": None}],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }


def error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> "Response":
    """An error in the protocol's form."""
    from starlette.responses import JSONResponse

    kind = "invalid_request_error" if status < 429 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status, headers)


async def chat(server: Server, request: "Request") -> "Response":
    """POST /v1/chat/completions and /v1/completions."""
    from starlette.responses import JSONResponse, StreamingResponse

    try:
        body = json.loads(await request.body())
        message = message_of(body)
        text = name_of(message)
    except (ValueError, KeyError, IndexError, TypeError):
        return error(400, "invalid_json", "We could not parse the request's JSON body: messages are missing.")
    refused = server.refusal(body.get("model"), request.headers.get("authorization", ""))
    if refused:
        return error(*refused)
    if time.monotonic() < server.not_before.pop(text, 0.0):
        server.too_early += 1
    kind, chance = server.fault(text)
    server.sent[text] += 1
    if kind:
        server.faulted[kind] += 1
    if server.config.latency:
        await asyncio.sleep(server.config.latency)
    if kind == "rate_limit":
        wait = server.config.retry_after
        server.not_before[text] = time.monotonic() + wait
        return error(429, "rate_limit_exceeded", "Rate limit reached.", {"retry-after": f"{wait:g}"})
    if kind == "server_error":
        return error(500, "internal_error", "The server had an error while processing your request.")
    if kind == "hang":
        await asyncio.sleep(server.config.hang_seconds)
    if kind in ("hang", "drop"):  # less than the announced length: the server closes the connection
        return StreamingResponse(iter([b"{"]), headers={"content-length": "1000", "content-type": "application/json"})
    if not kind:
        if status := server.replies.to(message).status:
            return error(status, "refused", server.replies.to(message).reply)
        server.answered[text] += 1
    return JSONResponse(server.completion(body, kind, chance))


async def models(server: Server, request: "Request") -> "Response":
    """GET /v1/models."""
    from starlette.responses import JSONResponse

    names = server.config.models.split(",") if server.config.models else ["recorded"]
    del request
    return JSONResponse({"object": "list", "data": [{"id": n, "object": "model", "owned_by": "nuner"} for n in names]})


async def debug(server: Server, request: "Request") -> "Response":
    """GET /debug/requests."""
    from starlette.responses import JSONResponse

    del request
    counts = {text: {"sent": n, "answered": server.answered[text]} for text, n in server.sent.items()}
    return JSONResponse({"too_early": server.too_early, "faults": dict(server.faulted), "requests": counts})


def app(config: ServerConfig) -> "Starlette":
    """The ASGI application. Raises InputError on a bad config or replies file."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    from nuner_jax.demo import llm_batches

    server = Server(config, Replies(load_replies(config.replies)), parse_faults(config.faults))
    llm_batches.check_outcomes(config.batch_outcomes)

    def route(path: str, handler: Any, method: str) -> Route:
        async def endpoint(request: "Request") -> "Response":
            return await handler(server, request)

        return Route(path, endpoint, methods=[method])

    return Starlette(
        routes=[
            route("/v1/chat/completions", chat, "POST"),
            route("/v1/completions", chat, "POST"),
            route("/v1/models", models, "GET"),
            route("/debug/requests", debug, "GET"),
            *(route(*entry) for entry in llm_batches.ROUTES),
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Serves until stopped; prints one line with the address when it is ready."""
    config = cli.parse(ServerConfig, argv, prog=PROG)
    cli.run(lambda: serve(config), PROG)


def serve(config: ServerConfig) -> None:
    """Serves until stopped. Raises InputError if the port is taken."""
    import socket

    import uvicorn

    application = app(config)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as problem:
        raise InputError(f"port: cannot listen on {config.host}:{config.port} ({problem.strerror})") from None
    listener.listen(1024)  # connections wait here until the loop runs, so the line below is true
    server = uvicorn.Server(uvicorn.Config(application, log_level="critical", access_log=False, timeout_graceful_shutdown=1))
    if config.stop_with_stdin:

        def watch() -> None:
            sys.stdin.read()
            server.should_exit = True

        threading.Thread(target=watch, daemon=True).start()
    print(f"ready: http://{config.host}:{listener.getsockname()[1]}/v1", flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
