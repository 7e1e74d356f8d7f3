"""Prompted models over real HTTP: scripted answers give hand-computed scores; nothing is paid twice; budget and bad input."""

import json

import pytest
from helpers import write_json_lines
from llm_serving import serve

from nuner_jax.config import EvaluateConfig
from nuner_jax.evaluate.__main__ import main
from nuner_jax.evaluate.llm import Prompted
from nuner_jax.evaluate.prompts import universalner_prompt

TRAIN = "[Ada](person) lives in [Paris](place)\n[Bo](person) left [Rome](place)\n"
TEST = [
    "[Kurt](person) lives in [Vienna](place)",
    "[Eve](person) hates [Oslo](place)",
    "[Ann](person) and [Ann](person) sleep",
    "nobody came",
]
TEXTS = ["Kurt lives in Vienna", "Eve hates Oslo", "Ann and Ann sleep", "nobody came"]
RIGHT = "1. Kurt | True | person | is\n2. Vienna | True | place | is"
WRONG = "1. Eve | True | place | is\n2. hates | False | ==NONE== | is not\n3. Atlantis | True | place | is"
SECOND = "1. Ann | True | person | is\n2. ann | True | PERSON | is"


def line(text, reply, **more):
    return {"text": text, "reply": reply, **more}


@pytest.fixture
def world(tmp_path, without_plots):
    (tmp_path / "train.txt").write_text(TRAIN, encoding="utf8")
    (tmp_path / "test.txt").write_text("\n".join(TEST) + "\n", encoding="utf8")
    return tmp_path


def evaluate(world, url, *more, llms=("gpt=few:m",)):
    words = ["--encoders", "none", "--tasks", f"toy={world / 'train.txt'},{world / 'test.txt'}", "--ks", "1", "--seeds", "2"]
    words += ["--out", str(world / "out"), "--llm.base_url", url, "--llms", *llms, *more]
    with pytest.raises(SystemExit) as stop:
        main(words)
    return stop.value.code


def rows(world):
    return [json.loads(text) for text in (world / "out" / "results.jsonl").read_text(encoding="utf8").splitlines()]


def test_scripted_answers_give_the_scores_that_a_hand_computes(world):
    script = [line(TEXTS[0], RIGHT), line(TEXTS[1], WRONG), line(TEXTS[2], SECOND), line(TEXTS[3], "what?")]
    with serve(replies=str(write_json_lines(world / "r.jsonl", script))) as server:
        assert evaluate(world, server.url) == 0
    for row in rows(world):
        assert (row["system"], row["protocol"], row["head"], row["encoder"]) == ("gpt", "prompt", "few", "m")
        # person: Kurt, Ann, Ann found of 4; place: Vienna found, Eve wrong, Oslo missed
        assert row["per_type"]["person"] | {"token_f1": 0} == {
            "precision": 1,
            "recall": 0.75,
            "f1": pytest.approx(6 / 7),
            "support": 4,
            "token_f1": 0,
        }
        assert row["per_type"]["place"]["f1"] == pytest.approx(0.5)
        assert row["entity_micro_f1"] == pytest.approx(2 * 4 / (5 + 6), abs=1e-6)
        assert row["token_macro_f1"] == pytest.approx((6 / 7 + 0.5) / 2, abs=1e-6)
        assert row["answers"] == {"malformed": 1, "ok": 3}
        assert row["left_out"] == {"not in text": 1}


def test_refused_filtered_and_declined_answers_are_counted_and_add_nothing(world):
    script = [
        line(TEXTS[0], RIGHT),
        line(TEXTS[1], "bad words", status=400),
        line(TEXTS[2], "", finish_reason="content_filter"),
        line(TEXTS[3], "I am sorry, I cannot do that."),
    ]
    with serve(replies=str(write_json_lines(world / "r.jsonl", script))) as server:
        assert evaluate(world, server.url, llms=["gpt=zero:m"]) == 0
    for row in rows(world):
        assert row["answers"] == {"declined": 1, "filtered": 1, "ok": 1, "refused": 1}
        assert row["entity_micro_f1"] == pytest.approx(2 * 2 / (2 + 6), abs=1e-6)


def test_universalner_is_asked_once_a_type_by_plain_completion(world):
    script = [
        line(TEXTS[0], '["Kurt"]', type="person"),
        line(TEXTS[0], '["Vienna", "lives"]', type="place"),
        line(TEXTS[1], "Eve", type="person"),
        line(TEXTS[1], "no idea", type="place", status=422),
        line(TEXTS[2], '["Ann"]', type="person"),
    ]
    with serve(replies=str(write_json_lines(world / "r.jsonl", script))) as server:
        assert evaluate(world, server.url, llms=["uni=universalner:u"]) == 0
        assert server.sent()[universalner_prompt(TEXTS[0], "person")] == 1
        assert len(server.sent()) == 8
    row = rows(world)[0]
    assert row["answers"] == {"malformed": 1, "ok": 6, "refused": 1}
    assert row["entity_micro_f1"] == pytest.approx(2 * 4 / (5 + 6), abs=1e-6)  # Kurt, Vienna, Ann, Ann right; lives wrong


def test_nothing_is_paid_twice(world, capsys):
    with serve() as server:
        assert evaluate(world, server.url, llms=["a=few:m", "b=zero:m"]) == 0
        assert set(server.sent().values()) == {1}
        count = len(server.sent())
        before = rows(world)
        (world / "out" / "results.jsonl").unlink()
        assert evaluate(world, server.url, llms=["a=few:m", "b=zero:m"]) == 0
        assert rows(world) == before
        assert sum(server.sent().values()) == count
        assert evaluate(world, server.url, llms=["a=few:m", "b=zero:m"]) == 0
        assert "all 2 cells are done" in capsys.readouterr().out
        assert evaluate(world, server.url, "--seeds", "3", llms=["b=zero:m"]) == 0
        assert sum(server.sent().values()) == count  # a zero-shot cell more asks nothing new


def test_models_of_one_name_at_two_addresses_do_not_share_answers(world):
    knows, does_not = (write_json_lines(world / f"{n}.jsonl", [line(TEXTS[0], reply)]) for n, reply in enumerate((RIGHT, WRONG)))
    with serve(replies=str(knows)) as one, serve(replies=str(does_not)) as other:
        assert evaluate(world, one.url, llms=[f"a=zero:m@{one.url}", f"b=zero:m@{other.url}"]) == 0
        assert len(one.sent()) == len(other.sent()) == 4
    scores = {row["system"]: row["entity_micro_f1"] for row in rows(world)}
    assert scores["a"] > scores["b"] == 0
    assert {row["settings"]["llm.base_url"] for row in rows(world) if row["system"] == "b"} == {other.url}


def test_a_budget_ends_it_between_questions_and_a_larger_one_goes_on(world, capsys):
    prices = ["--llm.price_in", "10", "--llm.price_out", "10", "--llm.concurrency", "1"]
    with serve() as server:
        assert evaluate(world, server.url, *prices, "--budget.usd", "0.006", llms=["gpt=zero:m"]) == 0
        out = capsys.readouterr().out
        assert "2 of 2 cells lack answers and have no row (the budget is used up" in out
        assert "no result rows" in out
        assert 0 < len(server.sent()) < 4
        assert evaluate(world, server.url, *prices, "--budget.usd", "1", llms=["gpt=zero:m"]) == 0
        assert set(server.sent().values()) == {1}
    assert 0 < rows(world)[0]["cost_usd"] < 1


def test_a_model_elsewhere_may_have_a_key_of_its_own(monkeypatch):
    config = EvaluateConfig(out="o")
    there = Prompted.parse("my-llama=few:llama@https://example.org/v1")
    assert there.annotate_config(config).llm.key_env == "OPENAI_API_KEY"
    monkeypatch.setenv("MY_LLAMA_API_KEY", "secret")
    assert there.annotate_config(config).llm.key_env == "MY_LLAMA_API_KEY"
    assert Prompted.parse("my-llama=few:llama").annotate_config(config).llm.key_env == "OPENAI_API_KEY"


def test_limit_test_bounds_what_is_asked_and_is_in_the_row(world, capsys):
    with serve() as server:
        assert evaluate(world, server.url, "--limit_test", "2", llms=["gpt=zero:m"]) == 0
        assert len(server.sent()) == 2
        assert {row["test_sentences"] for row in rows(world)} == {2}
        assert evaluate(world, server.url, llms=["gpt=zero:m"]) == 2
        assert "number of test sentences (2, now 4)" in capsys.readouterr().err


def test_examples_come_from_the_support_set_and_can_be_fewer(world):
    with serve() as server:
        assert evaluate(world, server.url, "--seeds", "1", "--ks", "2", "--prompt_examples", "1") == 0
        (prompt,) = [text for text in server.sent() if text.endswith(f"Paragraph: {TEXTS[0]}\nAnswer:\n")]
    shown = prompt.count("\nParagraph: ") - 1
    assert shown == 1
    assert ("1. Ada | True | person" in prompt) != ("1. Bo | True | person" in prompt)


@pytest.mark.parametrize(
    ("words", "llms", "message"),
    [
        ([], ["gpt=many:m"], "expected NAME=KIND:MODEL"),
        ([], ["gpt"], "expected NAME=KIND:MODEL"),
        ([], ["a=zero:m", "a=few:m"], "'a' is given twice"),
        (["--llm.concurrency", "0"], ["a=zero:m"], "llm.concurrency"),
        (["--budget.usd", "1"], ["a=zero:nobody-knows-this"], "price is not known"),
    ],
)
def test_bad_input_ends_with_one_line(world, capsys, words, llms, message):
    assert evaluate(world, "http://127.0.0.1:9/v1", *words, llms=llms) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_fine_tuned_encoders_and_language_models_stand_in_one_table(tmp_path, tiny_encoder):
    """The packaged config of the LLM comparison, with a tiny encoder and few steps, against the packaged server."""
    small = ["--encoders", f"tiny={tiny_encoder}", "--tasks", "kitchen", "--ks", "2", "--seeds", "2", "--limit_test", "12"]
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["--config", "eval/llm_comparison", *small, "--finetune.num_epochs", "1", "--out", str(out)])
    assert stop.value.code == 0
    rows = [json.loads(text) for text in (out / "results.jsonl").read_text(encoding="utf8").splitlines()]
    systems = ["tiny", "rules, zero-shot", "rules, few-shot", "rules, a query a type"]
    assert [(row["system"], row["seed"]) for row in rows] == [(system, seed) for system in systems for seed in (0, 1)]
    assert {(row["sampling"], row["k"], row["test_sentences"]) for row in rows} == {("words", 2, 12)}
    samples = {seed: {row["sample_hash"] for row in rows if row["seed"] == seed} for seed in (0, 1)}
    assert all(len(hashes) == 1 for hashes in samples.values())  # the same support sets for all
    assert all(row["entity_micro_f1"] > 0 for row in rows if row["head"] in ("zero", "universalner"))
    table = (out / "report.md").read_text(encoding="utf8")
    assert all(system in table for system in systems)
    assert (out / "curves-entity.png").stat().st_size > 10_000
