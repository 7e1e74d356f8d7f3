"""The service over real HTTP: answers, limits, error lines, a full queue, many requests at once, an orderly end."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import uvicorn

from nuner_jax.config import ServeConfig
from nuner_jax.errors import InputError
from nuner_jax.inference.entities import Entity
from nuner_jax.serve.app import build
from nuner_jax.serve.worker import Busy, Job, Worker


class Finder:
    """Finds the names of the labels themselves; remembers its calls; waits while `gate` is closed."""

    labels = ()
    concepts = object()

    def __init__(self):
        self.calls: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def predict(self, texts, labels=None, threshold=None, flat=True):
        self.gate.wait(20)
        self.calls.append(len(texts))
        if any("boom" in text for text in texts):
            raise RuntimeError("boom")
        if "" in labels:
            raise InputError("labels: every label needs\na name")
        found = [sorted((m.start(), m.end(), x) for x in labels for m in re.finditer(re.escape(x), text)) for text in texts]
        return [[Entity(a, b, t[a:b], x, 0.9) for a, b, x in of_text] for t, of_text in zip(texts, found, strict=True)]


@contextlib.contextmanager
def running(finder, **limits):
    """(host, port) of the service."""
    server = uvicorn.Server(uvicorn.Config(build(finder, ServeConfig(**limits), "finder"), log_level="critical"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            finder.gate.set()
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def ask(address, path, body=None, headers=None):
    """(status, headers, parsed body or text); POST if there is a body, which is JSON unless it is bytes."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    data = body if body is None or isinstance(body, (bytes, list)) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if headers is None else headers
    connection.request("GET" if body is None else "POST", path, data, headers, encode_chunked=isinstance(body, list))
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, json.loads(text) if "json" in (answer.headers["content-type"] or "") else text


@pytest.fixture(scope="module")
def service():
    with running(Finder(), max_texts=3, max_labels=4, max_characters=100) as address:
        yield address


def test_every_text_gets_its_entities_with_character_offsets(service):
    texts = ["🍜 soup and soup", "nothing", ""]
    status, _, answer = ask(service, "/predict", {"texts": texts, "labels": ["soup"]})
    assert status == 200
    assert [[texts[i][e["start"] : e["end"]] for e in of] for i, of in enumerate(answer["entities"])] == [["soup"] * 2, [], []]
    assert answer["entities"][0][0] == {"start": 2, "end": 6, "text": "soup", "label": "soup", "score": 0.9}
    assert ask(service, "/predict", {"texts": []})[2] == {"entities": []}


def test_labels_may_be_described(service):
    body = {"texts": ["soup"], "labels": {"soup": "something to eat"}, "threshold": 0.5, "flat": False}
    assert ask(service, "/predict", body)[2]["entities"][0][0]["label"] == "soup"


def test_health_and_labels(service):
    health = ask(service, "/health")
    assert (health[0], health[2]["status"], health[2]["model"], health[2]["waiting"]) == (200, "ok", "finder", 0)
    assert ask(service, "/labels")[2] == {"labels": [], "zero_shot": True}


MALFORMED = [
    (b"{texts}", 400, "the body is not valid JSON"),
    (b"\xff\xfe", 400, ""),
    (b"", 422, "the body has to be"),
    ([1], 422, ""),
    ({"labels": ["a"]}, 422, "texts is missing"),
    ({"texts": "soup", "labels": ["a"]}, 422, "texts has to be a valid list"),
    ({"texts": ["a", 1], "labels": ["a"]}, 422, "texts.1 has to be a valid string"),
    ({"texts": ["a"], "labels": "a"}, 422, "labels: expected a list of names"),
    ({"texts": ["a"], "labels": [None]}, 422, "labels: expected a list of names"),
    ({"texts": ["a"]}, 422, "labels: this model has none of its own"),
    ({"texts": ["a"], "labels": [""]}, 422, "labels: every label needs a name"),
    ({"texts": ["a"], "labels": ["a"], "threshold": 2}, 422, "threshold has to be less than or equal to 1"),
    (b'{"texts": ["a"], "labels": ["a"], "threshold": NaN}', 422, "threshold has to be"),
    ({"texts": ["a"], "labels": ["a"], "flat": "yes"}, 422, "flat has to be a valid boolean"),
    ({"texts": ["a"], "label": ["a"]}, 422, "label is not a field"),
    (b'{"texts": ["\\ud800"], "labels": ["a"]}', 422, "texts.0 has half of a surrogate pair"),
    ({"texts": ["a"] * 4, "labels": ["a"]}, 413, "4 texts are too many: a request may have 3"),
    ({"texts": ["a"], "labels": list("abcde")}, 413, "5 labels are too many"),
    ({"texts": ["a" * 90], "labels": {"a": "b" * 10}}, 413, "101 characters are too many"),
    (b" " * 200_000, 413, "the request is too large"),
]


@pytest.mark.parametrize(("body", "status", "line"), MALFORMED)
def test_what_is_wrong_is_said_in_one_line(service, body, status, line):
    body = json.dumps(body).encode() if isinstance(body, list) else body
    found, _, answer = ask(service, "/predict", body)
    assert found == status
    assert list(answer) == ["error"]
    assert line in answer["error"]
    assert "\n" not in answer["error"]
    assert len(answer["error"]) < 200


def test_a_body_of_unknown_length_is_cut_off_as_well(service):
    status, _, answer = ask(service, "/predict", [b" " * 50_000] * 4)
    assert (status, answer["error"][:24]) == (413, "the request is too large")


def test_a_form_is_no_json(service):
    status, _, answer = ask(service, "/predict", b"texts=a", {"Content-Type": "application/x-www-form-urlencoded"})
    assert (status, answer) == (415, {"error": "Content-Type has to be application/json"})


def test_other_paths_and_methods_are_refused_in_the_same_form(service):
    assert ask(service, "/nothing")[::2] == (404, {"error": "Not Found"})
    assert ask(service, "/predict")[::2] == (405, {"error": "Method Not Allowed"})


def test_the_page_needs_nothing_from_elsewhere(service):
    status, headers, text = ask(service, "/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not re.findall(r"(?:src|href)=\"(?!data:)|url\(|@import|https?:", text)


def test_a_full_queue_is_told_and_what_waits_is_answered():
    finder = Finder()
    finder.gate.clear()
    with running(finder, max_waiting=2) as address:
        answers = []

        def send(label):
            answers.append(ask(address, "/predict", {"texts": [label], "labels": [label]}))

        threads = [threading.Thread(target=send, args=(label,)) for label in "abcde"]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 20
        while len(answers) < 2 and time.monotonic() < until:  # one is with the model, two wait, two are refused
            time.sleep(0.01)
        assert ask(address, "/health")[2]["waiting"] == 2
        finder.gate.set()
        for thread in threads:
            thread.join(20)
    assert sorted(status for status, _, _ in answers) == [200, 200, 200, 503, 503]
    busy = next(answer for answer in answers if answer[0] == 503)
    assert (busy[1]["Retry-After"], busy[2]["error"]) == ("1", "busy: 2 requests are waiting; try again")


def test_a_failed_prediction_fails_only_its_own_request():
    finder = Finder()
    finder.gate.clear()
    worker = Worker(finder, max_waiting=9, max_texts=9)
    blocker = worker.submit(Job(["x"], ["y"]))
    futures = [worker.submit(Job([text], ["a"])) for text in ("a", "boom", "aa")]
    finder.gate.set()
    assert blocker.result(20) == [[]]
    assert len(futures[0].result(20)[0]) == 1
    assert len(futures[2].result(20)[0]) == 2
    with pytest.raises(RuntimeError):
        futures[1].result(20)
    worker.close()
    with pytest.raises(Busy):
        worker.submit(Job(["a"], ["a"]))


def test_equal_requests_go_through_the_model_together_and_others_apart():
    finder = Finder()
    finder.gate.clear()
    worker = Worker(finder, max_waiting=99, max_texts=4)
    futures = [worker.submit(Job(["x"], ["first"]))]
    while worker.waiting:
        time.sleep(0.001)
    futures += [worker.submit(Job([f"a{n}"], ["a"])) for n in range(6)]
    futures += [
        worker.submit(Job(["a"], {"a": "letter"})),
        worker.submit(Job(["a"], ["a"], 0.5)),
        worker.submit(Job(["a"] * 9, ["a"])),
    ]
    finder.gate.set()
    worker.close()  # after everything that waits
    assert finder.calls == [1, 4, 2, 1, 1, 9]
    assert [len(f.result()) for f in futures] == [1] * 9 + [9]


async def _raw(address, data):
    """The whole answer to a request sent as it is."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer


def _request(body):
    head = [b"POST /predict HTTP/1.1", b"Host: x", b"Content-Type: application/json", b"Connection: close"]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", body])


def test_a_thousand_requests_at_once_good_and_malformed():
    good = _request(json.dumps({"texts": ["a soup"], "labels": ["soup"]}).encode())
    bad = _request(b'{"texts": 5}')
    broken = b"NONSENSE\r\n\r\n"
    with running(Finder(), max_waiting=1000) as address:

        async def everything():
            return await asyncio.gather(*(_raw(address, (good, bad, broken, good)[n % 4]) for n in range(1000)))

        answers = asyncio.run(everything())
        assert ask(address, "/health")[2]["waiting"] == 0
    statuses = [int(answer.split()[1]) for answer in answers]
    assert [statuses[n::4].count(code) for n, code in enumerate((200, 422, 400, 200))] == [250] * 4
    assert all(b'"text":"soup"' in answer for answer in answers[::4])


@pytest.fixture(scope="module")
def saved(tiny_encoder, tmp_path_factory):
    """A fitted tiny model, saved."""
    from nuner_jax import NuNER

    ner = NuNER.from_pretrained(tiny_encoder).fit(["[alpha](letter) beta", "gamma [delta](letter)"])
    return ner.save(tmp_path_factory.mktemp("saved") / "model")


def start(*options):
    """The command, ready; its address."""
    words = [sys.executable, "-m", "nuner_jax", "serve", "--port=0", *map(str, options)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith("ready: http://127.0.0.1:"), process.communicate()[1]
    return process, ("127.0.0.1", int(line.rpartition(":")[2]))


@pytest.mark.slow
def test_the_command_serves_a_saved_model_and_ends_in_order(saved):
    process, address = start("--model", saved)
    try:
        assert ask(address, "/labels")[2] == {"labels": ["letter"], "zero_shot": False}
        assert ask(address, "/predict", {"texts": ["alpha beta"], "threshold": 0.0})[0] == 200
        status, _, answer = ask(address, "/predict", {"texts": ["alpha"], "labels": ["dish"]})
        assert (status, "no concept encoder" in answer["error"]) == (422, True)
        replies = []
        body = {"texts": ["alpha beta " * 4000], "threshold": 0.0}
        sender = threading.Thread(target=lambda: replies.append(ask(address, "/predict", body)))
        sender.start()
        while not ask(address, "/health")[2]["waiting"] and not replies and sender.is_alive():
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        sender.join(60)
        assert process.wait(60) == 0
        assert [status for status, _, _ in replies] == [200]
    finally:
        process.kill()


def test_bad_options_end_with_one_line(tmp_path, capsys):
    from nuner_jax.serve.__main__ import main

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words, line in (
            ([f"--port={port}"], f"port: cannot listen on 127.0.0.1:{port}"),
            (["--port=0", "--max_texts=0"], "max_texts 0 is not 1 or more"),
            (["--port=0", f"--model={tmp_path / 'none'}"], "no such folder"),
        ):
            with pytest.raises(SystemExit) as end:
                main(words)
            error = capsys.readouterr().err
            assert end.value.code == 2
            assert line in error
            assert error.count("\n") == 1
