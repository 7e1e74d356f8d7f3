"""The annotate command as a user runs it: what it writes, that it resumes, and how it ends when something is wrong."""

import gzip
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import yaml
from llm_serving import annotate, demo_rows, serve

import nuner_jax.annotate
from nuner_jax.schema import read_annotated

KEY = "sk-test-1234567890abcdef"


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, request):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    if "demo_config" not in request.node.name:  # the figure takes longer than all the rest
        monkeypatch.setattr("nuner_jax.annotate.report.plot_concepts", lambda *_: False)


def corpus(path, count, start=0):
    rows = demo_rows(start + count)[start:]
    path.write_text("".join(json.dumps({"text": row["text"], "id": f"s{start + i}"}) + "\n" for i, row in enumerate(rows)))
    return path


def words(source, out, url, *more):
    flags = ["--corpus.path", source, "--corpus.split", "none", "--corpus.filters", "none", "--out", out]
    return [*flags, "--llm.base_url", url, "--llm.model", "m", "--llm.price_in", 1, "--llm.price_out", 2, *more]


def outputs(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith("ledger")}


def annotated(out):
    return [record for path in sorted(out.glob("annotations-*.jsonl")) for record in read_annotated(path)]


def one_line(capsys):
    text = capsys.readouterr().err
    assert "Traceback" not in text
    last = text.strip().splitlines()[-1]
    assert last.startswith("python -m nuner_jax.annotate: error: ")
    return last


# What it does


def test_every_sentence_comes_back_annotated_in_order_with_report_and_config(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    out = tmp_path / "out"
    with serve(key=KEY) as server:
        assert annotate(*words(corpus(tmp_path / "c.jsonl", 40), out, server.url)) == 0
    records = annotated(out)
    assert [(r.id, r.text) for r in records] == [(f"s{i}", row["text"]) for i, row in enumerate(demo_rows(40))]
    lines = sum(row["reply"].count("\n") + 1 for row in demo_rows(40))
    assert sum(len(r.mentions) for r in records) >= 0.99 * lines
    assert "40 ok" in (out / "report.md").read_text()
    assert yaml.safe_load((out / "config.yaml").read_text())["llm"]["model"] == "m"
    assert all(KEY.encode() not in path.read_bytes() for path in out.iterdir())


def test_the_same_command_again_sends_nothing_and_changes_nothing(tmp_path):
    out = tmp_path / "out"
    with serve() as server:
        command = words(corpus(tmp_path / "c.jsonl", 30), out, server.url)
        assert annotate(*command) == 0
        sent, written = server.sent(), outputs(out)
        assert annotate(*command) == 0
        assert server.sent() == sent
    assert outputs(out) == written
    assert annotate(*command) == 0  # nothing to do needs no server


def test_a_longer_corpus_costs_only_what_is_new_and_a_shorter_one_is_what_comes_out(tmp_path):
    out = tmp_path / "out"
    with serve() as server:
        assert annotate(*words(corpus(tmp_path / "c.jsonl", 10), out, server.url)) == 0
        assert annotate(*words(corpus(tmp_path / "c.jsonl", 20, start=5), out, server.url)) == 0
        assert set(server.sent().values()) == {1}
        assert len(server.sent()) == 25
        assert [r.id for r in annotated(out)] == [f"s{i}" for i in range(5, 25)]
        assert annotate(*words(corpus(tmp_path / "c.jsonl", 3), out, server.url)) == 0
        assert [r.id for r in annotated(out)] == ["s0", "s1", "s2"]
        assert len(server.sent()) == 25


def test_after_a_reading_that_broke_off_the_corpus_before_is_read_again(tmp_path):
    out, broken = tmp_path / "out", corpus(tmp_path / "broken.jsonl", 5, start=20)
    broken.write_text(broken.read_text() + "{")
    with serve() as server:
        command = words(corpus(tmp_path / "c.jsonl", 10), out, server.url)
        assert annotate(*command) == 0
        written = outputs(out)
        assert annotate(*words(broken, out, server.url)) == 2
        assert annotate("parse", *command) == 2
        assert len(annotated(out)) == 10  # nothing is made of half a corpus
        assert annotate(*command) == 0
        assert set(server.sent().values()) == {1}
    assert outputs(out) == written


def test_another_model_is_asked_anew_and_the_old_replies_stay(tmp_path):
    out = tmp_path / "out"
    with serve() as server:
        command = words(corpus(tmp_path / "c.jsonl", 10), out, server.url)
        assert annotate(*command) == 0
        assert annotate(*command, "--llm.model", "other") == 0
        assert set(server.sent().values()) == {2}
        assert annotate(*command) == 0
        assert set(server.sent().values()) == {2}


def test_several_sentences_a_request_give_the_same_annotations_in_fewer_requests(tmp_path):
    with serve() as server:
        source = corpus(tmp_path / "c.jsonl", 30)
        assert annotate(*words(source, tmp_path / "one", server.url)) == 0
        assert annotate(*words(source, tmp_path / "many", server.url, "--llm.sentences_per_request", 8)) == 0
        assert len(server.sent()) == 30 + 4
    assert annotated(tmp_path / "one") == annotated(tmp_path / "many")


def test_parse_makes_the_annotations_again_without_a_server(tmp_path):
    out = tmp_path / "out"
    with serve() as server:
        command = words(corpus(tmp_path / "c.jsonl", 20), out, server.url)
        assert annotate(*command) == 0
    written = outputs(out)
    for path in (*out.glob("annotations-*"), out / "report.md"):
        path.unlink()
    (out / "annotations-00007-of-00009.jsonl").write_text("left over from a run with other files\n")
    assert annotate("parse", *command) == 0
    assert outputs(out) == written


def test_a_dry_run_forecasts_sends_nothing_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    with serve() as server:
        command = words(corpus(tmp_path / "c.jsonl", 50), out, server.url, "--budget.usd", 1.0)
        assert annotate(*command, "--dry_run") == 0
        assert server.sent() == {}
        assert not out.exists()
        forecast = capsys.readouterr().out
        assert "50, of which 0 are answered" in forecast
        assert "nothing was sent" in forecast
        expected = float(forecast.split("cost      about $")[1].split(",")[0])
        assert annotate(*command) == 0
    with sqlite3.connect(out / "ledger.sqlite") as db:
        spent = db.execute("SELECT SUM(cost) FROM requests").fetchone()[0]
    assert expected == pytest.approx(spent, rel=0.3)
    capsys.readouterr()
    assert annotate(*command, "--dry_run") == 0
    assert "50, of which 50 are answered" in capsys.readouterr().out


def test_a_budget_ends_the_run_in_good_order_and_more_of_it_goes_on(tmp_path, capsys):
    out = tmp_path / "out"
    with serve() as server:
        command = words(corpus(tmp_path / "c.jsonl", 60), out, server.url, "--llm.concurrency", 4)
        assert annotate(*command, "--budget.usd", 0.01) == 0
        assert "the budget is used up" in capsys.readouterr().err
        first = len(annotated(out))
        assert 10 < first < 60
        assert annotate(*command, "--budget.usd", 1) == 0
        assert len(annotated(out)) == 60
        assert set(server.sent().values()) == {1}


def test_the_demo_config_needs_nothing_but_the_package(tmp_path, capsys):
    assert annotate("--config", "demo/annotate", "--out", tmp_path / "out", "--corpus.limit", 25) == 0
    assert len(annotated(tmp_path / "out")) == 25
    assert (tmp_path / "out" / "concepts.png").stat().st_size > 1000
    assert "cost $0.00" in capsys.readouterr().err


# How it ends when something is wrong


def test_a_missing_key_is_told_before_anything_is_read(tmp_path, capsys):
    assert annotate("--corpus.path", "nothing-*.json.gz", "--out", tmp_path / "out") == 2
    assert "OPENAI_API_KEY is not set" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_where_nothing_is_left_to_do_no_key_is_needed(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with serve() as server:
        command = words(corpus(tmp_path / "c.jsonl", 5), out, server.url)
        assert annotate(*command) == 0
    assert annotate(*command, "--llm.base_url", "https://api.openai.com/v1") == 0


def test_parse_needs_no_more_than_the_directory(tmp_path):
    out = tmp_path / "out"
    with serve() as server:
        assert annotate(*words(corpus(tmp_path / "c.jsonl", 5), out, server.url)) == 0
    report = (out / "report.md").read_text()
    assert annotate("parse", "--out", out) == 0
    assert (out / "report.md").read_text() == report
    assert "| model | m |" in report


def test_a_wrong_key_or_model_loses_nothing(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve(key="another", models="m") as server:
        command = words(corpus(tmp_path / "c.jsonl", 10), out, server.url)
        assert annotate(*command) == 2
        line = one_line(capsys)
        assert "refuses access: 401" in line
        assert KEY not in line
        monkeypatch.setenv("OPENAI_API_KEY", "another")
        assert annotate(*command, "--llm.model", "typo") == 2
        assert "does not have model 'typo'" in one_line(capsys)
        assert annotate(*command) == 0
        assert len(annotated(out)) == 10


def test_an_unreachable_server_is_named(tmp_path, capsys):
    command = words(corpus(tmp_path / "c.jsonl", 3), tmp_path / "out", "http://127.0.0.1:9/v1", "--llm.connect_timeout", 0.5)
    assert annotate(*command) == 2
    assert "cannot reach http://127.0.0.1:9/v1" in one_line(capsys)


def test_requests_that_the_server_keeps_failing_are_left_for_the_next_run(tmp_path, capsys):
    out = tmp_path / "out"
    source = corpus(tmp_path / "c.jsonl", 40)
    with serve(faults="server_error=0.5") as server:
        assert annotate(*words(source, out, server.url, "--llm.max_tries", 2)) == 75
        assert "requests got no reply" in one_line(capsys)
        part = len(annotated(out))
        assert 0 < part < 40
    with serve() as server:
        assert annotate(*words(source, out, server.url)) == 0
        assert len(server.sent()) == 40 - part
    assert len(annotated(out)) == 40


@pytest.mark.parametrize(
    ("flags", "words_"),
    [
        (["--corpus.path", "{tmp}/none-*.json.gz"], "nothing matches"),
        (["--corpus.path", "{tmp}/empty.jsonl"], "no sentence to annotate"),
        (["--corpus.path", "{tmp}/bad.json.gz"], "bad.json.gz: damaged"),
        (["--llm.concurrency", "0"], "llm.concurrency"),
        (["--corpus.per_document=-1"], "corpus.per_document: must not be below 0, got -1"),
        (["--batch.max_requests", "0"], "batch.max_requests: must be above 0, got 0"),
        (["--corpus.seed", str(2**63)], f"corpus.seed: {2**63} does not fit in 64 bits"),
        (["--llm.extra_body", '{"model": "x"}'], "llm.extra_body"),
        (["--llm.modle", "x"], "llm.modle"),
        (["--llm.price_in", "null"], "price_in"),
        (["--llm.price_in", "null", "--llm.price_out", "null", "--budget.usd", "1"], "budget.usd"),
        (["--out", "{tmp}/file"], "file"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, flags, words_):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.json.gz").write_bytes(gzip.compress(corpus(tmp_path / "x.jsonl", 50).read_bytes())[:900])
    (tmp_path / "file").write_text("in the way")
    flags = [flag.replace("{tmp}", str(tmp_path)) for flag in flags]
    with serve() as server:
        assert annotate(*words(corpus(tmp_path / "c.jsonl", 3), tmp_path / "out", server.url, *flags)) == 2
        assert server.sent() == {}
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text
    assert words_ in text.splitlines()[-1]


def test_a_missing_extra_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)  # as if it were not installed
    for name in ("client", "stage", "batch"):
        monkeypatch.delitem(sys.modules, f"nuner_jax.annotate.{name}", raising=False)
        monkeypatch.delattr(nuner_jax.annotate, name, raising=False)
    assert annotate(*words(corpus(tmp_path / "c.jsonl", 3), tmp_path / "out", "http://localhost:9")) == 2
    assert "annotating needs the package openai: pip install 'nuner-jax[llm]'" in one_line(capsys)


def test_a_forecast_beside_what_is_no_ledger_is_one_line(tmp_path, capsys):
    (tmp_path / "ledger.sqlite").write_text("something else, and long enough that it cannot be taken for an empty file" * 9)
    assert annotate(*words(corpus(tmp_path / "c.jsonl", 3), tmp_path, "http://localhost:9", "--dry_run")) == 2
    assert "ledger.sqlite: file is not a database" in one_line(capsys)


def test_a_damaged_file_can_be_skipped_and_is_named_in_the_report(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(corpus(tmp_path / "x.jsonl", 50).read_bytes())[:-900])
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(corpus(tmp_path / "x.jsonl", 5, start=60).read_bytes()))
    with serve() as server:
        flags = words(tmp_path / "*.json.gz", tmp_path / "out", server.url, "--corpus.on_corrupt", "skip")
        assert annotate(*flags) == 0
    ids = [record.id for record in annotated(tmp_path / "out")]
    assert ids[-5:] == [f"s{i}" for i in range(60, 65)]
    assert 5 < len(ids) < 55
    assert "a.json.gz: damaged" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("command", [["batch"], ["batch", "sbumit"], ["prase"], ["batch", "merge"], ["parse"]])
def test_a_command_that_cannot_be_done_is_one_line(tmp_path, capsys, command):
    assert annotate(*command, "--out", tmp_path / "none") == 2
    one_line(capsys)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_resumable_with_what_was_under_way_stored(tmp_path, number, status):
    out = tmp_path / "out"
    with serve(latency=0.3) as server:
        command = words(corpus(tmp_path / "c.jsonl", 70), out, server.url, "--llm.concurrency", 8)
        process = subprocess.Popen(
            [sys.executable, "-m", "nuner_jax.annotate", *map(str, command)], stderr=subprocess.PIPE, text=True
        )
        while len(server.sent()) < 12:
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=400)
        assert process.returncode == status
        assert "Traceback" not in errors
        assert "the same command goes on from here" in errors.splitlines()[-1]
        with sqlite3.connect(out / "ledger.sqlite") as db:
            stored = db.execute("SELECT COUNT(*) FROM requests WHERE reply IS NOT NULL").fetchone()[0]
        assert stored == sum(server.sent().values()) < 70
        assert annotate(*command) == 0
        assert set(server.sent().values()) == {1}


def test_a_second_run_in_the_same_directory_is_refused(tmp_path):
    out = tmp_path / "out"
    with serve(latency=0.5) as server:
        command = [sys.executable, "-m", "nuner_jax.annotate"]
        command += map(str, words(corpus(tmp_path / "c.jsonl", 60), out, server.url, "--llm.concurrency", 2))
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as first:
            while not server.sent():
                time.sleep(0.02)
            second = subprocess.run(command, capture_output=True, text=True)
            first.kill()
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert f"{out}/ledger.sqlite: in use by another process ({first.pid})" in second.stderr


FULL = """
import resource, sys
from nuner_jax.annotate.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (4_400_000, 4_400_000))
main(sys.argv[1:])
"""


def test_a_disk_that_takes_no_more_is_one_line_and_loses_nothing(tmp_path):
    out = tmp_path / "out"
    source = tmp_path / "c.jsonl"
    source.write_text(
        "".join(json.dumps({"text": f"Sentence {i} of a long corpus, " + "and more, " * 300}) + "\n" for i in range(2500))
    )
    with serve() as server:
        command = [sys.executable, "-c", FULL, *map(str, words(source, out, server.url))]
        full = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "agg"})
    assert full.returncode == 2
    assert "Traceback" not in full.stderr
    assert "ledger.sqlite: " in full.stderr.splitlines()[-1]


def test_help_explains_the_fields_and_loads_nothing_heavy():
    text = subprocess.run(
        [sys.executable, "-m", "nuner_jax.annotate", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "--budget.usd" in text
    code = "import sys; from nuner_jax.annotate.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('openai', 'jax', 'tensorflow', 'syntok', 'transformers') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.splitlines()[-1] == "[]"


def test_help_tells_of_the_other_commands(capsys):
    from nuner_jax.annotate.__main__ import main

    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert not end.value.code
    told = " ".join(capsys.readouterr().out.split())
    assert "`annotate parse`" in told
    assert "submit|poll|merge|files" in told
