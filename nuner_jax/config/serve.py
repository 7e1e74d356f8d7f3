"""Options of the serve command."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServeConfig:
    """A small web service: a page to try the model, POST /predict, GET /labels, GET /health."""

    model: str = "runs/demo/hf"
    """What NuNER.from_pretrained opens: an exported folder (zero-shot), a folder of NuNER.save (its own labels), or a hub name."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: every interface, for whoever can reach this machine."""
    port: int = 8000
    """Port; 0 takes a free one. The address is printed when the service is ready."""
    max_texts: int = 64
    """Texts in a request."""
    max_characters: int = 100_000
    """Characters in a request, its texts and labels together."""
    max_labels: int = 1000
    """Labels in a request."""
    max_waiting: int = 128
    """Requests that wait for the model; one more is answered with 503."""
