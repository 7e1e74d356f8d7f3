"""The ledger: what is stored survives, what was asked is asked once, one process at a time."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuner_jax.annotate.ledger import Ledger
from nuner_jax.annotate.records import Reply, Sentence, Terms
from nuner_jax.annotate.scan import scan
from nuner_jax.errors import InputError

TERMS = Terms("model", "prompt-1", "{}")


def reply(text, finish_reason="stop"):
    return Reply(text, finish_reason, 10, 5, 0.001)


def texts(count):
    return [Sentence(f"Sentence {i}.", f"id{i}", "test") for i in range(count)]


def pending(ledger):
    return ledger.requests("pending", limit=10_000)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "ledger.sqlite"


def test_a_second_scan_of_the_same_corpus_asks_nothing_new(path):
    with Ledger(path) as ledger:
        assert scan(ledger, texts(5), TERMS) == {"sentences": 5, "new": 5}
        first = pending(ledger)[0]
        ledger.write([(first.id, 1, reply("a <> b"))], ())
        ledger.write([], [(first.id, "ok", False)])
    with Ledger(path) as ledger:
        assert scan(ledger, texts(5), TERMS) == {"sentences": 5}
        assert [r.texts[0] for r in pending(ledger)] == [s.text for s in texts(5)[1:]]


@pytest.mark.parametrize(
    "other", [Terms("other", "prompt-1", "{}"), Terms("model", "prompt-2", "{}"), Terms("model", "prompt-1", "[]")]
)
def test_another_model_prompt_or_parameter_is_another_request(path, other):
    with Ledger(path) as ledger:
        scan(ledger, texts(3), TERMS)
        assert scan(ledger, texts(3), other)["new"] == 3
        assert len({r.key for r in pending(ledger)}) == 3  # those of the other terms are not asked any more


def test_a_reply_is_durable_before_anybody_judges_it(path):
    with Ledger(path) as ledger:
        scan(ledger, texts(2), TERMS)
        ledger.write([(pending(ledger)[0].id, 3, reply("Sentence <> x"))], ())
        other = sqlite3.connect(path)  # what another process would find after a kill
        assert other.execute("SELECT state, attempts FROM requests WHERE id=1").fetchone() == ("received", 3)
        assert other.execute("SELECT reply FROM attempts").fetchall() == [("Sentence <> x",)]
    with Ledger(path) as ledger:
        assert [r.id for r in ledger.requests("received")] == [1]


def test_repeated_and_broken_texts_are_counted_and_not_asked(path):
    corpus = [Sentence("one"), Sentence("two"), Sentence("one"), Sentence("\ud800 half a pair"), Sentence("nul \0 inside")]
    with Ledger(path) as ledger:
        counts = scan(ledger, corpus, TERMS, per_request=2)
        assert counts == {"sentences": 3, "new": 3, "repeated": 1, "not_unicode": 1}
        assert [r.texts for r in pending(ledger)] == [("one", "two"), ("nul \0 inside",)]


def test_answers_come_in_the_order_of_the_corpus_that_was_scanned_last(path):
    with Ledger(path) as ledger:
        scan(ledger, texts(6), TERMS)
        ledger.write([(r.id, 1, reply(f"reply {r.id}")) for r in reversed(pending(ledger))], ())
        ledger.write([], [(i, "ok", False) for i in range(1, 7)])
        scan(ledger, [texts(6)[i] for i in (4, 1, 3)], TERMS)
        answers = list(ledger.answered(chunk=2))
        assert [a.sentence.text for a in answers] == ["Sentence 4.", "Sentence 1.", "Sentence 3."]
        assert [a.reply for a in answers] == ["reply 5", "reply 2", "reply 4"]
        assert answers[0].sentence == texts(6)[4]


@given(count=st.integers(0, 30), per_request=st.integers(1, 5), stop=st.integers(0, 30), chunk=st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_a_scan_that_was_broken_off_makes_the_same_requests_in_the_end(tmp_path_factory, count, per_request, stop, chunk):
    folder = tmp_path_factory.mktemp("scan")

    def broken():
        yield from texts(count)[:stop]
        raise KeyboardInterrupt

    with Ledger(folder / "whole.sqlite") as whole, Ledger(folder / "broken.sqlite") as ledger:
        scan(whole, texts(count), TERMS, per_request, chunk)
        with pytest.raises(KeyboardInterrupt):
            scan(ledger, broken(), TERMS, per_request, chunk)
        scan(ledger, texts(count), TERMS, per_request, chunk)
        assert [(r.key, r.texts) for r in pending(ledger)] == [(r.key, r.texts) for r in pending(whole)]


def test_a_bad_reply_is_put_aside_and_still_counted_as_paid(path):
    with Ledger(path) as ledger:
        scan(ledger, texts(1), TERMS)
        ledger.write([(1, 1, reply("%%%"))], ())
        ledger.write([(1, 1, reply("good"))], [(1, "garbled", True)])
        assert ledger.requests("received")[0].bad_replies == 1
        ledger.write([], [(1, "ok", False)])
        assert ledger.reply(1).text == "good"
        assert ledger.spent() == (0.002, 20, 10)


@pytest.mark.parametrize(
    ("tries", "kept"),
    [
        ([("", "empty"), ("%%", "garbled"), ("", "empty")], ("", "empty")),
        ([("", "empty"), ("", "empty"), ("%%", "garbled")], ("", "empty")),
        ([("a <> b\nc", "cut"), ("a <> b\nc <> d\ne", "cut"), ("a", "cut")], ("a <> b\nc <> d\ne", "cut")),
        ([("x" * 99, "garbled"), ("a <> b\nc", "cut")], ("a <> b\nc", "cut")),
    ],
)
def test_of_bad_replies_the_most_frequent_is_kept_or_the_one_with_most_in_it(path, tries, kept):
    with Ledger(path) as ledger:
        scan(ledger, texts(1), TERMS)
        for i, (text, verdict) in enumerate(tries):
            ledger.write([(1, 1, reply(text))], ())
            ledger.write([], [(1, verdict, i < len(tries) - 1)])
        assert (ledger.reply(1).text, next(iter(ledger.states()))) == kept
        assert ledger.spent()[1] == 10 * len(tries)


def test_a_second_answer_does_not_replace_the_first(path):
    with Ledger(path) as ledger:
        scan(ledger, texts(1), TERMS)
        ledger.write([(1, 1, reply("first"))], ())
        ledger.write([(1, 1, reply("second"))], [(1, "ok", False)])
        assert ledger.reply(1).text == "first"
        assert ledger.states() == {"ok": 1}
        assert ledger.spent()[1] == 20


def test_a_refused_request_is_not_asked_again_and_one_given_up_is(path):
    with Ledger(path) as ledger:
        scan(ledger, texts(2), TERMS)
        ledger.refuse([(1, "400 too long", True), (2, "500 again", False)])
        assert [r.id for r in pending(ledger)] == [2]
        assert ledger.errors() == [("pending", "500 again", 1), ("refused", "400 too long", 1)]


HOLD = """
import sys, time
from pathlib import Path
from nuner_jax.annotate.ledger import Ledger
with Ledger(Path(sys.argv[1])):
    print("open", flush=True)
    time.sleep(60)
"""

OPEN = "import sys; from pathlib import Path; from nuner_jax.annotate.ledger import Ledger; Ledger(Path(sys.argv[1]))"


def test_a_second_process_is_refused_until_the_first_is_gone_even_if_killed(path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(InputError, match=rf"ledger\.sqlite: in use by another process \({holder.pid}\)"):
            Ledger(path)
        holder.kill()
        holder.wait()
    Ledger(path).close()


WRITE = """
import sys
from pathlib import Path
from nuner_jax.annotate.ledger import Ledger
from nuner_jax.annotate.records import Reply
with Ledger(Path(sys.argv[1])) as ledger:
    while rows := ledger.requests("pending", limit=7):
        ledger.write([(r.id, 1, Reply(f"reply {r.id} " * 50, "stop", 1, 1, None)) for r in rows], ())
        print(*(r.id for r in rows), flush=True)
"""


def test_what_was_said_to_be_stored_is_there_after_kills(path):
    with Ledger(path) as ledger:
        scan(ledger, texts(3000), TERMS)
    told: list[int] = []
    rng = random.Random(0)
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline()]
            time.sleep(rng.uniform(0, 0.05))
            os.kill(writer.pid, signal.SIGKILL)
            lines += writer.stdout.readlines()
        told += [int(word) for line in lines if line.endswith("\n") for word in line.split()]
    assert told
    assert len(told) == len(set(told))  # none was taken up twice
    with Ledger(path) as ledger:
        for request in told:
            assert ledger.reply(request).text == f"reply {request} " * 50


def test_a_file_that_is_no_ledger_is_named(path):
    path.parent.mkdir()
    path.write_text("this is not a database, but it is long enough to look like one" * 20)
    with pytest.raises(InputError, match=r"ledger\.sqlite: file is not a database"):
        Ledger(path)


def test_a_ledger_of_a_later_form_is_refused(path):
    Ledger(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(InputError, match="form 99"):
        Ledger(path)


FULL = """
import resource, sys
from pathlib import Path
from nuner_jax.annotate.ledger import Ledger
from nuner_jax.annotate.records import Reply
from nuner_jax.errors import InputError
with Ledger(Path(sys.argv[1])) as ledger:
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, 6_000_000))
    stored = 0
    try:
        for request in ledger.requests("pending", limit=10_000):
            ledger.write([(request.id, 1, Reply("x" * 100_000, "stop", 1, 1, None))], ())
            stored += 1
    except InputError as error:
        print(stored, "|", error)
"""


def test_a_disk_that_takes_no_more_ends_in_one_line_and_keeps_what_was_stored(path):
    with Ledger(path) as ledger:
        scan(ledger, texts(200), TERMS)
    out = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True).stdout
    stored, _, line = out.partition(" | ")
    assert line.startswith(f"{path}: ")
    assert line.count("\n") == 1
    with Ledger(path) as ledger:
        assert ledger.states()["received"] == int(stored) > 0
