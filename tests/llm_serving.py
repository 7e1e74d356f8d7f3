"""A demo LLM server in a thread, over real HTTP, for the tests of the annotate stage."""

import contextlib
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from nuner_jax.demo import llm_server

DEMO = Path(llm_server.__file__).parent / "data" / "replies.jsonl"


@dataclass
class Served:
    """The address of a running server, and what it counted."""

    url: str

    def debug(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/debug/requests") as response:
            return json.load(response)

    def sent(self) -> dict[str, int]:
        return {text: row["sent"] for text, row in self.debug()["requests"].items()}


@contextlib.contextmanager
def serve(**flags: Any) -> Iterator[Served]:
    """The demo server with these flags."""
    with serve_app(llm_server.app(llm_server.ServerConfig(**flags))) as url:
        yield Served(url + "/v1")


@contextlib.contextmanager
def serve_app(application: Any) -> Iterator[str]:
    """Any ASGI application; gives its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(application, log_level="critical", access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True  # not waiting for connections that are kept alive
        thread.join(5)


def demo_rows(count: int) -> list[dict[str, str]]:
    """The first recorded replies of the demo: {"text", "reply"}."""
    with open(DEMO, encoding="utf8") as file:
        return [json.loads(line) for _, line in zip(range(count), file, strict=False)]


def annotate(*words: object) -> int:
    """Runs the annotate command in this process; its exit status."""
    from nuner_jax.annotate.__main__ import main

    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("the command did not exit")
