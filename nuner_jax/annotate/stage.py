"""The annotate stage: corpus to ledger, ledger to server and back, replies to annotated sentences and a report."""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import yaml

from nuner_jax import cli
from nuner_jax.annotate import annotations, filters, prompt, report
from nuner_jax.annotate.batch_table import BatchTable
from nuner_jax.annotate.budget import Budget, dollars, price_of
from nuner_jax.annotate.client import Client
from nuner_jax.annotate.corpus import list_files, read_corpus
from nuner_jax.annotate.ledger import Ledger
from nuner_jax.annotate.progress import Progress
from nuner_jax.annotate.records import Sentence, Terms
from nuner_jax.annotate.scan import scan
from nuner_jax.annotate.sender import Manner, Sender
from nuner_jax.config import AnnotateConfig
from nuner_jax.demo.llm_process import demo_server
from nuner_jax.errors import InputError, Preempted

SAY_EVERY_SECONDS = 10.0
TAKEN = ("document: read", "sentence: taken")
"""Counts of the corpus reader that are not drops."""
POSITIVE = ("llm.max_tokens", "llm.sentences_per_request", "llm.concurrency", "llm.max_tries", "llm.max_bad_replies")
POSITIVE += ("llm.connect_timeout", "llm.read_timeout", "llm.total_timeout", "batch.max_requests", "batch.max_bytes")
NOT_NEGATIVE = ("corpus.limit", "corpus.per_document", "llm.requests_per_minute", "llm.tokens_per_minute", "llm.price_in")
NOT_NEGATIVE += ("llm.price_out", "budget.usd", "budget.tokens", "batch.discount", "batch.poll_seconds")


def annotate(config: AnnotateConfig) -> int:
    """`python -m nuner_jax.annotate`: everything that is still to be done for this config. Returns the exit status."""
    check(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopped_by_sigterm())
        if config.dry_run:
            from nuner_jax.annotate.forecast import dry_run  # it reads the corpus as this module does

            dry_run(config)
            return 0

        def connect() -> Client:
            return Client(config.llm, stack.enter_context(demo_server()) if config.llm.base_url == "demo" else "")

        # Before the corpus is read, so that a missing key is told at once; but where nothing is left to do, none is needed.
        client = None if (Path(config.out) / "ledger.sqlite").exists() else connect()
        ledger = stack.enter_context(open_ledger(config))
        if client is None and (not is_read(ledger, config) or waiting(ledger)):
            client = connect()
        read(ledger, config)
        sender = send(ledger, client, config) if client is not None and waiting(ledger) else None
        finish(ledger, Path(config.out))
        return conclude(ledger, sender, config)


def parse(config: AnnotateConfig) -> int:
    """`annotate parse`: the annotations once more from the stored replies; sends nothing."""
    path = Path(config.out) / "ledger.sqlite"
    if not path.is_file():
        raise InputError(f"out: there is no ledger {path}")
    with stopped_by_sigterm(), Ledger(path) as ledger:
        finish(ledger, path.parent)
    return 0


def check(config: AnnotateConfig) -> None:
    """Raises InputError for values that no run could use."""
    llm = config.llm
    for key in (*POSITIVE, *NOT_NEGATIVE):
        value = attrgetter(key)(config)
        if value is not None and (value < 0 or (value == 0 and key in POSITIVE)):
            raise InputError(f"{key}: must {'be above 0' if key in POSITIVE else 'not be below 0'}, got {value}")
    if not -(2**63) <= config.corpus.seed < 2**63:
        raise InputError(f"corpus.seed: {config.corpus.seed} does not fit in 64 bits")
    if not llm.model:
        raise InputError("llm.model: name a model")
    taken = {"model", "messages", "temperature", "max_tokens", "max_completion_tokens", "stream", "n"} & set(llm.extra_body)
    Budget(price_of(llm.model, llm.price_in, llm.price_out), config.budget.usd)
    if taken:
        raise InputError(f"llm.extra_body: {', '.join(sorted(taken))} cannot be set there")


def terms_of(config: AnnotateConfig) -> Terms:
    """What the replies depend on besides the sentences."""
    llm = config.llm
    params = {"temperature": llm.temperature, "max_tokens": llm.max_tokens, **llm.extra_body}
    return Terms(llm.model, prompt.version(llm.sentences_per_request), json.dumps(params, sort_keys=True))


def open_ledger(config: AnnotateConfig) -> Ledger:
    """The ledger of the run's directory, with the resolved config beside it."""
    out = Path(config.out)
    ledger = Ledger(out / "ledger.sqlite")
    try:
        partial = out / "config.yaml.partial"
        partial.write_text(yaml.safe_dump(cli.as_dict(config), sort_keys=False, allow_unicode=True), encoding="utf8")
        os.replace(partial, out / "config.yaml")
    except OSError as error:
        ledger.close()
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    return ledger


# The corpus


def sentences_of(config: AnnotateConfig, counts: Counter[str]) -> Iterator[Sentence]:
    """The sentences of the corpus that are to be annotated; says how far it is now and then."""
    corpus = config.corpus
    documents = read_corpus(corpus.path, counts, corpus.format, corpus.on_corrupt)
    selected = filters.select(
        documents,
        counts,
        split=corpus.split == "sentences",
        filters=corpus.filters == "default",
        per_document=corpus.per_document,
        limit=corpus.limit,
        seed=corpus.seed,
    )
    last = time.monotonic()
    for number, sentence in enumerate(selected, start=1):
        yield sentence
        if time.monotonic() - last > SAY_EVERY_SECONDS:
            last = time.monotonic()
            say(f"reading the corpus: {number} sentences")


def read(ledger: Ledger, config: AnnotateConfig) -> None:
    """Reads the corpus into the ledger, unless the very same one has been read to its end before."""
    if is_read(ledger, config):
        return
    ledger.set_note("corpus", "{}")  # should this reading break off, no earlier one stands for it
    counts: Counter[str] = Counter()
    found = scan(ledger, sentences_of(config, counts), terms_of(config), config.llm.sentences_per_request)
    if not found["sentences"]:
        reasons = ", ".join(f"{name} {n}" for name, n in sorted((counts + found).items())) or "it is empty"
        raise InputError(f"corpus.path {config.corpus.path}: no sentence to annotate ({reasons})")
    facts = {"path": config.corpus.path, "fingerprint": fingerprint(config), "counts": counts, "found": found}
    ledger.set_note("corpus", json.dumps(facts))


def is_read(ledger: Ledger, config: AnnotateConfig) -> bool:
    """Whether the ledger's last scan was of this very corpus, to its end."""
    return json.loads(ledger.note("corpus") or "{}").get("fingerprint") == fingerprint(config)


def fingerprint(config: AnnotateConfig) -> str:
    """Changes whenever the sentences may: with the options, the files (by size and time), the prompt and the parameters."""
    path = config.corpus.path.partition("#")[0]
    files: list[str] = []
    if os.path.isdir(path):
        files = sorted(str(file) for file in Path(path).rglob("*") if file.is_file())
    elif "://" not in path and (os.path.exists(path) or any(mark in path for mark in "*?[")):
        files = list_files(path)
    stamps = [(file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    facts = [dataclasses.asdict(config.corpus), terms_of(config).key(""), config.llm.sentences_per_request, stamps]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


# The server


def budget_of(ledger: Ledger, config: AnnotateConfig, share: float = 1.0) -> Budget:
    """The budget with everything in it that was ever paid with this ledger, and what batches under way will cost; prices at a
    share of the list's."""
    price = price_of(config.llm.model, config.llm.price_in, config.llm.price_out)
    usd, *tokens = ledger.spent()
    batches = BatchTable(ledger).rows()
    usd += sum(batch["cost"] or 0.0 for batch in batches)
    reserved = sum(batch["tokens"] or 0 for batch in batches)
    return Budget(price and price.times(share), config.budget.usd, config.budget.tokens, usd, sum(tokens) + reserved)


def waiting(ledger: Ledger) -> int:
    """Requests of the last scan that are to be sent, or whose reply nobody has looked at."""
    states = ledger.states()
    return states["pending"] + states["received"]


def send(ledger: Ledger, client: Client, config: AnnotateConfig, manner: Manner | None = None) -> Sender:
    """Sends what is pending."""
    states = ledger.states()
    total = sum(states.values()) - states["batched"]
    budget = budget_of(ledger, config)
    progress = Progress(total, total - waiting(ledger), budget)
    sender = Sender(config.llm, client, ledger, budget, progress, manner)

    async def run() -> None:
        try:
            await sender.run()
        finally:
            progress.close()
            await client.close()

    try:
        asyncio.run(run())
    finally:
        say(progress.line())
    return sender


# The end


def finish(ledger: Ledger, out: Path) -> None:
    """Writes annotations-*.jsonl and the report from what the ledger holds. Raises InputError if the last reading broke off."""
    corpus = json.loads(ledger.note("corpus") or "{}")
    if not corpus:
        raise InputError(f"{out}: the corpus has not been read to its end; annotate and batch submit read it once more")
    dropped = Counter({name: n for name, n in corpus["counts"].items() if name not in TAKEN})
    dropped.update({f"sentence: {name}": corpus["found"].get(name, 0) for name in ("repeated", "not_unicode")})
    statistics = report.Statistics()
    annotations.write(statistics.watch(annotations.records(ledger, dropped)), out, ledger.num_answered())
    states = ledger.states()
    for state, error, count in ledger.errors():
        dropped[f"request: {state}, {error}"] += count
    dropped["request: answered, not judged yet (annotate goes on)"] += states["received"]
    usd, prompt_tokens, completion_tokens = ledger.spent()
    terms = ledger.terms()
    facts = {
        "corpus": corpus["path"],
        "model": terms.model if terms else "",
        "prompt": f"{terms.prompt_version}, {terms.params}" if terms else "",
        "requests": ", ".join(f"{count:,} {state}" for state, count in states.most_common()),
        "tokens paid": f"{prompt_tokens:,} in, {completion_tokens:,} out",
        "cost": dollars(usd) if ledger.priced() else "not known: the model has no price",
    }
    try:
        report.write_report(out, statistics, dropped, facts)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); the replies are safe in the ledger") from None


def conclude(ledger: Ledger, sender: Sender | None, config: AnnotateConfig) -> int:
    """Says what was done and what is left. Returns the exit status: 0, or 75 if requests are left that the server failed."""
    states = ledger.states()
    left = states["pending"]
    usd, *tokens = ledger.spent()
    done = sum(states.values()) - left - states["batched"]
    cost = dollars(usd) if ledger.priced() else "unknown"
    say(f"{done} of {sum(states.values())} requests answered, cost {cost}, {sum(tokens)} tokens; annotations in {config.out}")
    if states["batched"]:
        say(f"{states['batched']} requests are in batches under way: annotate batch poll")
    if left and sender is not None and sender.out_of_budget:
        say(f"the budget is used up: {left} requests are left; raise it and run the same command again")
    elif left:
        errors = "; ".join(f"{count} x {error}" for state, error, count in ledger.errors() if state == "pending")
        raise Preempted(f"{left} requests got no reply ({errors}); the same command tries them again")
    return 0


def say(text: str) -> None:
    """A plain line on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Preempted, wherever it is; the sender has a gentler way of its own."""

    def stop(number: int, frame: object) -> None:
        raise Preempted("stopped by SIGTERM; the same command goes on from here")

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
