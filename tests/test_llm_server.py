"""The demo LLM server over real HTTP, with the SDK's own client: what it answers, and how it fails when told to."""

import json
import subprocess
import sys
import time
from functools import lru_cache

import openai
import pytest
from llm_serving import demo_rows, serve

from nuner_jax.annotate.prompt import render, render_several, split_reply
from nuner_jax.demo import llm_replies, llm_server
from nuner_jax.demo.llm_process import demo_server
from nuner_jax.errors import InputError


@lru_cache  # a client takes longer to make than to use
def client(url, api_key="none"):
    return openai.OpenAI(base_url=url, api_key=api_key, max_retries=0)


def ask(url, content, **options):
    messages = [{"role": "user", "content": content}]
    answer = client(url).chat.completions.create(model="m", messages=messages, **{"temperature": 0, "max_tokens": 999, **options})
    return answer.choices[0], answer.usage


def test_it_answers_what_was_recorded_for_one_sentence_or_several():
    rows = demo_rows(3)
    with serve() as server:
        choice, usage = ask(server.url, render(rows[0]["text"]))
        assert (choice.message.content, choice.finish_reason) == (rows[0]["reply"], "stop")
        assert usage.prompt_tokens > usage.completion_tokens > 0
        choice, _ = ask(server.url, render_several([row["text"] for row in rows]))
        assert [part.strip() for part in split_reply(choice.message.content, 3)] == [row["reply"] for row in rows]
        choice, _ = ask(server.url, f"Name the entities.\nInput:\n{rows[1]['text']}")  # another prompt, the same last part
        assert choice.message.content == rows[1]["reply"]


def test_a_sentence_that_nobody_recorded_gets_the_same_reply_each_time_and_max_tokens_holds():
    text = "In 1987 Greta Olsen repaired 12 windmills near Skagen."
    with serve() as server:
        first, _ = ask(server.url, render(text))
        assert "Greta Olsen <> name" in first.message.content
        assert ask(server.url, render(text))[0].message.content == first.message.content
        short, usage = ask(server.url, render(text), max_tokens=5)
        assert (short.finish_reason, usage.completion_tokens) == ("length", 5)
        assert first.message.content.startswith(short.message.content)
        assert server.sent() == {text: 3}


def test_wrong_key_and_unknown_model_are_told_as_openai_does():
    with serve(key="secret", models="a,b") as server:
        with pytest.raises(openai.AuthenticationError):
            ask(server.url, "hello")
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client(server.url, api_key="secret").chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])


def outcome(url, text):
    try:
        choice, _ = ask(url, render(text), timeout=0.4)
    except openai.APIStatusError as error:
        return error.status_code, error.response.headers.get("retry-after")
    except openai.APIConnectionError as error:
        return "timeout" if isinstance(error, openai.APITimeoutError) else "dropped", None
    return choice.finish_reason, choice.message.content


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("rate_limit", lambda o, r: o == (429, "2")),
        ("server_error", lambda o, r: o == (500, None)),
        ("hang", lambda o, r: o == ("timeout", None)),
        ("drop", lambda o, r: o == ("dropped", None)),
        ("cut", lambda o, r: o[0] == "length" and r.startswith(o[1]) and o[1] != r),
        ("empty", lambda o, r: o == ("stop", "")),
        ("garbled", lambda o, r: len(o[1]) == len(r) and o[1] != r),
        ("huge", lambda o, r: len(o[1]) > 300_000),
    ],
)
def test_each_fault_can_be_asked_for(kind, expected):
    row = demo_rows(1)[0]
    with serve(faults=f"{kind}=1", retry_after=2.0, hang_seconds=2.0) as server:
        assert expected(outcome(server.url, row["text"]), row["reply"])
        assert server.debug()["faults"] == {kind: 1}


def test_faults_are_the_same_for_the_same_seed_and_about_as_many_as_asked_for():
    texts = [row["text"] for row in demo_rows(60)]
    seen = []
    for seed in (1, 1, 2):
        with serve(faults="server_error=0.3,empty=0.2", seed=seed) as server:
            seen.append([outcome(server.url, text)[0] for text in texts])
    assert seen[0] == seen[1] != seen[2]
    assert 8 <= seen[0].count(500) <= 28


def test_a_request_that_comes_before_the_time_it_was_told_is_noticed():
    with serve(faults="rate_limit=1", retry_after=0.2) as server:
        outcome(server.url, "one")
        time.sleep(0.25)
        outcome(server.url, "one")
        assert server.debug()["too_early"] == 0
        outcome(server.url, "one")
        assert server.debug()["too_early"] == 1


def requests_file(path, texts):
    rows = [
        {
            "custom_id": str(i),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": render(text)}]},
        }
        for i, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("end", "status", "done", "failed"),
    [
        ("completed", "completed", 9, 0),
        ("partial", "completed", 6, 3),
        ("expired", "expired", 4, 5),
        ("cancelled", "cancelled", 4, 5),
        ("errors", "completed", 0, 9),
        ("failed", "failed", 0, 0),
    ],
)
def test_a_batch_goes_through_its_life_and_ends_as_asked_for(tmp_path, end, status, done, failed):
    rows = demo_rows(9)
    with serve(batch_outcomes=end) as server:
        api = client(server.url)
        file = api.files.create(file=requests_file(tmp_path / "in.jsonl", [row["text"] for row in rows]), purpose="batch")
        made = api.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"name": "x"}
        )
        states = [made.status]
        while states[-1] not in ("completed", "expired", "failed", "cancelled"):
            batch = api.batches.retrieve(made.id)
            states.append(batch.status)
        assert states[0] == "validating"
        assert states[-1] == status
        assert [b.metadata for b in api.batches.list()] == [{"name": "x"}]
        lines = {}
        for kind, name in (("done", batch.output_file_id), ("failed", batch.error_file_id)):
            lines[kind] = [json.loads(line) for line in api.files.content(name).text.splitlines()] if name else []
        assert (len(lines["done"]), len(lines["failed"])) == (done, failed)
        for line in lines["done"]:
            reply = line["response"]["body"]["choices"][0]["message"]["content"]
            assert reply == rows[int(line["custom_id"])]["reply"]


def test_a_batch_over_the_limits_or_of_broken_lines_fails(tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"custom_id": "1"}\n')
    with serve() as server:
        api = client(server.url)
        file = api.files.create(file=broken, purpose="batch")
        made = api.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        batch = api.batches.retrieve(made.id)
        assert batch.status == "failed"
        assert batch.errors.data[0].message


@pytest.mark.parametrize("faults", ["drop", "drop=x", "drop=0.7,cut=0.7", "drop=-1", "sneeze=0.1"])
def test_bad_faults_are_refused(faults):
    with pytest.raises(InputError, match="faults"):
        llm_server.parse_faults(faults)


def test_a_replies_file_without_replies_is_named_with_its_line(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"text": "a", "reply": "b"}\n{"text": "a"}\n')
    with pytest.raises(InputError, match=r"r\.jsonl, line 2"):
        llm_replies.load_replies(str(path))


def test_as_a_process_it_tells_its_port_and_goes_with_its_parent():
    with demo_server() as url:
        assert ask(url, render(demo_rows(1)[0]["text"]))[0].message.content == demo_rows(1)[0]["reply"]
    with pytest.raises(openai.APIConnectionError):
        ask(url, "gone")


def test_a_taken_port_is_one_line(tmp_path):
    with demo_server() as url:
        port = url.split(":")[2].removesuffix("/v1")
        command = [sys.executable, "-m", "nuner_jax.demo.llm_server", "--port", port]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert port in second.stderr
