"""One request and what comes of it; and many at once: limits, budget, retries."""

import asyncio
import json
import socket
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_serving import demo_rows, serve, serve_app
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from nuner_jax.annotate import client as client_module
from nuner_jax.annotate.annotations import records
from nuner_jax.annotate.budget import Budget, Estimate, Price, price_of
from nuner_jax.annotate.client import Client, Completion, Fatal, Refusal, Retry, read_completion, request_body, retry_after
from nuner_jax.annotate.ledger import Ledger
from nuner_jax.annotate.limits import Bucket
from nuner_jax.annotate.progress import Progress
from nuner_jax.annotate.records import Sentence, Terms
from nuner_jax.annotate.scan import scan
from nuner_jax.annotate.sender import Sender
from nuner_jax.config import LlmConfig
from nuner_jax.errors import InputError

KEY = "sk-test-1234567890abcdef"


def answer(text="Berlin <> city <> cities", **changes):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "id": "x",
        "object": "chat.completion",
        "choices": [choice],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        **changes,
    }


def ask(handler, **options):
    """What the client makes of one request to a server with this handler."""

    async def endpoint(request):
        return handler(json.loads(await request.body()), request)

    async def go(url):
        client = Client(LlmConfig(model="m", base_url=url + "/v1", **options))
        try:
            return await client.ask(request_body(LlmConfig(model="m"), ("I live in Berlin.",)))
        finally:
            await client.close()

    with serve_app(Starlette(routes=[Route("/v1/chat/completions", endpoint, methods=["POST"])])) as url:
        return asyncio.run(go(url))


def failing(status, message="no", code=None, headers=None):
    return lambda body, request: JSONResponse({"error": {"message": message, "code": code}}, status, headers)


# One request


def test_temperature_and_max_tokens_are_always_sent():
    bodies = []
    outcome = ask(lambda body, request: bodies.append(body) or JSONResponse(answer()))
    assert outcome == Completion("Berlin <> city <> cities", "stop", 7, 3)
    assert bodies[0]["temperature"] == 0
    assert bodies[0]["max_tokens"] == 1024
    assert bodies[0]["messages"][0]["content"].endswith("Input:\nI live in Berlin.")
    assert request_body(LlmConfig(max_tokens=10, extra_body={"seed": 1}), ("a", "b"))["max_tokens"] == 20


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"message": {"content": [{"type": "text", "text": "a <> "}, {"type": "text", "text": "b"}]}}, ("a <> b", "")),
        ({"message": {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}]}}, ("a", "")),
        ({"message": {"content": None, "refusal": "I cannot."}, "finish_reason": "stop"}, ("I cannot.", "stop")),
        ({"message": {"content": None}, "finish_reason": "content_filter"}, ("", "content_filter")),
        ({"message": {"content": "a"}, "finish_reason": "MAX_TOKENS"}, ("a", "length")),
        ({"message": {"content": "a"}, "finish_reason": "model_length"}, ("a", "length")),
        ({"message": {"content": "a"}, "finish_reason": "SAFETY"}, ("a", "content_filter")),
        ({"message": {"content": "a"}, "finish_reason": "eos_token"}, ("a", "eos_token")),
    ],
)
def test_what_other_servers_make_of_the_protocol(choice, expected):
    found = read_completion({"choices": [choice, {"message": {"content": "another"}}], "usage": {"prompt_tokens": 5.0}})
    assert (found.text, found.finish_reason) == expected
    assert (found.prompt_tokens, found.completion_tokens) == (5, None)
    assert found.used(9) == (5, len(expected[0]) // 4)


def test_content_of_a_kind_that_nobody_knows_is_no_reply():
    with pytest.raises(ValueError, match="not text"):
        read_completion({"choices": [{"message": {"content": [{"type": "image"}]}}]})


def test_the_page_of_a_proxy_is_told_in_its_own_words():
    page = "<html><head><title>503 Service Unavailable</title></head>\n<body><h1>503</h1></body></html>"
    outcome = ask(lambda body, request: Response(page, 503, media_type="text/html"))
    assert outcome.reason == "503 Service Unavailable"


@pytest.mark.parametrize(
    ("handler", "kind", "words"),
    [
        (failing(401, "bad key"), Fatal, "refuses access: 401 bad key"),
        (failing(403), Fatal, "refuses access"),
        (failing(404, "The model `m` does not exist"), Fatal, "does not have model 'm'"),
        (failing(429, "You exceeded your quota", "insufficient_quota"), Fatal, "no credit left"),
        (failing(400, "context too long"), Refusal, "400 context too long"),
        (failing(422), Refusal, "422"),
        (failing(429, headers={"retry-after": "7"}), Retry, "429"),
        (failing(500), Retry, "500"),
        (failing(503), Retry, "503"),
        (lambda b, r: Response("<html>gateway</html>"), Retry, "not a chat completion"),
        (lambda b, r: Response('{"choices": [{"mess'), Retry, "not a chat completion"),
        (lambda b, r: JSONResponse({"choices": []}), Retry, "no choices"),
        (lambda b, r: JSONResponse([1]), Retry, "no choices"),
        (lambda b, r: StreamingResponse(iter([b"{"]), headers={"content-length": "99"}), Retry, "connection failed"),
    ],
)
def test_what_a_failure_means(handler, kind, words):
    outcome = ask(handler)
    assert isinstance(outcome, kind)
    assert words in outcome.reason
    if isinstance(outcome, Retry):
        assert outcome.retry_after == (7 if "429" in words else 0)
        assert not outcome.unreachable


def test_nobody_there_is_told_apart_from_a_broken_connection():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"

    async def go():
        client = Client(LlmConfig(model="m", base_url=url))
        return await client.ask({})

    outcome = asyncio.run(go())
    assert isinstance(outcome, Retry)
    assert outcome.unreachable


@pytest.mark.parametrize("option", ["read_timeout", "total_timeout"])
def test_a_server_that_takes_too_long_is_left(option):
    async def drip():
        for _ in range(30):
            await asyncio.sleep(0.05 if option == "total_timeout" else 2)
            yield b" "

    outcome = ask(lambda b, r: StreamingResponse(drip(), media_type="application/json"), **{option: 0.4})
    assert isinstance(outcome, Retry)
    assert f"(llm.{option})" in outcome.reason


def test_a_reply_without_end_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(client_module, "MAX_BODY_BYTES", 100_000)
    sent = 0

    async def endless():
        nonlocal sent
        while sent < 50_000_000:
            sent += 10_000
            yield b" " * 10_000
            await asyncio.sleep(0)

    outcome = ask(lambda b, r: StreamingResponse(endless()))
    assert isinstance(outcome, Retry)
    assert "larger than 100000 bytes" in outcome.reason
    assert sent < 50_000_000


def test_the_key_is_sent_and_shown_nowhere(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    seen = []

    def tell_tale(body, request):
        seen.append(request.headers["authorization"])
        return JSONResponse({"error": {"message": f"wrong key {KEY} in {seen[-1]}"}}, 401)

    outcome = ask(tell_tale)
    assert seen == [f"Bearer {KEY}"]
    assert isinstance(outcome, Fatal)
    assert KEY not in outcome.reason
    assert "***" in outcome.reason


def test_without_a_key_openai_is_refused_and_a_local_server_is_not(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError, match="OPENAI_API_KEY is not set"):
        Client(LlmConfig())
    with pytest.raises(InputError, match="OTHER_KEY is not set"):
        Client(LlmConfig(key_env="OTHER_KEY"))
    Client(LlmConfig(base_url="http://localhost:8000/v1"))
    with pytest.raises(InputError, match="not an http"):
        Client(LlmConfig(base_url="localhost:8000"))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "-4"}, 0),
        ({}, 0),
    ],
)
def test_retry_after_in_all_its_forms(headers, seconds):
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date_to_come():
    assert retry_after({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}) > 1e8


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": None}, []])
def test_a_server_that_counts_no_tokens_is_believed_to_have_counted_none(usage):
    completion = read_completion(answer("x", usage=usage))
    assert (completion.prompt_tokens, completion.completion_tokens) == (None, None)


def test_null_content_and_broken_surrogates_become_text():
    assert read_completion(answer(None)).text == ""
    assert read_completion(json.loads(json.dumps(answer("a \ud83d b")))).text == "a ? b"


# Limits, prices, budget


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50)), max_size=60), st.integers(10, 6000))
def test_no_minute_has_more_than_its_share_and_a_burst(arrivals, per_minute):
    bucket, now, starts = Bucket(per_minute, burst=2.0), 1000.0, []
    for pause, amount in arrivals:
        now += pause
        starts.append((now + bucket.reserve(amount, now), amount))
    for first, _ in starts:
        within = sum(amount for start, amount in starts if first <= start < first + 60)
        assert within <= per_minute * 62 / 60 + 50 + 1e-6  # the burst, and the last one that began


def test_units_that_are_given_back_can_be_used():
    bucket = Bucket(60, burst=0)
    assert bucket.reserve(30, 0.0) == 0
    assert bucket.reserve(1, 0.0) == 30
    bucket.give_back(31)
    assert bucket.reserve(1, 0.0) == 0
    assert Bucket(0).reserve(1e9, 0.0) == 0


def test_prices_come_from_the_config_or_the_table():
    assert price_of("no such model", 1.0, 2.0) == Price(1, 2)
    assert price_of("gpt-4o-mini") == Price(pytest.approx(0.15), pytest.approx(0.6))
    assert price_of("no such model") is None
    with pytest.raises(InputError, match="price_in"):
        price_of("m", 1.0)
    with pytest.raises(InputError, match=r"budget\.usd"):
        Budget(None, usd=1.0)


def test_the_estimate_learns_what_requests_cost():
    estimate = Estimate()
    before = estimate.prompt(4000), estimate.reply(1)
    for _ in range(200):
        estimate.learn(1000, 1, 500, 40)
    assert before == (1008, 120)
    assert estimate.prompt(4000) == pytest.approx(2000, rel=0.05)
    assert estimate.reply(2) == pytest.approx(80, rel=0.1)


# Many requests


@asynccontextmanager
async def sender(ledger, config, **limits):
    budget = Budget(Price(1, 2), **limits)
    client = Client(config)
    total = sum(ledger.states().values())
    try:
        yield Sender(config, client, ledger, budget, Progress(total, 0, budget)), budget
    finally:
        await client.close()


def send(path, config, count, **limits):
    """Sends `count` demo sentences; (sender, budget, states, sums paid)."""

    async def go(ledger):
        async with sender(ledger, config, **limits) as (s, budget):
            await s.run()
            return s, budget

    with Ledger(path / "ledger.sqlite") as ledger:
        scan(ledger, (Sentence(row["text"]) for row in demo_rows(count)), Terms("m", "v", "{}"), config.sentences_per_request)
        s, budget = asyncio.run(go(ledger))
        return s, budget, ledger.states(), ledger.spent()


def test_no_more_requests_are_under_way_than_asked_for(tmp_path):
    under_way, most = 0, 0

    async def endpoint(request):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return JSONResponse(answer("the <> word"))

    with serve_app(Starlette(routes=[Route("/v1/chat/completions", endpoint, methods=["POST"])])) as url:
        send(tmp_path, LlmConfig(model="m", base_url=url + "/v1", concurrency=7, max_bad_replies=1), 60)
    assert most == 7


def test_a_budget_is_kept_and_nearly_used_up(tmp_path):
    with serve() as server:
        config = LlmConfig(model="m", base_url=server.url)
        s, budget, states, (usd, *tokens) = send(tmp_path, config, 200, usd=0.02)
        assert s.out_of_budget
        assert 0.017 < usd <= 0.02 + 32 * 0.0006  # at most what is under way beyond it
        assert states["pending"] == 200 - states["ok"] > 0
        assert budget.spent_usd == pytest.approx(usd)
        s, _, states, (_, *tokens) = send(tmp_path / "t", config, 200, tokens=20_000)
        assert 17_000 < sum(tokens) <= 20_000 + 32 * 500


def test_the_server_is_left_alone_as_long_as_it_asked_for(tmp_path):
    with serve(faults="rate_limit=0.4", retry_after=0.4) as server:
        _, _, states, _ = send(tmp_path, LlmConfig(model="m", base_url=server.url, concurrency=40), 40)
        debug = server.debug()
    assert states == {"ok": 40}
    assert debug["faults"]["rate_limit"] > 5
    assert debug["too_early"] == 0


def test_a_cut_reply_keeps_its_whole_lines_and_is_marked(tmp_path):
    with serve() as server:
        _, _, states, _ = send(tmp_path, LlmConfig(model="m", base_url=server.url, max_tokens=40), 30)
        sent = server.sent()
    assert states["cut"] == 30  # the model's own limit: asking again would change nothing
    assert set(sent.values()) == {1}
    dropped = Counter()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        found = list(records(ledger, dropped))
    assert dropped["reply: truncated"] == 30
    for record, row in zip(found, demo_rows(30), strict=True):
        whole = row["reply"][:160].split("\n")[:-1]
        assert {record.text[m.start : m.end] for m in record.mentions} == {line.split(" <> ")[0] for line in whole}


def test_an_input_that_the_server_refuses_is_noted_and_the_others_go_on(tmp_path):
    poison = demo_rows(20)[7]["text"]

    async def endpoint(request):
        body = json.loads(await request.body())
        if body["messages"][0]["content"].endswith(poison):
            return JSONResponse({"error": {"message": "content policy"}}, 400)
        return JSONResponse(answer("None"))

    with serve_app(Starlette(routes=[Route("/v1/chat/completions", endpoint, methods=["POST"])])) as url:
        config = LlmConfig(model="m", base_url=url + "/v1", concurrency=2)
        _, _, states, _ = send(tmp_path, config, 20)
        assert states == {"ok": 19, "refused": 1}
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert ledger.errors() == [("refused", "400 content policy", 1)]


def test_a_server_that_refuses_everything_ends_the_run(tmp_path):
    async def endpoint(request):
        return JSONResponse({"error": {"message": "use max_completion_tokens instead"}}, 400)

    with serve_app(Starlette(routes=[Route("/v1/chat/completions", endpoint, methods=["POST"])])) as url:
        with pytest.raises(InputError, match="refuses the requests: 400 use max_completion_tokens"):
            send(tmp_path, LlmConfig(model="m", base_url=url + "/v1"), 20)
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert ledger.states() == {"pending": 20}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_refused_inputs_at_the_start_do_not_stand_for_all(tmp_path, concurrency):
    poisons = [row["text"] for row in demo_rows(4)]

    async def endpoint(request):
        body = json.loads(await request.body())
        if body["messages"][0]["content"].endswith(tuple(poisons)):
            return JSONResponse({"error": {"message": "context_length_exceeded"}}, 400)
        return JSONResponse(answer("None"))

    with serve_app(Starlette(routes=[Route("/v1/chat/completions", endpoint, methods=["POST"])])) as url:
        _, _, states, _ = send(tmp_path, LlmConfig(model="m", base_url=url + "/v1", concurrency=concurrency), 12)
    assert states == {"ok": 8, "refused": 4}


def test_a_small_corpus_that_is_refused_whole_is_no_success(tmp_path):
    async def endpoint(request):
        return JSONResponse({"error": {"message": "too long"}}, 400)

    app = Starlette(routes=[Route("/v1/chat/completions", endpoint, methods=["POST"])])
    with serve_app(app) as url, pytest.raises(InputError, match="refuses the requests: 400 too long"):
        send(tmp_path, LlmConfig(model="m", base_url=url + "/v1"), 2)


def test_tokens_that_the_server_does_not_count_are_spent_all_the_same(tmp_path):
    async def endpoint(request):
        return JSONResponse({key: value for key, value in answer("None").items() if key != "usage"})

    with serve_app(Starlette(routes=[Route("/v1/chat/completions", endpoint, methods=["POST"])])) as url:
        send(tmp_path, LlmConfig(model="m", base_url=url + "/v1"), 5)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.spent()[1] > 5 * 100  # a budget in tokens holds over several runs


def test_a_model_without_a_usable_reply_ends_the_run_before_all_is_paid(tmp_path):
    with serve(faults="empty=0.5,garbled=0.5") as server:
        with pytest.raises(InputError, match="none of the first replies is usable"):
            send(tmp_path, LlmConfig(model="m", base_url=server.url, concurrency=8), 400)
        assert sum(server.sent().values()) < 200
