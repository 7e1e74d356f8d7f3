"""Sends the pending requests of a ledger: many at once, within limits and budget, every reply stored before it is looked at.

Workers take requests and send them; one committer stores what has arrived, all of it in one transaction, then judges it. A reply
that is no good goes back to the workers until it has had its tries.
"""

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

from nuner_jax.annotate.budget import Budget, Estimate
from nuner_jax.annotate.client import Client, Completion, Fatal, Outcome, Refusal, Retry, num_chars, request_body
from nuner_jax.annotate.ledger import Ledger
from nuner_jax.annotate.limits import Pace
from nuner_jax.annotate.progress import Progress
from nuner_jax.annotate.records import Reply, Request
from nuner_jax.annotate.verdict import decide
from nuner_jax.config import LlmConfig
from nuner_jax.errors import InputError, NunerError, Preempted

COMMIT_SECONDS = 0.02
"""What arrives within this time shares a transaction."""
GRACE_SECONDS = 10.0
"""How long a stopped run waits for replies under way: they are paid."""
PATIENCE_SECONDS = (120.0, 600.0)
"""How long a run goes on without any reply: before the first one, and later."""
LONGEST_BACKOFF = 30.0
ALL_REFUSED = 5
"""So many different requests refused and none answered end the run; with more under way at once it takes all of these."""
NO_GOOD = 100
"""So many replies without a usable one among them end the run: the model or a setting is wrong."""

T = TypeVar("T")


@dataclass(frozen=True)
class Manner:
    """What is made of a request's texts, and what of its reply: (request, verdict, whether to ask again)."""

    body: Callable[[LlmConfig, tuple[str, ...]], dict[str, Any]] = request_body
    decide: Callable[[Request, Reply, LlmConfig], tuple[int, str, bool]] = decide


class Sender:
    """One run over the pending requests of the ledger's last scan."""

    def __init__(
        self,
        config: LlmConfig,
        client: Client,
        ledger: Ledger,
        budget: Budget,
        progress: Progress,
        manner: Manner | None = None,
    ) -> None:
        self._config, self._client, self._ledger, self._budget, self._progress = config, client, ledger, budget, progress
        self._manner = manner or Manner()
        self._pace = Pace(config.requests_per_minute, config.tokens_per_minute)
        self._estimate = Estimate()
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._feed: deque[Request] = deque()
        self._again: deque[Request] = deque()
        self._last_fed, self._all_fed, self._feeding = 0, False, asyncio.Lock()
        self._open = 0  # requests that were taken and are not settled
        self._arrivals: list[tuple[Request, int, Reply]] = []
        self._verdicts: list[tuple[int, str, bool]] = []
        self._arrived, self._drained, self._changed, self._stopped = (asyncio.Event() for _ in range(4))
        self._reason: BaseException | None = None
        self._no_reply_since = time.monotonic()
        self._reached = False
        self._refused: list[tuple[Request, str]] = []  # set aside until a reply shows that others are answered
        self._works = ledger.states()["ok"] > 0  # whether the model has ever given a usable reply
        self._storing = asyncio.Lock()
        self.counts: Counter[str] = Counter()
        self.out_of_budget = False

    async def run(self) -> None:
        """Sends until nothing is pending, the budget is used up, or something ends the run.

        Raises InputError (wrong key, model, address; disk), Preempted (SIGTERM, server gone), KeyboardInterrupt (Ctrl-C). In each
        case every reply that arrived is stored.
        """
        with self._signals():
            await self._judge_received()
            workers = [asyncio.create_task(self._work()) for _ in range(self._config.concurrency)]
            committer = asyncio.create_task(self._commit())
            stopped = asyncio.create_task(self._stopped.wait())
            working = asyncio.gather(*workers)
            await asyncio.wait([working, stopped, committer], return_when=asyncio.FIRST_COMPLETED)
            self._stopped.set()
            await asyncio.wait([working], timeout=GRACE_SECONDS)
            for task in (stopped, committer, working, *workers):
                task.cancel()
            ends = await asyncio.gather(committer, working, *workers, return_exceptions=True)
            await self._store()
            await self._store()  # the verdicts on what the first one stored
            self._thread.shutdown()
        if self._refused and self._reason is None:
            self._reason = self._refuses()
        problems = [self._reason, *(end for end in ends if isinstance(end, Exception))]
        for problem in filter(None, problems):
            raise problem

    # Ends

    def _stop(self, reason: BaseException | None) -> None:
        if not self._stopped.is_set():
            self._reason = reason
        self._stopped.set()
        self._changed.set()

    @contextlib.contextmanager
    def _signals(self) -> Any:
        loop = asyncio.get_running_loop()
        reasons = {
            signal.SIGTERM: Preempted("stopped by SIGTERM; every reply is stored, the same command goes on from here"),
            signal.SIGINT: KeyboardInterrupt(),
        }
        before = {}
        for number, reason in reasons.items():
            with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):  # not in the main thread
                handler = signal.getsignal(number)
                loop.add_signal_handler(number, self._stop, reason)
                before[number] = handler
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    # Workers

    async def _work(self) -> None:
        while (request := await self._next()) is not None:
            await self._deliver(request)

    async def _next(self) -> Request | None:
        """The next request to send; None when there will be none."""
        while not self._stopped.is_set():
            if not self._again and not self._feed and not self._all_fed:
                await self._refill()
            queue = self._again or self._feed
            if queue:
                self._open += 1
                return queue.popleft()
            if self._open:
                self._changed.clear()
                await self._changed.wait()
            elif self._all_fed:
                self._changed.set()
                return None
        return None

    async def _refill(self) -> None:
        async with self._feeding:
            if self._feed or self._all_fed:
                return
            rows = await self._in_thread(self._ledger.requests, "pending", self._last_fed, max(256, 2 * self._config.concurrency))
            self._feed.extend(rows)
            self._all_fed = not rows
            self._last_fed = rows[-1].id if rows else self._last_fed

    async def _deliver(self, request: Request) -> None:
        """Sends a request until an answer has arrived or it is given up."""
        body = self._manner.body(self._config, request.texts)
        chars, sentences = num_chars(body), len(request.texts)
        for sent in count(1):
            outcome = await self._send(body, chars, sentences)
            if isinstance(outcome, Completion):
                self._no_reply_since = time.monotonic()
                self.counts["replies"] += 1
                self._again.extend(request for request, _ in self._refused)
                self._refused.clear()
                await self._arrive(request, sent, chars, outcome)
                return
            if outcome is None or self._stopped.is_set():
                break
            if await self._failed(request, sent, outcome):
                break
        self._open -= 1
        self._changed.set()

    async def _send(self, body: dict[str, Any], chars: int, sentences: int) -> Outcome | None:
        """One sending within budget and pace; None if there is to be none."""
        reserved = self._estimate.prompt(chars), min(self._estimate.reply(sentences), self._config.max_tokens * sentences)
        if not await self._budget.admit(*reserved):
            self.out_of_budget = True
            self._stop(None)
            return None
        used = (0, 0)
        try:
            await self._pause(self._pace.reserve(sum(reserved)))
            if self._stopped.is_set():
                return None
            outcome = await self._client.ask(body)
            if isinstance(outcome, Completion):
                used = outcome.used(reserved[0])
        finally:
            self._budget.settle(reserved, used)
            self._pace.settle(sum(reserved), sum(used))
        return outcome

    async def _failed(self, request: Request, sent: int, outcome: Retry | Refusal | Fatal) -> bool:
        """Deals with a sending that brought no answer; True if the request is not to be sent again in this run."""
        if end := self._end_of_run(outcome):
            self._stop(end)
            return True
        final = isinstance(outcome, Refusal)
        if final and not self._works and not self.counts["replies"]:
            self._refused.append((request, outcome.reason))
            if len(self._refused) >= max(ALL_REFUSED, self._config.concurrency):
                self._stop(self._refuses())
            return True
        if final or sent >= self._config.max_tries:
            self.counts["refused" if final else "given up"] += 1
            self._progress.add(int(final))
            await self._store()  # the verdict on an earlier reply may still be under way, and refuses only what is pending
            await self._in_thread(self._ledger.refuse, [(request.id, outcome.reason, final)])
            return True
        backoff = min(LONGEST_BACKOFF, 0.5 * 2 ** (sent - 1)) * random.uniform(0.5, 1.0)
        await self._pause(max(backoff, outcome.retry_after if isinstance(outcome, Retry) else 0.0))
        return False

    def _end_of_run(self, outcome: Retry | Refusal | Fatal) -> NunerError | None:
        """The error that a failed sending shows the whole run to have come to, if it does."""
        url, reason = self._client.url, outcome.reason
        self.counts[f"failed: {reason}"] += 1
        self._reached = self._reached or not (isinstance(outcome, Retry) and outcome.unreachable)
        if isinstance(outcome, Fatal):
            return InputError(reason)
        if isinstance(outcome, Refusal):
            return None
        silent = time.monotonic() - self._no_reply_since
        if not self._reached and silent > self._config.connect_timeout:
            return InputError(f"llm.base_url: cannot reach {url} ({reason})")
        if silent > max(PATIENCE_SECONDS[self.counts["replies"] > 0], 3 * self._config.total_timeout):
            return Preempted(f"no reply from {url} for {silent:.0f} s ({reason}); the same command goes on from here")
        return None

    def _refuses(self) -> InputError:
        return InputError(f"{self._client.url} refuses the requests: {self._refused[0][1]}")

    async def _pause(self, seconds: float) -> None:
        """Sleeps, but not through the end of the run."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), seconds)

    # Committer

    async def _arrive(self, request: Request, sent: int, chars: int, answer: Completion) -> None:
        """Hands a reply to the committer; waits only if the disk cannot keep up."""
        used = answer.used(self._estimate.prompt(chars))
        cost = self._budget.cost(*used)
        likely = min(used[1], self._config.max_tokens * len(request.texts))  # an oversized reply says nothing about the next ones
        self._estimate.learn(chars, len(request.texts), answer.prompt_tokens, likely)
        reply = Reply(answer.text, answer.finish_reason, *used, cost)  # a later run has to know what was spent
        self._arrivals.append((request, sent, reply))
        self._arrived.set()
        while len(self._arrivals) > 4 * self._config.concurrency:
            self._drained.clear()
            await self._drained.wait()

    async def _commit(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(COMMIT_SECONDS)
            self._arrived.clear()
            await asyncio.shield(self._store())

    async def _store(self) -> None:
        """Stores what has arrived, then judges it. A failing disk ends the run; what is under way is still tried."""
        async with self._storing:
            arrivals, self._arrivals = self._arrivals, []
            verdicts, self._verdicts = self._verdicts, []
            self._drained.set()
            if not arrivals and not verdicts:
                return
            rows = [(request.id, sent, reply) for request, sent, reply in arrivals]
            try:
                await self._in_thread(self._ledger.write, rows, verdicts)
            except NunerError as error:
                self._stop(error)
            else:
                self._judge([(request, reply) for request, _, reply in arrivals])
            self._open -= len(arrivals)
            self._changed.set()

    def _judge(self, stored: Sequence[tuple[Request, Reply]]) -> None:
        """Queues the verdicts for the next transaction; requests to be sent again go back to the workers."""
        done = 0
        for request, reply in stored:
            verdict = self._manner.decide(request, reply, self._config)
            self._verdicts.append(verdict)
            self.counts[f"reply {verdict[1]}"] += 1
            if verdict[2]:
                self._again.append(request._replace(bad_replies=request.bad_replies + 1))
            else:
                done += 1
        self._progress.add(done)
        kinds = {name[6:]: n for name, n in self.counts.items() if name.startswith("reply ")}
        self._works = self._works or "ok" in kinds
        if not self._works and sum(kinds.values()) >= NO_GOOD:
            found = ", ".join(f"{name} {n}" for name, n in kinds.items())
            self._stop(InputError(f"none of the first replies is usable ({found}): check llm.model and llm.max_tokens"))

    async def _judge_received(self) -> None:
        """Judges what an earlier run stored without getting to look at it."""
        while rows := await self._in_thread(self._ledger.requests, "received"):
            replies = [await self._in_thread(self._ledger.reply, request.id) for request in rows]
            self._judge(list(zip(rows, replies, strict=True)))
            self._again.clear()  # pending once more: the feed brings them
            await self._store()
            if self._reason is not None:
                return

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
