"""What annotating a corpus would take: requests, tokens, dollars, time. Sends nothing."""

import datetime
import json
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nuner_jax.annotate.budget import Estimate, dollars, price_of
from nuner_jax.annotate.ledger import Ledger
from nuner_jax.annotate.prompt import render_several
from nuner_jax.annotate.records import Terms
from nuner_jax.annotate.stage import read, terms_of
from nuner_jax.config import AnnotateConfig
from nuner_jax.errors import InputError


class Past:
    """What the run's own ledger knows, read only; nothing if there is none yet. Raises InputError if it is no ledger."""

    def __init__(self, path: Path) -> None:
        self._path = path
        address = f"{path.resolve().as_uri()}?mode=ro" if path.is_file() else ":memory:"
        self._db = sqlite3.connect(address, uri=True)
        self._empty = not path.is_file()

    def answered(self, keys: Sequence[str]) -> set[str]:
        """The keys that need no sending."""
        marks = ",".join("?" * len(keys))
        rows = self._rows(f"SELECT key FROM requests WHERE state<>'pending' AND key IN ({marks})", tuple(keys))
        return {row[0] for row in rows}

    def spent(self) -> tuple[float, int]:
        """(dollars, tokens) of every reply that was ever paid."""
        sums = "SELECT COALESCE(SUM(cost),0), COALESCE(SUM(prompt_tokens),0)+COALESCE(SUM(completion_tokens),0) FROM "
        rows = [row for table in ("requests", "attempts") for row in self._rows(sums + table)]
        return sum(row[0] for row in rows), sum(row[1] for row in rows)

    def estimate(self, terms: Terms) -> Estimate:
        """What the replies under these terms have been like."""
        estimate = Estimate()
        query = (
            "SELECT COUNT(*), SUM(c) FROM (SELECT r.completion_tokens * (s.position=0) AS c FROM requests r JOIN sentences s"
            " ON s.request=r.id WHERE r.state='ok' AND r.model=? AND r.prompt_version=? AND r.params=?)"
        )
        for sentences, tokens in self._rows(query, (terms.model, terms.prompt_version, terms.params)):
            estimate.learn(0, sentences, None, tokens)
        return estimate

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()

    def _rows(self, query: str, values: tuple[str, ...] = ()) -> list[tuple]:
        try:
            return [] if self._empty else self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise InputError(f"{self._path}: {error}") from None


def dry_run(config: AnnotateConfig) -> None:
    """Reads the whole corpus and prints the forecast; neither sends anything nor writes to the run's directory."""
    past = Past(Path(config.out) / "ledger.sqlite")
    estimate = past.estimate(terms_of(config))
    requests = left = prompt_tokens = sentences = 0
    with tempfile.TemporaryDirectory(prefix="nuner-forecast-") as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        read(ledger, config)
        counts = json.loads(ledger.note("corpus") or "{}")
        last = 0
        while rows := ledger.requests("pending", last):
            last = rows[-1].id
            requests += len(rows)
            known = past.answered([row.key for row in rows])
            for row in rows:
                if row.key not in known:
                    left += 1
                    sentences += len(row.texts)
                    prompt_tokens += estimate.prompt(len(render_several(row.texts)))
    reply_tokens = min(estimate.reply(sentences), config.llm.max_tokens * sentences)
    found = ", ".join(f"{name} {n}" for name, n in sorted({**counts["counts"], **counts["found"]}.items()))
    print(f"corpus    {config.corpus.path}: {found}")
    print(f"requests  {requests}, of which {requests - left} are answered already")
    print(f"tokens    about {prompt_tokens:,} in and {reply_tokens:,} out for the other {left}")
    _print_cost(config, prompt_tokens, reply_tokens, *past.spent())
    rpm, tpm = config.llm.requests_per_minute, config.llm.tokens_per_minute
    minutes = max(left / rpm if rpm else 0.0, (prompt_tokens + reply_tokens) / tpm if tpm else 0.0)
    if minutes:
        print(f"time      at least {datetime.timedelta(seconds=round(60 * minutes))} within the limits a minute")
    print("nothing was sent")
    past.close()


def _print_cost(config: AnnotateConfig, prompt_tokens: int, reply_tokens: int, usd: float, tokens: int) -> None:
    price = price_of(config.llm.model, config.llm.price_in, config.llm.price_out)
    if price is None:
        print(f"cost      unknown: no price for {config.llm.model}; give llm.price_in and llm.price_out ($ a million tokens)")
    else:
        cost = price.of(prompt_tokens, reply_tokens)
        batch = price.times(config.batch.discount).of(prompt_tokens, reply_tokens)
        rates = f"{config.llm.model} at ${price.input:g} in, ${price.output:g} out a million tokens"
        print(f"cost      about {dollars(cost)}, in batches {dollars(batch)} ({rates}); spent so far {dollars(usd)}")
        if config.budget.usd is not None:
            enough = "enough" if usd + cost <= config.budget.usd else "not enough"
            print(f"budget    {dollars(config.budget.usd)}: {enough}")
    if config.budget.tokens is not None:
        enough = "enough" if tokens + prompt_tokens + reply_tokens <= config.budget.tokens else "not enough"
        print(f"budget    {config.budget.tokens:,} tokens: {enough}")
