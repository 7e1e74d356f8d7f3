"""Batch mode: pending requests as files to the provider's Batch API (or to an offline runner), results back into the ledger.

A batch of the ledger's table `batches` goes through the states written, uploaded, submitted, merged. Each step is noted before
the next, and the server keeps our name of a batch, so that a run that is killed anywhere pays for no batch twice.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from nuner_jax.annotate.batch_files import ENDPOINT, Result, digest, fill, read_results, request_line, write_whole
from nuner_jax.annotate.batch_table import BatchTable
from nuner_jax.annotate.budget import Budget, Estimate, dollars
from nuner_jax.annotate.client import ApiError, Client, NotFoundError, num_chars, request_body
from nuner_jax.annotate.ledger import Ledger
from nuner_jax.annotate.records import Reply, Request
from nuner_jax.annotate.stage import budget_of, check, finish, open_ledger, read, say, stopped_by_sigterm
from nuner_jax.annotate.verdict import decide
from nuner_jax.config import AnnotateConfig
from nuner_jax.errors import InputError, Preempted

TRIES = 6
ENDED = ("completed", "expired", "failed", "cancelled")
CHUNK = 200


class GoneError(InputError):
    """The server does not know what it was asked for."""


def run(action: str, config: AnnotateConfig) -> int:
    """`annotate batch ACTION`. Returns the exit status."""
    check(config)
    ledger_path = Path(config.out) / "ledger.sqlite"
    if action in ("poll", "merge") and not ledger_path.is_file():
        raise InputError(f"out: there is no ledger {ledger_path}")
    with stopped_by_sigterm(), open_ledger(config) as ledger:
        if action == "files":
            return files(ledger, config)
        if action == "merge":
            return merge(ledger, config)
        client = Client(config.llm)
        command = submit if action == "submit" else poll
        if action == "submit":
            read(ledger, config)

        async def session() -> bool:
            try:
                return await command(ledger, client, config)
            finally:
                await client.close()

        if asyncio.run(session()):
            finish(ledger, Path(config.out))
        return 0


def files(ledger: Ledger, config: AnnotateConfig) -> int:
    """Writes the pending requests as OUT/batch/requests-*.jsonl for an offline runner; `batch merge` takes its results."""
    read(ledger, config)
    folder = Path(config.out) / "batch"
    lines = ((request, request_line(config.llm, request)) for request in pending(ledger))
    total = 0
    for path in folder.glob("requests-*.jsonl"):  # of an earlier call: some of theirs may be answered by now
        path.unlink()
    for number, (requests, content) in enumerate(fill(lines, config.batch.max_requests, config.batch.max_bytes)):
        path = folder / f"requests-{number:05d}.jsonl"
        write_whole(path, content)
        total += len(requests)
        print(f"{path}: {len(requests)} requests")
    say(f"{total} requests; run them, then: annotate batch merge --results FILE ...")
    return 0


def merge(ledger: Ledger, config: AnnotateConfig) -> int:
    """Takes the result files of an offline runner into the ledger."""
    if not config.results:
        raise InputError("results: name the result files to merge: annotate batch merge --results FILE ...")
    if not json.loads(ledger.note("corpus") or "{}"):
        raise InputError(f"{config.out}: the corpus has not been read to its end; annotate batch files reads it")
    for name in config.results:
        counts = merge_file(ledger, Path(name), config, budget_of(ledger, config))
        print(f"{name}: {_told(counts)}")
    finish(ledger, Path(config.out))
    return 0


def pending(ledger: Ledger) -> Iterator[Request]:
    """Every request that is waiting to be sent, in order."""
    last = 0
    while rows := ledger.requests("pending", last):
        last = rows[-1].id
        yield from rows


# Up


async def submit(ledger: Ledger, client: Client, config: AnnotateConfig) -> bool:
    """Sends the pending requests as batches, as many as the budget allows; first those that a broken run had begun.

    Returns whether replies came in: never.
    """
    table = BatchTable(ledger)
    begun = [batch for batch in table.rows() if batch["state"] in ("written", "uploaded")]
    if begun:
        remote = await _ask(client, lambda: _remote_names(client))
        for batch in begun:
            if batch["name"] in remote:
                table.update(batch["id"], state="submitted", remote=remote[batch["name"]])
            else:
                await _send(table, client, batch)
    budget = budget_of(ledger, config, config.batch.discount)
    estimate = Estimate()
    out_of_budget: list[int] = []
    lines = _within(budget, estimate, ledger, config, out_of_budget)
    sent = 0
    for requests, content in fill(lines, config.batch.max_requests, config.batch.max_bytes):
        batch = _write(table, requests, content, budget, estimate, config)
        await _send(table, client, batch)
        sent += len(requests)
        cost = "cost unknown" if batch["cost"] is None else f"about {dollars(batch['cost'])}"
        print(f"{batch['name']}: {len(requests)} requests, {cost}")
    left = ledger.states()["pending"]
    if out_of_budget:
        say(f"the budget is used up: {left} requests are left")
    say(f"{sent} requests submitted; annotate batch poll fetches the replies" if sent or begun else "nothing to submit")
    return False


def _within(
    budget: Budget, estimate: Estimate, ledger: Ledger, config: AnnotateConfig, out_of_budget: list[int]
) -> Iterator[tuple[Request, bytes]]:
    """The pending requests that the budget has room for, with their lines."""
    for request in pending(ledger):
        line = request_line(config.llm, request)
        tokens = _expected(estimate, request, line)
        if not budget.fits(*tokens):
            out_of_budget.append(request.id)
            return
        budget.reserved_usd += budget.cost(*tokens) or 0.0
        budget.reserved_tokens += sum(tokens)
        yield request, line


def _expected(estimate: Estimate, request: Request, line: bytes) -> tuple[int, int]:
    return estimate.prompt(len(line.decode())), estimate.reply(len(request.texts))


def _write(
    table: BatchTable, requests: list[Request], content: bytes, budget: Budget, estimate: Estimate, config: AnnotateConfig
) -> dict[str, Any]:
    """The batch's file and its row; from here on the requests belong to it."""
    name = table.next_name()
    path = Path(config.out) / "batch" / f"{name}.jsonl"
    write_whole(path, content)
    sizes = [_expected(estimate, r, line) for r, line in zip(requests, content.splitlines(), strict=True)]
    prompt_tokens, reply_tokens = (sum(column) for column in zip(*sizes, strict=True))
    cost = budget.cost(prompt_tokens, reply_tokens)
    return table.add(name, str(path), [r.id for r in requests], cost, prompt_tokens + reply_tokens)


async def _remote_names(client: Client) -> dict[str, str]:
    """Our name -> the server's id, of every batch that the server has from us."""
    names: dict[str, str] = {}
    async for remote in client.batches.list(limit=100):
        name = (remote.metadata or {}).get("nuner_batch")
        if name:
            names[name] = remote.id
    return names


async def _send(table: BatchTable, client: Client, batch: dict[str, Any]) -> None:
    """Uploads a written batch and creates it, noting each step."""
    if batch["state"] == "written":
        path = Path(batch["path"])
        uploaded = await _ask(client, lambda: client.files.create(file=path, purpose="batch"))
        table.update(batch["id"], state="uploaded", input_file=uploaded.id)
        batch["input_file"] = uploaded.id

    tried = False

    async def create() -> str:
        nonlocal tried
        if tried and (there := (await _remote_names(client)).get(batch["name"])):
            return there  # the first try came through, only its answer was lost
        tried = True
        created = await client.batches.create(
            input_file_id=batch["input_file"],
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata={"nuner_batch": batch["name"]},
        )
        return created.id

    table.update(batch["id"], state="submitted", remote=await _ask(client, create))


async def _ask(client: Client, call: Callable[[], Awaitable[Any]]) -> Any:
    """A call of the Batch API, repeated where that can help. Raises InputError or Preempted with one line."""
    for attempt in range(TRIES):
        try:
            return await call()
        except FileNotFoundError as error:
            raise InputError(f"{error.filename}: the batch's file is gone") from None
        except NotFoundError as error:
            hint = "annotate batch files writes files for offline runners"
            raise GoneError(f"{client.url} has no Batch API, or not this batch ({client.clean(str(error))}); {hint}") from None
        except ApiError as error:
            outcome = client.explain(error)
            wait = getattr(outcome, "retry_after", None)
            if wait is None:
                raise InputError(f"batch refused by {client.url}: {outcome.reason}") from None
            if attempt == TRIES - 1:
                raise Preempted(f"{client.url}: {outcome.reason}; the same command goes on from here") from None
            await asyncio.sleep(max(wait, 0.5 * 2**attempt))


# Down


async def poll(ledger: Ledger, client: Client, config: AnnotateConfig) -> bool:
    """Asks how the batches are; fetches and merges what has ended. With batch.poll_seconds it goes on until all have.

    Returns whether replies came in.
    """
    table = BatchTable(ledger)
    ended = 0
    gone: list[GoneError] = []
    while True:
        running = 0
        gone.clear()
        for batch in table.rows():
            if batch["state"] in ("written", "uploaded"):
                say(f"{batch['name']}: not submitted yet: annotate batch submit")
                continue
            try:
                remote = await _ask(client, lambda batch=batch: client.batches.retrieve(batch["remote"]))
            except GoneError as error:  # the others may be fine
                gone.append(GoneError(f"{batch['name']}: {error}"))
                continue
            counts = remote.request_counts
            done = f", {counts.completed} of {counts.total} requests done, {counts.failed} failed" if counts else ""
            print(f"{batch['name']}: {remote.status}{done}", flush=True)
            if remote.status in ENDED:
                await _end(ledger, table, client, config, batch, remote)
                ended += 1
            else:
                running += 1
        if not running or not config.batch.poll_seconds:
            break
        await asyncio.sleep(config.batch.poll_seconds)
    left = ledger.states()["pending"]
    if left:
        say(f"{left} requests have no reply and are in no batch: annotate batch submit, or annotate")
    if gone:
        raise gone[0]
    return ended > 0


async def _end(
    ledger: Ledger, table: BatchTable, client: Client, config: AnnotateConfig, batch: dict[str, Any], remote: Any
) -> None:
    """Downloads what an ended batch has left (output, errors, both or nothing), merges it, and frees what got no reply."""
    counts: Counter[str] = Counter()
    for kind, identity in (("output", remote.output_file_id), ("errors", remote.error_file_id)):
        if identity:
            path = Path(config.out) / "batch" / f"{batch['name']}.{kind}.jsonl"
            content = await _ask(client, lambda identity=identity: client.files.content(identity))
            write_whole(path, content.content)
            counts += merge_file(ledger, path, config, budget_of(ledger, config, config.batch.discount))
    errors = (remote.errors.data or []) if remote.errors else []
    problems = [client.clean(error.message or error.code or "") for error in errors]
    left = table.end(batch["id"], remote.status)
    say(f"{batch['name']}: {remote.status}, {_told(counts)}, {left} free to be sent again" + "".join(f"; {p}" for p in problems))


def merge_file(ledger: Ledger, path: Path, config: AnnotateConfig, budget: Budget) -> Counter[str]:
    """Takes a result file into the ledger, each line exactly once however often it is merged. Counts what was found."""
    mark = "merged " + digest(path)
    start = int(ledger.note(mark) or 0)
    counts: Counter[str] = Counter()
    # Else no input is to blame for its error.
    answered = ledger.states()["ok"] > 0 or any(result.completion for result in read_results(path))
    chunk: list[Result] = []
    for result in read_results(path):
        if result.line > start:
            chunk.append(result)
        if len(chunk) == CHUNK:
            _merge_chunk(ledger, chunk, config, budget, counts, answered, mark)
            chunk = []
    if chunk:
        _merge_chunk(ledger, chunk, config, budget, counts, answered, mark)
    if start:
        counts["merged before"] = start
    return counts


def _merge_chunk(
    ledger: Ledger,
    chunk: list[Result],
    config: AnnotateConfig,
    budget: Budget,
    counts: Counter[str],
    answered: bool,
    mark: str,
) -> None:
    """One transaction for the replies and for how far the file has been read, then one for the verdicts on them."""
    known = ledger.by_keys([result.key for result in chunk])
    kept = ledger.kept([result.key for result in chunk])
    estimate = Estimate()
    rows: list[tuple[int, int, Reply]] = []
    failures: list[tuple[int, str, bool]] = []
    for result in chunk:
        request = known.get(result.key)
        if request is None:
            counts["unknown"] += 1
        elif result.completion is None:
            counts[f"failed: {result.problem}"] += 1
            failures.append((request.id, result.problem, result.final and answered))
        elif result.key in kept and kept[result.key][1].text == result.completion.text:
            counts["known already"] += 1  # of a file that was merged before it had grown or was mended
        else:
            counts["replies"] += 1
            used = result.completion.used(estimate.prompt(num_chars(request_body(config.llm, request.texts))))
            rows.append(
                (request.id, 1, Reply(result.completion.text, result.completion.finish_reason, *used, budget.cost(*used)))
            )
    ledger.refuse(failures)
    ledger.write(rows, (), (mark, str(chunk[-1].line)))
    judge_received(ledger, config)


def judge_received(ledger: Ledger, config: AnnotateConfig) -> None:
    """Judges every stored reply that nobody has looked at."""
    while rows := ledger.requests("received", batched=True):
        ledger.write((), [decide(request, ledger.reply(request.id), config.llm) for request in rows])


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "no results"
