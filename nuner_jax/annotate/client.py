"""One request to an OpenAI-compatible server, and what can come of it. The only module of this stage that imports openai.

The SDK's own retries are off: the sender (sender.py) repeats, so that every try is limited, counted and budgeted.
"""

import asyncio
import contextlib
import email.utils
import json
import os
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from nuner_jax.annotate.prompt import render_several
from nuner_jax.config import LlmConfig
from nuner_jax.errors import InputError

ApiError, NotFoundError = openai.OpenAIError, openai.NotFoundError
MAX_BODY_BYTES = 32 << 20


@dataclass(frozen=True)
class Completion:
    """An answer. Token counts are None where the server gave none."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None

    def used(self, prompt_tokens: int) -> tuple[int, int]:
        """Tokens as the server counted them; where it did not, `prompt_tokens` and four characters a token of the reply."""
        completion_tokens = self.completion_tokens
        return self.prompt_tokens or prompt_tokens, len(self.text) // 4 if completion_tokens is None else completion_tokens


@dataclass(frozen=True)
class Retry:
    """No answer this time. `retry_after`: seconds that the server asks to wait; `unreachable`: there was nobody to ask."""

    reason: str
    retry_after: float = 0.0
    unreachable: bool = False


@dataclass(frozen=True)
class Refusal:
    """The server will not answer this input, whatever the number of tries."""

    reason: str


@dataclass(frozen=True)
class Fatal:
    """No request of this run can succeed: wrong key, unknown model, spent quota."""

    reason: str


Outcome = Completion | Retry | Refusal | Fatal


class Client:
    """Sends requests to one server with one model. The API key is read from the environment and shown nowhere."""

    def __init__(self, config: LlmConfig, base_url: str = "") -> None:
        self._config = config
        key = os.environ.get(config.key_env, "")
        self.url = base_url or config.base_url or os.environ.get("OPENAI_BASE_URL", "") or "https://api.openai.com/v1"
        if not key and "api.openai.com" in self.url:
            raise InputError(f"the environment variable {config.key_env} is not set: it must hold the API key for {self.url}")
        if not re.match(r"https?://[^/\s]", self.url):
            raise InputError(f"llm.base_url: {self.url!r} is not an http(s) address")
        self._key = key
        self.has_key = bool(key)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=config.concurrency)
        timeout = openai.Timeout(connect=config.connect_timeout, read=config.read_timeout, write=30.0, pool=None)
        self._openai = openai.AsyncOpenAI(
            api_key=key or "none",  # local servers need none, the SDK insists on one
            base_url=self.url,
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(
                limits=limits, timeout=timeout, base_url=self.url, event_hooks={"response": [_limit_body]}
            ),
        )

    @property
    def files(self) -> Any:
        """The files resource, for batches."""
        return self._openai.files

    @property
    def batches(self) -> Any:
        """The batches resource."""
        return self._openai.batches

    async def close(self) -> None:
        """Closes the connections."""
        await self._openai.close()

    async def ask(self, body: dict[str, Any]) -> Outcome:
        """Sends one request, once: a chat by its `messages`, a plain completion by its `prompt`."""
        try:
            async with asyncio.timeout(self._config.total_timeout):
                # post: what chat.completions.create ends in, without its walk through the types of the body (30 % of the time)
                path = "/completions" if "prompt" in body else "/chat/completions"
                response = await self._openai.post(path, cast_to=httpx2.Response, body=body)
            return read_completion(json.loads(response.content))
        except TimeoutError:
            return Retry(f"no complete reply within {self._config.total_timeout:g} s (llm.total_timeout)")
        except ValueError as error:  # not JSON, or not a completion
            return Retry(f"not a chat completion: {self.clean(str(error))}")
        except openai.OpenAIError as error:
            return self.explain(error)
        except httpx2.HTTPError as error:
            return Retry(f"connection broke ({type(error).__name__})")

    def explain(self, error: openai.OpenAIError) -> Retry | Refusal | Fatal:
        """What an error of the SDK means for this request and for the run."""
        if isinstance(error, openai.APIStatusError):
            return self._explain_status(error)
        if isinstance(error, openai.APITimeoutError):
            unreachable = isinstance(error.__cause__, httpx2.ConnectTimeout)
            silent = f"nothing from the server for {self._config.read_timeout:g} s (llm.read_timeout)"
            return Retry("timed out connecting" if unreachable else silent, unreachable=unreachable)
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            reason = self.clean(str(cause)) or type(cause).__name__
            return Retry(f"connection failed: {reason}", unreachable=isinstance(cause, httpx2.ConnectError))
        return Retry(self.clean(str(error)))

    def _explain_status(self, error: openai.APIStatusError) -> Retry | Refusal | Fatal:
        status, code = error.status_code, str(getattr(error, "code", "") or "")
        message = f"{status} {self.clean(_message(error))}"
        if status == 401 or status == 403:
            hint = "" if self.has_key else f" (the environment variable {self._config.key_env} is not set)"
            return Fatal(f"{self.url} refuses access: {message}{hint}")
        if status == 402 or code == "insufficient_quota":
            return Fatal(f"{self.url}: the account has no credit left: {message}")
        if status == 404:
            return Fatal(f"{self.url} does not have model {self._config.model!r} or no chat completions: {message}")
        if status in (408, 409, 425, 429) or status >= 500:
            return Retry(message, retry_after=retry_after(error.response.headers))
        return Refusal(message)

    def clean(self, text: str) -> str:
        """One line of at most 300 characters, without the key."""
        if self._key:
            text = text.replace(self._key, "***")
        text = re.sub(r"\bsk-[\w*-]{4,}|\bBearer \S+", "***", text)
        return " ".join(text.split())[:300]


def request_body(config: LlmConfig, texts: tuple[str, ...]) -> dict[str, Any]:
    """The JSON body of a request about `texts`; the same for direct sending and for batch files."""
    return {
        "model": config.model,
        "messages": [{"role": "user", "content": render_several(texts)}],
        "temperature": config.temperature,
        config.max_tokens_field: config.max_tokens * len(texts),
        **config.extra_body,
    }


def num_chars(body: dict[str, Any]) -> int:
    """Characters of the text that a request sends."""
    return len(body["prompt"]) if "prompt" in body else sum(len(message["content"]) for message in body["messages"])


FINISH_REASONS = {"max_tokens": "length", "max_output_tokens": "length", "model_length": "length", "safety": "content_filter"}
"""Other servers' words for what OpenAI calls length and content_filter."""


def read_completion(body: Any) -> Completion:
    """The first choice of a chat.completion or text_completion object; ValueError if it has none."""
    try:
        choice = body["choices"][0]
        content = choice["text"] if "text" in choice else _content(choice["message"])
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"no choices in {json.dumps(body)[:200]}") from None
    if not isinstance(content, str | None):
        raise ValueError("the content is not text")
    usage = body.get("usage") or {}
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    prompt_tokens, completion_tokens = (int(n) if isinstance(n, int | float) and n > 0 else None for n in counts)
    text = (content or "").encode("utf8", "replace").decode()  # half a surrogate pair has no place in UTF-8
    reason = str(choice.get("finish_reason") or "").lower()
    return Completion(text, FINISH_REASONS.get(reason, reason), prompt_tokens, completion_tokens)


def _content(message: Any) -> Any:
    """The text of a message: a string, a list of parts, or the words in which the model declines."""
    content = message["content"]
    if isinstance(content, list):
        parts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
        return "".join(parts) if parts else content
    return message.get("refusal") if content is None else content


def retry_after(headers: Any) -> float:
    """Seconds that the server asks to wait: `retry-after-ms`, `retry-after` in seconds or as a date; 0 if it does not say."""
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, float(headers.get("retry-after-ms")) / 1000)
    value = headers.get("retry-after")
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0


def _message(error: openai.APIStatusError) -> str:
    """The server's own words, out of the forms that servers give them."""
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message") if isinstance(inner, dict) else inner
    elif isinstance(body, str) and body.lstrip().startswith("<"):  # a proxy's page
        title = re.search(r"<title>(.*?)</title>", body, re.DOTALL | re.IGNORECASE)
        body = title[1].strip().removeprefix(str(error.status_code)) if title else None
    return str(body or error.response.reason_phrase or "")


class _LimitedStream(httpx2.AsyncByteStream):
    """A response body that breaks off beyond MAX_BODY_BYTES, so that an endless reply cannot fill the memory."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._inner:
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise httpx2.ReadError(f"the reply is larger than {MAX_BODY_BYTES} bytes")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _limit_body(response: httpx2.Response) -> None:
    if response.request.url.path.endswith("/completions"):  # the result of a batch may well be larger
        response.stream = _LimitedStream(response.stream)
