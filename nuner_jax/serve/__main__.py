"""`nuner serve --model M [--port P]`: a page and a JSON API for a model; options as in ServeConfig."""

import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from nuner_jax import cli
from nuner_jax.config import ServeConfig
from nuner_jax.errors import InputError

PROG = "nuner serve"
SECONDS_TO_FINISH = 30
"""Given to requests under way when the service is told to stop."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and serves until SIGTERM or Ctrl-C."""
    config = cli.parse(ServeConfig, argv, prog=PROG)
    cli.run(lambda: serve(config), PROG)


def serve(config: ServeConfig) -> None:
    """Serves; prints one line with the address when it is ready. Raises InputError."""
    for key in ("max_texts", "max_characters", "max_labels", "max_waiting"):
        if getattr(config, key) < 1:
            raise InputError(f"{key} {getattr(config, key)} is not 1 or more")
    try:
        import uvicorn

        from nuner_jax.serve.app import build
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; run: pip install 'nuner-jax[serve]'") from None
    listener = listen(config)  # before the model is loaded: a taken port is told at once
    from nuner_jax import NuNER

    ner = NuNER.from_pretrained(config.model)
    if ner.labels:
        ner.predict(["Warm"])  # compiles the smallest program
    name = Path(config.model).resolve().name if Path(config.model).is_dir() else config.model  # visitors need no paths
    app = build(ner, config, name)
    if not ner.labels and not app.state.zero_shot:
        raise InputError(f"{config.model}: it has no labels of its own and no concept encoder; fit it on examples and save it")
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=SECONDS_TO_FINISH)
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again once everything is finished
        signal.signal(number, lambda *_: sys.exit(0))
    print(f"ready: http://{config.host}:{listener.getsockname()[1]}", flush=True)
    server.run(sockets=[listener])


def listen(config: ServeConfig) -> socket.socket:
    """A bound socket. Raises InputError if the address is taken or not this machine's."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except (OSError, OverflowError) as error:
        raise InputError(f"port: cannot listen on {config.host}:{config.port} ({getattr(error, 'strerror', error)})") from None
    listener.listen(1024)
    return listener


if __name__ == "__main__":
    main()
