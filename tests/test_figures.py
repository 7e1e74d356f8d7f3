"""The figures command: what it recognises, and that what is drawn is what the directories hold."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.ablate.report import read_scores
from nuner_jax.figures import ablation, few_shot, frequency, published, stage
from nuner_jax.figures.__main__ import main

ABOUT = {"title": "Size", "x_label": "sentences", "log_x": True, "published": "data_size"}


def write_rows(folder, rows):
    folder.mkdir(parents=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return folder


def result(system, task, k, seed, score, protocol="frozen"):
    scores = {"token_macro_f1": score, "entity_micro_f1": score}
    return {"system": system, "task": task, "protocol": protocol, "k": k, "seed": seed, **scores}


@pytest.fixture
def runs(tmp_path):
    """A directory that holds one of each kind."""
    rows = [result("ours", t, k, s, 0.1 * k + 0.01 * s) for t in ("one", "two") for k in (1, 4) for s in (0, 1)]
    write_rows(tmp_path / "runs" / "results", rows)
    rows = [result("ours", "one", k, s, 0.1 * k + 0.01 * s, "finetune") for k in (1, 4) for s in (0, 1)]
    rows += [result("asked", "one", k, 0, 0.3, "prompt") for k in (1, 4)]
    write_rows(tmp_path / "runs" / "llm", rows)
    facts = {"ablation": "Size", "train_seed": 0}
    points = [("ten", 10.0, 0.2), ("hundred", 100.0, 0.3), ("plain", None, 0.1)]
    rows = [
        {**facts, "point": p, "x": x, **result(p, "one", k, s, y + 0.01 * s)}
        for p, x, y in points
        for k in (1, 4)
        for s in (0, 1)
    ]
    folder = write_rows(tmp_path / "runs" / "size", rows)
    (folder / "config.yaml").write_text(yaml.safe_dump(ABOUT), encoding="utf8")
    table = tmp_path / "runs" / "data" / "nuner" / "1.0.0"
    table.mkdir(parents=True)
    concepts = [{"id": i, "name": f"c{i}", "description": "", "frequency": f, "tokens": [1]} for i, f in enumerate([5, 2, 1, 1])]
    (table / "concepts.jsonl").write_text("".join(json.dumps(c) + "\n" for c in concepts), encoding="utf8")
    return tmp_path / "runs"


def series(axis):
    """label -> (x, y) of what is drawn with markers."""
    drawn = {container.get_label(): container.lines[0] for container in axis.containers}
    return {label: (line.get_xdata().tolist(), line.get_ydata().tolist()) for label, line in drawn.items()}


def test_directories_are_recognised_themselves_and_one_level_up(runs):
    assert {(path.name, kind) for path, kind in stage.find([str(runs)])} == {
        ("results", "results"),
        ("llm", "results"),
        ("size", "ablation"),
        ("data", "dataset"),
    }
    assert stage.find([str(runs / "data" / "nuner" / "1.0.0")])[0][1] == "dataset"
    assert stage.names_of([runs / "data" / "nuner" / "1.0.0"]) == ["data"]
    assert stage.names_of([Path("/r/enc-1.0.0"), Path("/r/enc-1.0.1")]) == ["enc-1.0.0", "enc-1.0.1"]


def test_directories_of_one_name_are_told_apart_and_one_that_is_named_twice_counts_once(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "other")
    found = stage.find([str(runs), str(tmp_path / "other"), str(runs / "data")])
    assert len(found) == 8
    data = [path for path, kind in found if kind == "dataset"]
    assert stage.names_of(data) == ["runs_data", "other_data"]
    assert len(stage.frequency_figure(data).axes[0].get_lines()) == 2


def test_the_command_writes_every_figure_it_can(runs, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(runs), "--out", str(tmp_path / "out")])
    assert (stopped.value.code or 0) == 0
    names = {"concept_frequency", "few_shot", "few_shot_column", "llm_comparison", "ablation_size"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
    assert len(capsys.readouterr().out.splitlines()) == len(names)
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("ablation*")}
    with pytest.raises(SystemExit):
        main([str(runs / "size"), "--out", str(tmp_path / "out")])
    assert {path: path.read_bytes() for path in before} == before


def test_an_ablation_is_drawn_with_its_points_trend_and_level(runs):
    axis = ablation.draw(read_scores(runs / "size")).axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["10", "100"]  # the points, not powers of ten
    assert (axis.get_xscale(), axis.get_xlabel()) == ("log", "sentences (log scale)")
    assert "F1" in axis.get_ylabel()
    x, y = series(axis)["k=1"]
    assert x == [10, 100]
    assert y == pytest.approx([20.5, 30.5])
    levels = [line for line in axis.get_lines() if line.get_label() == "plain"]
    assert levels[0].get_ydata() == pytest.approx([10.5, 10.5])
    trends = [line for line in axis.get_lines() if len(line.get_xdata()) == 2 and line.get_marker() == "None"]
    assert any(line.get_ydata() == pytest.approx([20.5, 30.5]) for line in trends)
    assert "published: about logarithmic growth" in axis.figure.legends[0].get_title().get_text()


def test_categories_are_rows_from_the_top(runs):
    (runs / "size" / "config.yaml").write_text(yaml.safe_dump(ABOUT | {"x_label": "", "log_x": False}), encoding="utf8")
    lines = (runs / "size" / "results.jsonl").read_text(encoding="utf8").splitlines()
    rows = [json.loads(line) | {"x": None} for line in lines]
    (runs / "size" / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    axis = ablation.draw(read_scores(runs / "size")).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["ten", "hundred", "plain"]
    assert axis.yaxis_inverted()
    assert series(axis)["k=4"][0] == pytest.approx([20.5, 30.5, 10.5])


def test_published_numbers_stand_beside_ours_and_say_so(runs):
    rows = [json.loads(line) for line in (runs / "results" / "results.jsonl").open(encoding="utf8")]
    figure = few_shot.draw_few_shot(rows)
    assert [axis.get_title() for axis in figure.axes if axis.get_visible()] == ["one", "two", "average of 2 tasks"]
    assert [label for label in series(figure.axes[0])] == ["ours"]
    drawn = series(figure.axes[2])
    assert drawn["ours"][1] == pytest.approx([10.5, 40.5])
    assert drawn["NuNER (published)"] == ([1, 4, 16, 64], [39.4, 59.6, 67.8, 71.5])
    low, high = figure.axes[2].get_xlim()
    assert low < 1
    assert high > 64
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"ours", *(f"{name} (published)" for name in published.FEW_SHOT)} == labels


def test_llms_stand_beside_fine_tuned_encoders(runs):
    rows = [json.loads(line) for line in (runs / "llm" / "results.jsonl").open(encoding="utf8")]
    assert few_shot.is_llm_comparison(rows)
    axis = few_shot.draw_llm(rows).axes[0]
    assert series(axis)["UniversalNER-7B (published)"] == ([8, 64], [57.89, 71.02])
    assert any(label.startswith("asked") for label in axis.get_legend_handles_labels()[1])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_the_frequency_curve_keeps_its_shape(counts):
    ranks, values = frequency.rank_frequency(counts)
    ordered = sorted(counts, reverse=True)
    assert np.interp(np.arange(1, len(counts) + 1), ranks, values).tolist() == pytest.approx(ordered)
    assert frequency.once_share(counts) == counts.count(1) / len(counts)


def test_the_frequency_figure_tells_the_tail():
    axis = frequency.draw({"data": [5, 2, 1, 1]}).axes[0]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert axis.get_lines()[0].get_label() == "data: 4 concepts, 50% seen once"


@pytest.mark.parametrize(("name", "message"), [("nowhere", "no such directory"), ("empty", "neither holds nor is")])
def test_other_directories_are_refused(tmp_path, capsys, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / name), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_an_exported_model_gives_a_concept_map(tiny_encoder, tmp_path, capsys):
    folder = tmp_path / "hf"
    for place in (folder, folder / "concept_encoder"):
        shutil.copytree(tiny_encoder, place)
    about = {"logit": {"kind": "cosine", "scale": 10.0, "bias": -5.0}, "concept_encoder": "concept_encoder", "layers": [-1, -2]}
    (folder / "nuner.json").write_text(json.dumps(about), encoding="utf8")
    (tmp_path / "names.txt").write_text("city\ndish\nmovie\nfood\n", encoding="utf8")
    with pytest.raises(SystemExit) as stopped:
        main([str(folder), "--concepts", str(tmp_path / "names.txt"), "--limit=3", "--out", str(tmp_path / "out")])
    assert (stopped.value.code or 0) == 0
    assert capsys.readouterr().out.endswith("concept_map_hf.png: concept map, 3 of 4 concepts\n")
    assert (tmp_path / "out" / "concept_map_hf.pdf").stat().st_size > 1000
