"""`nuner fit` and `nuner predict` through main."""

import io
import json
import re
import sys

import pytest

from nuner_jax import predict
from nuner_jax.__main__ import main
from nuner_jax.inference.entities import Entity


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def model(tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    (folder / "examples.txt").write_text("[alpha](letter) sees a [movie](thing)\nthe [beta](letter) eats [food](thing)\n")
    arguments = ("--model", str(tiny_encoder), "--examples", str(folder / "examples.txt"), "--out", str(folder / "m"))
    assert run("fit", *arguments) == 0
    return str(folder / "m")


def test_text_in_json_lines_out(model, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("alpha sees a movie\n\nbeta 🍣 eats food\n", encoding="utf8")
    assert run("predict", "--model", model, str(tmp_path / "a.txt")) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["alpha sees a movie", "", "beta 🍣 eats food"]
    assert rows[1]["entities"] == []
    assert {e["label"] for row in rows for e in row["entities"]} == {"letter", "thing"}
    assert all(row["text"][e["start"] : e["end"]] == e["text"] for row in rows for e in row["entities"])


def test_json_lines_from_standard_input_keep_their_other_keys(model, monkeypatch, capsys):
    lines = b'{"id": 7, "text": "alpha sees a movie"}\n\n{"text": "food"}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert run("predict", "--model", model, "-") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.get("id") for row in rows] == [7, None]


def test_colours_hide_no_character_and_control_characters_do_not_get_through(model, tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes(b"alpha \x1b[31msees a movie\n")
    assert run("predict", str(tmp_path / "a.txt"), "--model", model, "--format", "color") == 0
    out = capsys.readouterr().out
    assert "\x1b[31m" not in out
    bare = re.sub("\x1b\\[2m\\(.*?\\)\x1b\\[0m|\x1b\\[[0-9;]*m", "", out)
    assert bare == "alpha \ufffd[31msees a movie\n"


def test_overlapping_entities_let_no_control_character_through_either():
    text = "a\x1b[2Jb c"
    painted = predict.painted(text, [Entity(0, 8, text, "x\x1b[2J", 0.9), Entity(0, 6, text[:6], "y", 0.8)])
    assert "\x1b[2J" not in painted
    assert "y" in painted


def test_labels_by_commas_or_from_a_file(tmp_path):
    (tmp_path / "l.json").write_text('{"dish": "prepared food"}')
    assert predict.read_labels("dish, car part") == ["dish", "car part"]
    assert predict.read_labels(str(tmp_path / "l.json")) == {"dish": "prepared food"}
    assert predict.read_labels("") is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["predict", "nowhere.txt"], "nowhere.txt: no such file"),
        (["predict", "{a}"], "no such folder"),
        (["predict", "{a}", "--model", "{model}", "--labels", "x"], "no concept encoder here"),
        (["predict", "{a}", "--model", "{model}", "--threshold", "7"], "threshold 7.0 is not between 0 and 1"),
        (["predict", "{bad}", "--model", "{model}"], "bad.jsonl, line 2: not valid JSON"),
        (["predict", "{no}", "--model", "{model}"], 'no.jsonl, line 1: expected a JSON object with "text"'),
        (["predict", "{half}", "--model", "{model}"], "half.jsonl, line 2: half of a surrogate pair"),
        (["predict", "{a}", "--model", "{model}", "--labels", "{no}.json"], "cannot be read"),
        (["fit"], "name a file of examples"),
        (["fit", "--examples", "{a}"], "none of 1 examples has a mention"),
        (["fit", "--examples", "{a}", "--out", "{dir}"], "was not written by save"),
        (["fit", "--examples", "{a}", "--out", "."], "name a folder that can be replaced as a whole"),
        (["fit", "--examples", "{a}", "--finetune.batch_size", "0"], "finetune.batch_size 0 is below 1"),
        (["fit", "--examples", "{spans}"], "line 1: half of a surrogate pair"),
    ],
)
def test_bad_input_is_one_line(argv, message, model, tmp_path, capsys):
    files = {"a": "a.txt", "bad": "bad.jsonl", "no": "no.jsonl", "half": "half.jsonl", "spans": "spans.jsonl"}
    (tmp_path / "a.txt").write_text("hello\n")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text"\n')
    (tmp_path / "half.jsonl").write_text('{"text": "a"}\n{"text": "b \\ud800", "entities": []}\n')
    (tmp_path / "spans.jsonl").write_text('{"text": "b \\ud800", "spans": [[0, 1, "letter"]]}\n')
    (tmp_path / "no.jsonl").write_text('{"words": "a"}\n')
    known = {name: str(tmp_path / file) for name, file in files.items()} | {"model": model, "dir": str(tmp_path)}
    capsys.readouterr()
    words = [word.format(**known) for word in argv]
    if words[0] == "predict" and "--model" not in words:
        words += ["--model", str(tmp_path / "deep" / "nothing")]
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
