"""The annotate command against a server that fails in every way, killed again and again: the ledger of a quiet run comes out."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from llm_serving import Served, annotate, demo_rows, serve

FAULTS = "rate_limit=0.06,server_error=0.05,hang=0.01,drop=0.05,cut=0.05,empty=0.05,garbled=0.05,huge=0.02"
PARTS = 4
"""Sentences of the group runs are asked four at a time."""


def command(corpus: Path, out: Path, url: str, *more: str) -> list[str]:
    words = ["--corpus.path", str(corpus), "--corpus.split", "none", "--corpus.filters", "none", "--out", str(out)]
    words += ["--llm.base_url", url, "--llm.model", "recorded", "--llm.price_in", "1", "--llm.price_out", "2"]
    return [*words, "--llm.read_timeout", "1.5", "--llm.concurrency", "16", *more]


def corpus_of(folder: Path, count: int) -> Path:
    path = folder / "corpus.jsonl"
    with open(path, "w", encoding="utf8") as file:
        for row in demo_rows(count):
            file.write(json.dumps({"text": row["text"]}) + "\n")
    return path


def contents(out: Path) -> tuple[list[tuple], list[tuple], list[str]]:
    """Everything of a finished run that must not depend on faults: requests, sentences, annotations."""
    with sqlite3.connect(out / "ledger.sqlite") as db:
        columns = "id, key, state, model, prompt_version, params, reply, finish_reason, prompt_tokens, completion_tokens, cost"
        requests = db.execute(f"SELECT {columns}, error, batch FROM requests ORDER BY id").fetchall()
        sentences = db.execute("SELECT key, request, position, text, id, source, seq FROM sentences ORDER BY key").fetchall()
    return requests, sentences, [path.read_text() for path in sorted(out.glob("annotations-*.jsonl"))]


def settled_texts(out: Path) -> list[str]:
    """Inputs (as the server counts them) whose kept reply is durable; none where the kill came before the tables."""
    with sqlite3.connect(out / "ledger.sqlite") as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sentences'").fetchone():
            return []
        rows = db.execute(
            "SELECT GROUP_CONCAT(text, char(10)) FROM (SELECT s.request, s.text FROM sentences s JOIN requests r ON r.id=s.request"
            " WHERE r.state NOT IN ('pending', 'received') ORDER BY s.request, s.position) GROUP BY request"
        )
        return [row[0] for row in rows]


def killed_run(words: list[str], out: Path, server: Served, kills: int, longest: float, seed: int) -> int:
    """Starts the command and kills it, `kills` times; then lets it finish. Checks after each kill that nothing durable is sent again.

    Returns how often a kill hit a run that was still going on.
    """
    rng = random.Random(seed)
    frozen: dict[str, int] = {}  # input -> times sent when its reply was found to be durable
    hits = 0
    for attempt in range(kills + 1):
        process = subprocess.Popen([sys.executable, "-m", "nuner_jax.annotate", *words], stderr=subprocess.PIPE, text=True)
        if attempt < kills:
            ledger_there = (out / "ledger.sqlite").exists()
            time.sleep(rng.uniform(0.6 if ledger_there else 1.5, longest))
            hits += process.poll() is None
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        if attempt == kills:
            assert process.returncode == 0, errors
        if not (out / "ledger.sqlite").exists():
            continue
        sent = server.sent()
        assert {text: sent[text] for text in frozen} == frozen
        frozen = {text: sent[text] for text in settled_texts(out)}
    return hits


@pytest.mark.parametrize(("count", "kills", "longest", "per_request"), [(240, 4, 3.0, 1), (240, 2, 3.0, PARTS)])
def test_faults_and_kills_leave_the_ledger_of_a_quiet_run(tmp_path, count, kills, longest, per_request):
    faulty_equals_quiet(tmp_path, count, kills, longest, per_request, latency=0.05)


@pytest.mark.slow
def test_twenty_kills_leave_the_ledger_of_a_quiet_run(tmp_path):
    faulty_equals_quiet(tmp_path, 1400, 20, 5.0, 1, latency=0.1)


def faulty_equals_quiet(tmp_path: Path, count: int, kills: int, longest: float, per_request: int, latency: float) -> None:
    corpus = corpus_of(tmp_path, count)
    several = ["--llm.sentences_per_request", str(per_request)]
    with serve() as quiet:
        assert annotate(*command(corpus, tmp_path / "quiet", quiet.url, *several)) == 0
    with serve(faults=FAULTS, retry_after=0.3, hang_seconds=5.0, latency=latency) as faulty:
        words = command(corpus, tmp_path / "faulty", faulty.url, *several)
        hits = killed_run(words, tmp_path / "faulty", faulty, kills, longest, seed=per_request)
        debug = faulty.debug()
    assert contents(tmp_path / "faulty") == contents(tmp_path / "quiet")
    assert {row[2] for row in contents(tmp_path / "quiet")[0]} == {"ok"}
    assert hits >= kills / 2
    assert sum(debug["faults"].values()) > 0.1 * count / per_request
    assert debug["too_early"] == 0
