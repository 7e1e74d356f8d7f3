"""Options of the annotate stage."""

from dataclasses import dataclass, field
from typing import Any, Literal

from nuner_jax.lists import Strs


@dataclass(frozen=True)
class CorpusConfig:
    """The sentences that are annotated."""

    path: str = "demo"
    """File, glob, prepared TFDS directory, gs:// or other fsspec path, or hub name; demo: the bundled sentences."""
    format: Literal["auto", "c4", "jsonl", "text", "tfds", "hf"] = "auto"
    """auto: by the name of the path."""
    split: Literal["sentences", "none"] = "sentences"
    """none: every text of the corpus is one sentence as it stands."""
    filters: Literal["default", "none"] = "default"
    """default: length, likeness to language, exact and near duplicates, and per_document."""
    per_document: int = 1
    """Sentences taken from one document, chosen by hash; 0: all."""
    limit: int = 0
    """Only the first N sentences that are left; 0: all."""
    seed: int = 0
    """Other seed, other choice of sentences."""
    on_corrupt: Literal["skip", "fail"] = "fail"
    """What happens at a file that cannot be read to its end; skipped ones are named and counted."""


@dataclass(frozen=True)
class ServerConfig:
    """The server, and how it is asked."""

    base_url: str = ""
    """OpenAI-compatible server; empty: $OPENAI_BASE_URL or api.openai.com; demo: the packaged server of recorded replies."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key. Local servers need none."""
    temperature: float = 0.0
    """Sampling temperature."""
    max_tokens: int = 1024
    """Tokens of a reply at most (annotate: for each sentence of the request)."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How the server calls that limit; reasoning models of OpenAI want max_completion_tokens."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """More fields for each request, such as {"seed": 1}."""
    concurrency: int = 32
    """Requests under way at once."""
    requests_per_minute: float = 0
    """0: no limit of ours."""
    tokens_per_minute: float = 0
    """Input and output together; 0: no limit of ours."""
    connect_timeout: float = 10.0
    """Seconds until a connection must stand. A server that nobody has reached by then ends the run."""
    read_timeout: float = 180.0
    """Seconds without a byte from the server."""
    total_timeout: float = 180.0
    """Seconds for one request from first to last."""
    max_tries: int = 20
    """Sendings of one request that meet errors (429, 5xx, time-outs, broken connections) before it is left to the next run."""
    max_bad_replies: int = 8
    """Replies of one request that are empty, garbled, oversized or cut before the best of them is kept. Each is paid: a server that
    garbles at random needs several, for a model that always does so a lower number saves money."""
    price_in: float | None = None
    """Dollars per million input tokens; none: from the table of genai-prices."""
    price_out: float | None = None
    """Dollars per million output tokens."""


@dataclass(frozen=True)
class LlmConfig(ServerConfig):
    """The server, the model, and how it is asked."""

    model: str = "gpt-4o-mini"
    """Model name as the server knows it."""
    sentences_per_request: int = 1
    """More than 1 saves prompt tokens and costs some quality."""


@dataclass(frozen=True)
class BudgetConfig:
    """Limits on everything ever paid with one ledger, checked before each request."""

    usd: float | None = None
    """Dollars; none: no limit."""
    tokens: int | None = None
    """Tokens, input and output together; none: no limit."""


@dataclass(frozen=True)
class BatchConfig:
    """The Batch API: files of requests, answered within a day at a discount."""

    max_requests: int = 50_000
    """Requests in a file at most."""
    max_bytes: int = 200_000_000
    """Bytes of a file at most."""
    discount: float = 0.5
    """Price of a batched request as a share of a direct one's."""
    poll_seconds: float = 0.0
    """batch poll: ask again every so many seconds until all batches have ended; 0: ask once."""


@dataclass(frozen=True)
class AnnotateConfig:
    """Text to annotated sentences: an LLM labels every sentence with open concepts; a ledger keeps every paid reply.

    Also `annotate parse` (the annotations anew from stored replies, at no price) and `annotate batch submit|poll|merge|files` (the Batch
    API, or files for an offline runner), with the same options.
    """

    corpus: CorpusConfig = CorpusConfig()
    llm: LlmConfig = LlmConfig()
    budget: BudgetConfig = BudgetConfig()
    batch: BatchConfig = BatchConfig()
    out: str = "annotated"
    """Directory for ledger.sqlite, annotations-*.jsonl, report.md and config.yaml. The same command again resumes."""
    dry_run: bool = False
    """Print the forecast for the whole corpus; send and write nothing."""
    results: Strs = Strs()
    """batch merge: result files of an offline runner."""
