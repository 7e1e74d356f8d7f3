"""How far an annotation is: a bar on a terminal, a plain line now and then elsewhere."""

import datetime
import sys
import time

from nuner_jax.annotate.budget import Budget, dollars

EVERY_SECONDS = 10.0


class Progress:
    """Counts settled requests of `total`; shows rate, cost so far, cost forecast and time left on standard error."""

    def __init__(self, total: int, done: int, budget: Budget, every_seconds: float = EVERY_SECONDS) -> None:
        self.total, self.done, self._budget = total, done, budget
        self._start, self._first, self._paid_before = time.monotonic(), done, budget.spent_usd
        self._every, self._last = every_seconds, time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, unit="request", smoothing=0.05, dynamic_ncols=True)

    def add(self, count: int) -> None:
        """Notes that so many requests have been settled."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix_str(self._money(), refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            sys.stderr.write(self.line() + "\n")
            sys.stderr.flush()

    def line(self) -> str:
        """`120/750 requests, 35.2 a second, $0.12 so far, $0.75 in all, 0:00:18 left`."""
        done = self.done - self._first
        rate = done / max(time.monotonic() - self._start, 1e-9)
        left = datetime.timedelta(seconds=round((self.total - self.done) / rate)) if done else "unknown time"
        return f"{self.done}/{self.total} requests, {rate:.1f} a second, {self._money()}, {left} left"

    def _money(self) -> str:
        budget, done = self._budget, self.done - self._first
        if budget.price is None:
            return f"{budget.spent_tokens} tokens so far"
        each = (budget.spent_usd - self._paid_before) / done if done else 0.0
        return f"{dollars(budget.spent_usd)} so far, {dollars(budget.spent_usd + each * (self.total - self.done))} in all"

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
