"""Summaries, tables and the HTML page say what the rows say."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from nuner_jax.errors import InputError
from nuner_jax.evaluate import html, tables
from nuner_jax.evaluate.report import markdown_report, write_report
from nuner_jax.evaluate.results import Results, read_rows
from nuner_jax.evaluate.summary import AVERAGE, Summary, estimate, labelled
from nuner_jax.export.card import scores
from nuner_jax.schema import write_json_lines


def row(system, task, k, seed, score, **more):
    base = {"system": system, "task": task, "protocol": "frozen", "layers": [-1], "head": "linear", "labels": "io"}
    base |= {"sampling": "k_to_2k", "k": k, "seed": seed, "data_hash": "d" * 64, "encoder_hash": "e" * 64, "encoder": system}
    names = ("token_macro_f1", "token_micro_f1", "entity_micro_f1", "entity_macro_f1", "partial_f1")
    kind = {"precision": 0.5, "recall": 0.25, "f1": score, "support": 3, "token_f1": score}
    return {**base, **dict.fromkeys(names, score), "unseen_share": 0.5, "per_type": {"a<b": kind}, "version": "0", **more}


@pytest.fixture
def rows():
    scores = {"base": [0.30, 0.34], "ours": [0.40, 0.46]}
    shift = {"one": 0.0, "two": 0.1}
    return [
        row(system, task, k, seed, score + shift[task] + k / 100)
        for system, values in scores.items()
        for task in shift
        for k in (1, 4)
        for seed, score in enumerate(values)
    ]


def test_estimate_is_students_t():
    values = [0.2, 0.5, 0.4, 0.1]
    got = estimate(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (got.mean - got.half_width, got.mean + got.half_width) == pytest.approx((low, high))
    assert got.deviation == pytest.approx(np.std(values, ddof=1))
    assert math.isnan(estimate([0.5]).half_width)


def test_averages_over_tasks_are_taken_seed_by_seed(rows):
    summary = Summary(rows, "token_macro_f1")
    assert summary.cells["ours", AVERAGE, 1] == {0: pytest.approx(0.46), 1: pytest.approx(0.52)}
    gain = summary.difference("ours", "base", AVERAGE, 4)
    assert gain.mean == pytest.approx(0.11)
    assert gain.deviation == pytest.approx(np.std([0.10, 0.12], ddof=1))


def test_what_was_measured_on_other_sentences_is_no_pair(rows):
    for one in rows:
        one["sample_hash"] = f"{one['task']} {one['seed']}"
        if one["system"] == "ours" and one["seed"] == 1:
            one["sample_hash"] += " of another sampling"
    summary = Summary(rows, "token_macro_f1")
    assert summary.difference("ours", "base", "one", 4).count == 1
    assert summary.difference("ours", "base", AVERAGE, 4).count == 1


def test_one_name_for_two_encoders_is_refused(rows, tmp_path):
    for name, change in (("a", {}), ("b", {"encoder_hash": "f" * 64, "k": 64})):
        (tmp_path / name).mkdir()
        write_json_lines(tmp_path / name / "results.jsonl", [{**one, **change} for one in rows])
    assert len(read_rows([tmp_path / "a", tmp_path / "a"])) == len(rows)
    with pytest.raises(InputError, match=r"b: base on one is not that of .*a: another state of the encoder"):
        read_rows([tmp_path / "a", tmp_path / "b"])
    write_json_lines(tmp_path / "b" / "results.jsonl", [{k: v for k, v in rows[0].items() if k != "seed"}])
    with pytest.raises(InputError, match=r"results\.jsonl, line 1: not a result row \(it has no 'seed'\)"):
        read_rows([tmp_path / "b"])


def test_the_model_card_keeps_heads_apart(rows, tmp_path):
    write_json_lines(tmp_path / "r.jsonl", [*rows, *({**one, "head": "discriminant", "token_macro_f1": 0.9} for one in rows)])
    table = "\n".join(scores(str(tmp_path / "r.jsonl")))
    assert "| ours, frozen, layers [-1], discriminant | 90.0 ± 0.0 |" in table
    assert "| ours, frozen, layers [-1], linear | 44.0 ± 4.2 |" in table


def test_an_average_needs_every_task(rows):
    summary = Summary([r for r in rows if (r["system"], r["task"]) != ("ours", "two")], "token_macro_f1")
    assert summary.get("ours", AVERAGE, 1) is None
    assert summary.get("base", AVERAGE, 1) is not None


def test_systems_run_in_several_ways_get_labels_that_say_how():
    rows = [row("a", "t", 1, 0, 0.5), row("a", "t", 1, 0, 0.6, layers=[-1, -4]), row("b", "t", 1, 0, 0.7)]
    assert [label for label, _ in labelled(rows)] == ["a (-1)", "a (-1,-4)", "b (-1)"]
    assert [label for label, _ in labelled(rows[1:])] == ["a", "b"]


def test_markdown_gives_mean_deviation_and_paired_gain(rows):
    text = markdown_report(rows)
    block = text[text.index("### one") :]
    assert "| base | 33.0 ± 2.8 [7.6, 58.4] | 36.0 ± 2.8 [10.6, 61.4] |" in block
    assert "| ours: gain over base | +11.0 [-1.7, +23.7] |" in block
    assert "| a<b | 3 | 50 / 25 / 36.0 | 50 / 25 / 47.0 |" in block
    assert "| one | 50 % | 50 % |" in block
    assert text.index("### Average of 2 tasks") < text.index("### one")


def test_types_with_too_few_mentions_are_named_not_silently_met(rows):
    short = [{**r, "support_mentions": {"rare": min(r["k"], 2), "common": r["k"]}} for r in rows]
    for text in (markdown_report(short), html.page(short, [], plots=False)):
        assert "one, k=4: rare has 2" in text
        assert "k=1: rare" not in text
        assert ": common has" not in text
    assert "fewer than k" not in markdown_report(rows)


def test_latex_is_balanced_escaped_and_bold_at_the_best(rows):
    table = tables.make_table(
        Summary([{**r, "task": "50%_set"} for r in rows if r["task"] == "one"], "token_macro_f1"), "50%_set"
    )
    text = tables.latex([table], "Scores.", "tab:f1")
    assert r"50\%\_set" in text
    assert r"\textbf{44.0} {\scriptsize$\pm$38.1}" in text
    assert text.count(r"\begin{") == text.count(r"\end{")
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count(" & ") for line in body} == {2}


def test_html_marks_right_half_right_wrong_and_missed():
    words = ["Ada", "saw", "New", "York", "<b>", "soon", "x"]
    gold = [[0, 1, "per"], [2, 4, "loc"], [4, 5, "tag"], [6, 7, "per"]]
    predicted = [[0, 1, "per"], [3, 4, "loc"], [5, 6, "per"], [6, 7, "loc"]]
    text = html.marked(words, gold, predicted)
    states = re.findall(r'<mark class="(\w+)">([^<]*)<small>([^<]*)', text)
    assert states == [
        ("right", "Ada", "per"),
        ("half", "York", "loc"),
        ("missed", "&lt;b&gt;", "tag"),
        ("wrong", "soon", "per, not a mention"),
        ("wrong", "x", "loc, not per"),
    ]
    assert re.sub(r"<small>[^<]*</small>|<[^>]*>", "", text).split() == ["Ada", "saw", "New", "York", "&lt;b&gt;", "soon", "x"]


def test_page_is_whole_and_escapes_names(rows):
    text = html.page(rows, [], plots=True)
    assert text.count("<svg") == 6 + 4  # panels; keys of two systems for two scores
    assert "a&lt;b" in text
    assert "a<b" not in text
    for tag in ("table", "tr", "td", "th", "div", "details", "figure", "p"):
        assert len(re.findall(rf"<{tag}[ >]", text)) == text.count(f"</{tag}>"), tag
    assert not re.search(r"""(src|href)=["']?http|url\(http|<script""", text)  # nothing from elsewhere


def test_write_report_writes_every_form(rows, tmp_path):
    Results(tmp_path).add([])
    (tmp_path / "results.jsonl").unlink()
    Results(tmp_path).add(rows)
    write_report([tmp_path], tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.md", "report.html", "tables.tex"} | {
        f"curves{metric}{width}.{ending}" for metric in ("", "-entity") for width in ("", "-column") for ending in ("png", "pdf")
    }


def test_series_of_the_page_are_told_apart_without_colour():
    keys = [html.legend_key(i) for i in range(8)]
    assert len({re.sub("#[0-9a-f]{6}", "", key) for key in keys}) == 8
