"""The service's routes, limits and error lines. Offsets in answers count Unicode characters, as Python does."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictStr
from starlette.exceptions import HTTPException as AnyHTTPException

from nuner_jax import __version__
from nuner_jax.config import ServeConfig
from nuner_jax.errors import InputError
from nuner_jax.serve.worker import Busy, Job, Worker

JSON_BYTES = 12  # of a character in JSON at most: two \uXXXX
OVERHEAD = 100_000  # bytes of a request beside its characters: quotes, commas, blanks
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


def _unicode(text: str) -> str:
    """The text, unless half of a surrogate pair stands in it, which no tokenizer reads. Raises ValueError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("has half of a surrogate pair, which is not valid Unicode") from None
    return text


Text = Annotated[StrictStr, AfterValidator(_unicode)]


class PredictRequest(BaseModel):
    """The body of POST /predict."""

    model_config = ConfigDict(extra="forbid")
    texts: list[Text]
    labels: list[Text] | dict[Text, Text] | None = None
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    flat: StrictBool = True


def build(ner: Any, config: ServeConfig, name: str) -> FastAPI:
    """The service around a NuNER (or what has its predict, labels and concepts)."""
    worker = Worker(ner, config.max_waiting, config.max_texts)
    labels, zero_shot = list(ner.labels), has_concepts(ner)
    page = (files("nuner_jax.serve") / "page.html").read_text(encoding="utf8")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    app = FastAPI(title="nuner_jax", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, max_bytes=JSON_BYTES * config.max_characters + OVERHEAD)
    app.state.zero_shot = zero_shot
    for kind, handler in ((RequestValidationError, _invalid), (AnyHTTPException, _refused), (Exception, _failed)):
        app.add_exception_handler(kind, handler)

    @app.get("/", response_class=HTMLResponse)
    async def home() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": name, "version": __version__, "waiting": worker.waiting}

    @app.get("/labels")
    async def known() -> dict[str, Any]:
        return {"labels": labels, "zero_shot": zero_shot}

    @app.post("/predict")
    async def predict(body: PredictRequest) -> Any:
        problem = excess(body, config)
        if problem:
            return failure(413, problem)
        if not body.texts:
            return {"entities": []}
        if not labels and not body.labels:
            return failure(422, 'labels: this model has none of its own; name some, as in ["dish", "city"]')
        try:
            future = worker.submit(Job(body.texts, body.labels or None, body.threshold, body.flat))
            found = await asyncio.wrap_future(future)
        except Busy:
            return failure(503, f"busy: {config.max_waiting} requests are waiting; try again", {"Retry-After": "1"})
        except InputError as error:
            return failure(422, str(error))
        return JSONResponse({"entities": [[dataclasses.asdict(entity) for entity in of_text] for of_text in found]})

    return app


def has_concepts(ner: Any) -> bool:
    """Whether labels can be named freely."""
    try:
        return ner.concepts is not None
    except InputError:
        return False


def excess(body: PredictRequest, config: ServeConfig) -> str:
    """What of the request is too large, in one line; empty if nothing is."""
    labels = body.labels or []
    told = [*labels, *(labels.values() if isinstance(labels, dict) else [])]
    characters = sum(map(len, body.texts)) + sum(map(len, told))
    for count, most, what in (
        (len(body.texts), config.max_texts, "texts"),
        (len(labels), config.max_labels, "labels"),
        (characters, config.max_characters, "characters"),
    ):
        if count > most:
            return f"{count:,} {what} are too many: a request may have {most:,}"
    return ""


def failure(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """{"error": one line}."""
    return JSONResponse({"error": " ".join(message.split())}, status, headers)


async def _refused(_: Request, error: Any) -> JSONResponse:
    """No such page, no such method, too large."""
    return failure(error.status_code, str(error.detail))


async def _failed(_: Request, error: Exception) -> JSONResponse:
    """A fault of ours; the traceback goes to the log."""
    return failure(500, "the prediction failed; the log of the service says why")


async def _invalid(request: Request, error: Any) -> JSONResponse:
    """What is wrong with the first wrong field, in words."""
    if "json" not in request.headers.get("content-type", ""):
        return failure(415, "Content-Type has to be application/json")
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return failure(400, f"the body is not valid JSON ({first.get('ctx', {}).get('error', 'broken')})")
    place = [str(part) for part in first["loc"][1:]]
    if not place:
        return failure(422, 'the body has to be a JSON object, as in {"texts": ["..."], "labels": ["dish"]}')
    if place[0] == "labels":
        return failure(422, "labels: expected a list of names, or an object of names and descriptions")
    said = {"missing": "is missing", "extra_forbidden": "is not a field; there are texts, labels, threshold, flat"}
    what = said.get(
        first["type"], first["msg"].removeprefix("Input ").removeprefix("Value error, ").replace("should be", "has to be")
    )
    return failure(422, f"{'.'.join(place)} {what}")


class BodyLimit:
    """Refuses a request whose body is longer than `max_bytes` before it is read into memory."""

    def __init__(self, app: Any, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """An ASGI application around another."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refusal = failure(413, f"the request is too large: its body may have {self.max_bytes:,} bytes", {"Connection": "close"})
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.max_bytes:
            return await refusal(scope, receive, send)
        read = 0

        async def counted() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.max_bytes:
                raise HTTPException(413, f"the request is too large: its body may have {self.max_bytes:,} bytes")
            return message

        return await self.app(scope, counted, send)
