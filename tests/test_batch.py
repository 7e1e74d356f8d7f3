"""Batch mode: files within the limits, every way a batch can end, nothing merged or paid twice, the same annotations in the end."""

import itertools
import json
import sqlite3

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_serving import annotate, demo_rows, serve, serve_app
from openai.resources.batches import AsyncBatches
from starlette.applications import Starlette

from nuner_jax.annotate import batch_table
from nuner_jax.annotate.batch_files import fill, read_results
from nuner_jax.annotate.ledger import Ledger
from nuner_jax.annotate.records import Request
from nuner_jax.errors import InputError

COUNT = 30


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    monkeypatch.setattr("nuner_jax.annotate.report.plot_concepts", lambda *_: False)  # they take longer than all the rest


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in demo_rows(COUNT)))
    return path


@pytest.fixture
def quiet(tmp_path, corpus):
    """What a direct run without faults annotates."""
    with serve() as server:
        assert annotate(*words(corpus, tmp_path / "quiet", server.url)) == 0
    return annotations(tmp_path / "quiet")


def words(corpus, out, url, *more):
    flags = ["--corpus.path", corpus, "--corpus.split", "none", "--corpus.filters", "none", "--out", out, "--llm.base_url", url]
    return [*flags, "--llm.model", "m", "--llm.price_in", 1, "--llm.price_out", 2, "--batch.max_requests", 12, *more]


def annotations(out):
    return [path.read_text() for path in sorted(out.glob("annotations-*.jsonl"))]


def rows(out, query):
    with sqlite3.connect(out / "ledger.sqlite") as db:
        return db.execute(query).fetchall()


@given(
    sizes=st.lists(st.integers(1, 40), max_size=60),
    max_requests=st.integers(1, 9),
    max_bytes=st.integers(40, 200),
)
@settings(deadline=None)
def test_files_keep_both_limits_and_every_request_in_order(sizes, max_requests, max_bytes):
    lines = [(Request(i, str(i), ("x",)), b"x" * size) for i, size in enumerate(sizes)]
    files = list(fill(iter(lines), max_requests, max_bytes))
    assert [request.id for requests, _ in files for request in requests] == list(range(len(sizes)))
    assert b"".join(content for _, content in files) == b"".join(line for _, line in lines)
    for requests, content in files:
        assert 0 < len(requests) <= max_requests
        assert len(content) <= max_bytes
    for (requests, content), (after, _) in itertools.pairwise(files):  # no file was closed early
        assert len(requests) == max_requests or len(content) + sizes[after[0].id] > max_bytes


def test_a_request_larger_than_a_file_is_named():
    with pytest.raises(InputError, match=r"batch\.max_bytes"):
        list(fill([(Request(1, "k", ("x",)), b"x" * 50)], 9, 49))


def test_batches_give_the_annotations_of_a_direct_run_at_the_discount(tmp_path, corpus, quiet):
    out = tmp_path / "out"
    with serve() as server:
        command = words(corpus, out, server.url)
        assert annotate("batch", "submit", *command) == 0
        assert rows(out, "SELECT COUNT(*) FROM batches") == [(3,)]
        assert annotate("batch", "submit", *command) == 0  # nothing is submitted twice
        assert annotate(*command) == 0  # nor sent directly while it is under way
        assert server.sent() == {}
        assert annotate("batch", "poll", *command, "--batch.poll_seconds", 0.05) == 0
        assert set(server.sent().values()) == {1}
    assert annotations(out) == quiet
    direct = rows(tmp_path / "quiet", "SELECT SUM(cost) FROM requests")[0][0]
    assert rows(out, "SELECT SUM(cost) FROM requests")[0][0] == pytest.approx(direct / 2)


@pytest.mark.parametrize(
    "ends", ["partial", "expired", "errors,completed", "failed,completed", "cancelled", "expired,partial,errors"]
)
def test_however_batches_end_the_rest_is_sent_again_and_nothing_twice(tmp_path, corpus, quiet, ends):
    out = tmp_path / "out"
    with serve(batch_outcomes=ends + ",completed") as server:
        command = words(corpus, out, server.url, "--batch.poll_seconds", 0.05)
        for _ in range(2):
            assert annotate("batch", "submit", *command) == 0
            assert annotate("batch", "poll", *command) == 0
        assert annotate(*command) == 0
        assert set(server.sent().values()) == {1}
    assert annotations(out) == quiet
    assert rows(out, "SELECT DISTINCT state FROM batches") == [("merged",)]


@pytest.mark.parametrize("lost_step", ["uploaded", "submitted"])
def test_a_submit_that_breaks_off_anywhere_makes_no_batch_twice(tmp_path, corpus, quiet, monkeypatch, lost_step):
    out = tmp_path / "out"
    whole = batch_table.BatchTable.update

    def broken(self, batch, **columns):
        if columns["state"] == lost_step:
            raise KeyboardInterrupt
        whole(self, batch, **columns)

    with serve() as server:
        command = words(corpus, out, server.url, "--batch.poll_seconds", 0.05)
        monkeypatch.setattr(batch_table.BatchTable, "update", broken)
        assert annotate("batch", "submit", *command) == 130
        monkeypatch.setattr(batch_table.BatchTable, "update", whole)
        assert annotate("batch", "submit", *command) == 0
        assert annotate("batch", "poll", *command) == 0
        assert set(server.sent().values()) == {1}
        assert len(server.sent()) == COUNT
    assert annotations(out) == quiet


def test_a_batch_whose_answer_is_lost_is_not_made_again(tmp_path, corpus, quiet, monkeypatch):
    out, lost = tmp_path / "out", [True]
    whole = AsyncBatches.create

    async def create(self, **options):
        made = await whole(self, **options)
        if lost:
            lost.clear()
            raise openai.APITimeoutError(httpx2.Request("POST", "http://server"))
        return made

    monkeypatch.setattr(AsyncBatches, "create", create)
    with serve() as server:
        command = words(corpus, out, server.url, "--batch.poll_seconds", 0.05)
        assert annotate("batch", "submit", *command) == 0
        assert annotate("batch", "poll", *command) == 0
        assert set(server.sent().values()) == {1}
    assert annotations(out) == quiet


def test_a_direct_run_leaves_room_in_the_budget_for_batches_under_way(tmp_path, corpus, capsys):
    out = tmp_path / "out"
    with serve() as server:
        command = words(corpus, out, server.url, "--batch.max_requests", 20, "--budget.usd", 0.006)
        assert annotate("batch", "submit", *command) == 0
        cost = rows(out, "SELECT SUM(cost) FROM batches")[0][0]
        assert annotate(*command, "--budget.usd", cost + 1e-9) == 0
        assert server.sent() == {}
    assert "the budget is used up" in capsys.readouterr().err


def test_a_batch_that_the_server_forgot_does_not_hold_up_the_others(tmp_path, corpus, capsys):
    out = tmp_path / "out"
    with serve() as server:
        command = words(corpus, out, server.url)
        assert annotate("batch", "submit", *command) == 0
        with sqlite3.connect(out / "ledger.sqlite") as db:
            db.execute("UPDATE batches SET remote='gone' WHERE id=1")
        capsys.readouterr()
        for _ in range(50):
            assert annotate("batch", "poll", *command) == 2
            if rows(out, "SELECT COUNT(*) FROM batches WHERE state='merged'") == [(2,)]:
                break
        assert "or not this batch" in capsys.readouterr().err
    assert rows(out, "SELECT COUNT(*) FROM requests WHERE reply IS NOT NULL") == [(COUNT - 12,)]


def test_results_are_kept_for_when_the_corpus_has_been_read(tmp_path, corpus, capsys):
    out = tmp_path / "out"
    command = [*words(corpus, out, ""), "--batch.max_requests", 1000]
    assert annotate("batch", "files", *command) == 0
    results = results_of((out / "batch").glob("*"), [row["reply"] for row in demo_rows(COUNT)], tmp_path / "results.jsonl")
    (out / "ledger.sqlite").unlink()
    Ledger(out / "ledger.sqlite").close()  # a new one
    assert annotate("batch", "merge", *command, "--results", results) == 2
    assert "the corpus has not been read to its end; annotate batch files reads it" in capsys.readouterr().err
    assert annotate("batch", "files", *command) == 0
    assert annotate("batch", "merge", *command, "--results", results) == 0
    assert rows(out, "SELECT state, COUNT(*) FROM requests GROUP BY 1") == [("ok", COUNT)]


def test_request_files_of_an_earlier_call_go(tmp_path, corpus):
    command = words(corpus, tmp_path / "out", "")
    assert annotate("batch", "files", *command) == 0
    assert len([*(tmp_path / "out" / "batch").glob("requests-*.jsonl")]) == 3
    assert annotate("batch", "files", *command, "--batch.max_requests", 1000) == 0
    assert len([*(tmp_path / "out" / "batch").glob("requests-*.jsonl")]) == 1


@pytest.mark.parametrize("action", ["poll", "merge"])
def test_a_directory_without_a_ledger_is_refused_and_left_alone(tmp_path, corpus, capsys, action):
    assert annotate("batch", action, *words(corpus, tmp_path / "typo", "http://localhost:9"), "--results", "x") == 2
    assert f"out: there is no ledger {tmp_path / 'typo' / 'ledger.sqlite'}" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_only_as_much_is_submitted_as_the_budget_allows(tmp_path, corpus, capsys):
    out = tmp_path / "out"
    with serve() as server:
        command = words(corpus, out, server.url, "--batch.poll_seconds", 0.05, "--budget.usd", 0.004)
        assert annotate("batch", "submit", *command) == 0
        assert "the budget is used up" in capsys.readouterr().err
        assert 0 < rows(out, "SELECT SUM(cost) FROM batches")[0][0] <= 0.004
        assert annotate("batch", "submit", *command) == 0
        assert rows(out, "SELECT COUNT(*) FROM batches") == [(2,)]  # what is under way counts
        assert annotate("batch", "poll", *command) == 0
    assert rows(out, "SELECT SUM(cost) FROM requests")[0][0] < 0.005


def results_of(files, replies, path):
    """What an offline runner makes of request files: `replies` by custom_id order, None for a failure."""
    lines = []
    for file in files:
        for line, reply in zip(file.read_text().splitlines(), replies, strict=True):
            row = {"id": "x", "custom_id": json.loads(line)["custom_id"], "error": None}
            body = {"choices": [{"message": {"content": reply}, "finish_reason": "stop"}]}
            row["response"] = {"status_code": 200, "request_id": "y", "body": body} if reply is not None else None
            row["error"] = None if reply is not None else {"code": "oom", "message": "no"}
            lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines))
    return path


def test_files_for_an_offline_runner_and_its_results(tmp_path, corpus, quiet, capsys):
    out = tmp_path / "out"
    command = [*words(corpus, out, ""), "--batch.max_requests", 1000]
    assert annotate("batch", "files", *command) == 0
    (file,) = (out / "batch").glob("requests-*.jsonl")
    first = json.loads(file.read_text().splitlines()[0])
    assert (first["method"], first["url"], first["body"]["temperature"]) == ("POST", "/v1/chat/completions", 0.0)
    replies = [row["reply"] for row in demo_rows(COUNT)]
    part = results_of([file], [r if i % 2 else None for i, r in enumerate(replies)], tmp_path / "part.jsonl")
    assert annotate("batch", "merge", *command, "--results", part) == 0
    assert f"replies {COUNT // 2}" in capsys.readouterr().out
    whole = results_of([file], replies, tmp_path / "whole.jsonl")
    assert annotate("batch", "merge", *command, "--results", part, whole) == 0
    assert annotations(out) == quiet
    assert rows(out, "SELECT state, COUNT(*) FROM requests GROUP BY 1") == [("ok", COUNT)]
    assert rows(out, "SELECT COUNT(*) FROM attempts") == [(0,)]  # what a file that has grown holds once more is not paid twice


def test_a_results_file_is_merged_once_however_often_it_is_named(tmp_path, corpus):
    out = tmp_path / "out"
    command = [*words(corpus, out, ""), "--batch.max_requests", 1000]
    assert annotate("batch", "files", *command) == 0
    results = results_of((out / "batch").glob("*"), ["%%%"] * COUNT, tmp_path / "results.jsonl")
    for _ in range(3):
        assert annotate("batch", "merge", *command, "--results", results) == 0
    assert rows(out, "SELECT COUNT(*) FROM attempts") == [(COUNT,)]  # one bad reply each, to be asked again
    assert rows(out, "SELECT DISTINCT state FROM requests") == [("pending",)]


@pytest.mark.parametrize(
    ("line", "told"),
    [("{broken", "line 1: not valid JSON"), ('{"id": 1}', "line 1: not a batch result"), (None, "cannot be read")],
)
def test_a_file_that_holds_no_results_is_one_line(tmp_path, corpus, capsys, line, told):
    command = words(corpus, tmp_path / "out", "")
    assert annotate("batch", "files", *command) == 0
    path = tmp_path / "results.jsonl"
    if line:
        path.write_text(line)
    assert annotate("batch", "merge", *command, "--results", path) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_errors_in_results_are_told_apart(tmp_path):
    path = tmp_path / "r.jsonl"
    made = [
        {"custom_id": "a", "response": {"status_code": 400, "body": {"error": {"message": "too long"}}}},
        {"custom_id": "b", "response": {"status_code": 429, "body": {"error": {"message": "slow down"}}}},
        {"custom_id": "c", "response": None, "error": {"code": "batch_expired", "message": "not run"}},
        {"custom_id": "d", "response": {"status_code": 200, "body": {"choices": []}}},
        {"custom_id": "e", "response": {"status_code": 200, "body": {"choices": [{"message": {"content": "x <> y"}}]}}},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    found = {result.key: result for result in read_results(path)}
    assert {key: result.final for key, result in found.items()} == {"a": True, "b": False, "c": False, "d": False, "e": False}
    assert "too long" in found["a"].problem
    assert found["e"].completion is not None


def test_an_input_that_only_the_error_file_names_is_not_sent_for_ever(tmp_path, corpus):
    out = tmp_path / "out"
    command = [*words(corpus, out, ""), "--batch.max_requests", 1000]
    assert annotate("batch", "files", *command) == 0
    (file,) = (out / "batch").glob("requests-*.jsonl")
    keys = [json.loads(line)["custom_id"] for line in file.read_text().splitlines()]
    response = {"status_code": 400, "body": {"error": {"message": "context_length_exceeded"}}}
    errors = tmp_path / "errors.jsonl"
    errors.write_text("".join(json.dumps({"custom_id": key, "response": response}) + "\n" for key in keys[:3]))
    assert annotate("batch", "merge", *command, "--results", errors) == 0
    assert rows(out, "SELECT DISTINCT state FROM requests") == [("pending",)]  # nothing shows that others are answered
    replies = [None] * 3 + [row["reply"] for row in demo_rows(COUNT)[3:]]
    output = results_of([file], replies, tmp_path / "output.jsonl")
    errors.write_text(errors.read_text() + "\n")
    assert annotate("batch", "merge", *command, "--results", output, errors) == 0
    assert rows(out, "SELECT state, COUNT(*) FROM requests GROUP BY 1") == [("ok", COUNT - 3), ("refused", 3)]


def test_a_server_without_a_batch_api_is_named(tmp_path, corpus, capsys):
    with serve_app(Starlette()) as url:
        assert annotate("batch", "submit", *words(corpus, tmp_path / "out", url + "/v1")) == 2
    assert "has no Batch API" in capsys.readouterr().err.splitlines()[-1]
