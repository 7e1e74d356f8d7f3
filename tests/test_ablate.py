"""The ablate command: what a declaration means, what points share, how stages are run, resumed and refused; packaged ablations."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import write_mentions

from nuner_jax import cli
from nuner_jax.ablate import plan, runner
from nuner_jax.ablate.__main__ import main
from nuner_jax.config import AblateConfig, CutConfig, EvaluateConfig
from nuner_jax.errors import Preempted
from nuner_jax.evaluate.task_rows import find_rows
from nuner_jax.lists import Strs
from nuner_jax.run import StopSignal

CONFIGS = sorted((Path(__file__).parent.parent / "configs" / "ablations").glob("*.yaml"))
DECLARATION = """
base:
  dataset: {input: [demo]}
  train: {num_epochs: 2, model: {logit: dot}}
  evaluate: {ks: [1]}
points:
  plain:
  small: {dataset: {limit: 100}}
  steps: {train: {num_train_steps: 5, model.logit: cosine}}
  head: {evaluate: {layers: [-1]}}
  cut: {encoder: {source: minilm, layers: 2}}
  untouched: {untrained: true}
train_seeds: [0, 1]
log_x: true
"""


def read(tmp_path, text=DECLARATION, *words):
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf8")
    argv = ["--config", str(path), "--out", str(tmp_path / "out"), *words]
    return cli.parse(AblateConfig, argv, prog="ablate", check=plan.check)


def status(words):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    return stopped.value.code


def by_point(jobs):
    return {(job.point, job.train_seed): {stage.kind: stage for stage in job.stages} for job in jobs}


def test_points_change_the_base_and_share_what_they_have_in_common(tmp_path):
    jobs = by_point(plan.make_plan(read(tmp_path)))
    train = {point: stages["train"].config for (point, seed), stages in jobs.items() if seed == 0}
    assert (train["plain"].num_epochs, train["plain"].model.logit) == (2, "dot")
    assert (train["steps"].num_epochs, train["steps"].num_train_steps, train["steps"].model.logit) == (None, 5, "cosine")
    assert [jobs["plain", seed]["train"].config.seed for seed in (0, 1)] == [0, 1]
    folders = {key: {kind: stage.folder for kind, stage in stages.items()} for key, stages in jobs.items()}
    for point, shared in [
        ("head", {"dataset", "train", "export"}),
        ("steps", {"dataset"}),
        ("small", set()),
        ("cut", {"dataset"}),
    ]:
        same = {kind for kind, folder in folders["plain", 0].items() if folders[point, 0][kind] == folder}
        assert same == shared, point
    assert folders["plain", 0]["dataset"] == folders["plain", 1]["dataset"]
    assert folders["plain", 0]["train"] != folders["plain", 1]["train"]
    assert list(folders["untouched", None]) == ["evaluate"]
    assert jobs["cut", 0]["train"].config.init_from == str(jobs["cut", 0]["encoder"].out)
    assert jobs["plain", 0]["train"].config.data.path == (str(jobs["plain", 0]["dataset"].out),)
    assert jobs["plain", 0]["evaluate"].config.encoders == (f"run={jobs['plain', 0]['export'].out}",)


def test_the_cache_forgets_what_another_file_or_encoder_made(tmp_path):
    text = write_mentions(tmp_path / "t.jsonl", 20)
    before = plan.make_plan(read(tmp_path, DECLARATION, f"--base.dataset.input={text}"))[0]
    write_mentions(text, 21)
    plan.file_hash.cache_clear()
    after = plan.make_plan(read(tmp_path, DECLARATION, f"--base.dataset.input={text}"))[0]
    assert not {stage.folder for stage in before.stages} & {stage.folder for stage in after.stages}
    free = plan.make_plan(read(tmp_path, DECLARATION, f"--base.dataset.input={text}", "--base.train.log_every_steps=1"))[0]
    assert {stage.folder for stage in free.stages} == {stage.folder for stage in after.stages}


def test_seeds_go_where_they_are_sent(tmp_path):
    jobs = by_point(
        plan.make_plan(read(tmp_path, DECLARATION, "--seed_keys", "dataset.limit", "train.seed", "--train_seeds=7,8"))
    )
    assert {seed: stages["dataset"].config.limit for (point, seed), stages in jobs.items() if point == "plain"} == {7: 7, 8: 8}
    assert jobs["plain", 8]["train"].config.seed == 8


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model.logit: cosine", "model.logti: cosine", "line 9: points.steps.train.model.logti: there is no option model.logti"),
        (
            "model.logit: cosine",
            "model.logit: cos",
            "line 9: points.steps.train.model.logit: expected 'cosine' or 'dot', got cos",
        ),
        ("{logit: dot}", "{logit: dut}", "line 4: base.train.model.logit: expected 'cosine' or 'dot', got dut"),
        ("dataset: {limit: 100}", "data: {limit: 100}", "line 8: points.small.data: a point has no data"),
        ("{dataset: {limit: 100}}", "3", "line 8: points.small: expected a mapping, got 3"),
        ("untrained: true", "untrained: maybe", "line 12: points.untouched.untrained: expected true or false"),
        ("layers: 2}", "layers: two}", "line 11: points.cut.encoder.layers: expected a number of layers"),
        ("layers: 2}", "depth: 2}", "line 11: points.cut.encoder: expected {source: NAME, layers: N}"),
        ("ks: [1]", "out: here", "line 5: base.evaluate.out: is set by the command itself"),
        ("limit: 100}", "limit: 100}, x: 3", "line 7: points.plain: the other points have an x"),
        (
            "plain:\n  small: {dataset",
            "raw: {untrained: true}\n  plain: {x: 1}\n  small: {dataset",
            "line 9: points.small: the other points have an x",
        ),
        ("plain:\n", "plain: {x: 0}\n", "line 7: points.plain.x: expected a number above 0 (log_x), got 0"),
        ("layers: [-1]}", "ks: [4]}", "line 10: points.head.evaluate.ks: all points are evaluated alike"),
        ("  train: {num_epochs: 2, model: {logit: dot}}", "  train:", "train: set exactly one of num_train_steps and num_epochs"),
        ("  train: {num_epochs: 2, model: {logit: dot}}", "  train: 3", "line 4: base.train: expected dict, got 3"),
        ("limit: 100", "limit: 2024-01-01", "line 8: points.small.dataset.limit: expected"),
        ("  small:", "  plain:", "line 8: points.plain is set twice"),
        ("num_epochs: 2, ", "", "train: set exactly one of num_train_steps and num_epochs"),
        ("train_seeds: [0, 1]", "train_seeds: [1, 1]", "line 13: train_seeds: expected at least one seed, each once"),
        ("train_seeds: [0, 1]", "seed_keys: [model.seed]", "line 13: seed_keys: model.seed is no option of"),
    ],
)
def test_a_bad_declaration_is_refused_by_file_line_and_key(tmp_path, capsys, old, new, message):
    assert old in DECLARATION
    with pytest.raises(SystemExit) as stopped:
        read(tmp_path, DECLARATION.replace(old, new))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_input_that_is_not_there_is_named_before_anything_runs(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    for old, new, message in [
        ("[demo]", "[nowhere.jsonl]", "nowhere.jsonl: cannot be read"),
        ("[demo]", "[]", "points.plain.dataset.input: name at least"),
        ("ks: [1]", "tasks: ['toy=no.bio,no.bio']", "no.bio: cannot be read"),
        ("ks: [1]", "tasks: [kitchin]", "task 'kitchin': expected NAME=TRAIN,TEST"),
        ("ks: [1]", "tasks: [mit_movie], task_data: none", "none/mit_movie/engtrain.bio is missing; "),
    ]:
        path.write_text(DECLARATION.replace(old, new), encoding="utf8")
        assert status(["--config", str(path), "--out", str(tmp_path / "out"), "--dry_run"]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_plan_is_printed_and_nothing_is_done(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text(DECLARATION, encoding="utf8")
    assert status(["--config", str(path), "--out", str(tmp_path / "out"), "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "plain, seed 1: dataset shared, train to do, export to do, evaluate to do" in lines
    assert lines[-1] == "11 points and seeds; to do: 2 dataset, 8 train, 8 export, 11 evaluate, 1 encoder"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_packaged_ablation_can_be_planned(path, tmp_path, capsys):
    more = [f"--points.{name}.dataset.input=demo" for name in ("C4", "Wikipedia")] if path.stem == "text_source" else []
    assert status(["--config", f"ablations/{path.stem}", "--dry_run", *more, "--cache", str(tmp_path)]) == 0
    assert "to do: " in capsys.readouterr().out
    declared = yaml.safe_load(path.read_text(encoding="utf8"))
    assert declared["out"] == f"runs/ablations/{path.stem}"
    assert f"--config ablations/{path.stem}" in path.read_text(encoding="utf8")


# How a stage is run. The command is a small module of our own, so that no test waits for a training run.


STAND_IN = """
import pathlib, signal, sys, time, yaml
config = yaml.safe_load(open(sys.argv[-1]))
out = pathlib.Path(config["out"])
out.mkdir(parents=True, exist_ok=True)
if config["source"] == "bad":
    print("stand_in: error: no such thing", file=sys.stderr); sys.exit(2)
if config["source"] == "slow" and not (out / "half").exists():
    signal.signal(signal.SIGTERM, lambda *_: ((out / "half").touch(), sys.exit(75)))
    (out / "begun").touch()
    time.sleep(60)
with open(out / "runs", "a") as file:
    file.write("x")
"""


def stand_in(tmp_path, monkeypatch, source):
    (tmp_path / "stand_in.py").write_text(STAND_IN, encoding="utf8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    folder = tmp_path / "cache" / source
    return plan.Stage("encoder", "stand_in", folder, CutConfig(source, 2, str(folder / "out")))


def test_a_stage_is_run_once_and_leaves_config_log_and_command(tmp_path, monkeypatch):
    stage = stand_in(tmp_path, monkeypatch, "good")
    assert not stage.done
    for _ in range(2):
        runner.run_stage(stage, "[1/1] a point: encoder", StopSignal())
    assert (stage.out / "runs").read_text() == "x"
    done = json.loads((stage.folder / "done.json").read_text())
    assert done["command"] == f"python -m stand_in --config {stage.config_path}"
    assert yaml.safe_load(stage.config_path.read_text()) == {"source": "good", "layers": 2, "out": str(stage.out)}


def test_a_stage_that_fails_is_named_with_its_last_line_and_its_status(tmp_path, monkeypatch):
    stage = stand_in(tmp_path, monkeypatch, "bad")
    with pytest.raises(runner.StageError) as failed:
        runner.run_stage(stage, "[1/1] a point: encoder", StopSignal())
    assert str(failed.value).startswith("a point: encoder failed: stand_in: error: no such thing (")
    assert failed.value.exit_status == 2
    assert not stage.done


RUN = """
import pathlib, sys
from nuner_jax import cli
from nuner_jax.ablate import plan, runner
from nuner_jax.config import CutConfig
from nuner_jax.run import StopSignal
folder = pathlib.Path(sys.argv[1])
stage = plan.Stage("encoder", "stand_in", folder, CutConfig("slow", 2, str(folder / "out")))
cli.run(lambda: runner.run_stage(stage, "[1/1] a point: encoder", StopSignal()), "ablate")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_the_same_command_goes_on(tmp_path, monkeypatch, number):
    stage = stand_in(tmp_path, monkeypatch, "slow")
    words = [sys.executable, "-c", RUN, str(stage.folder)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while not (stage.out / "begun").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    error = process.communicate()[1]
    assert process.returncode == Preempted.exit_status
    assert "stopped in a point: encoder; the same command goes on from there" in error
    assert (stage.out / "half").exists()
    assert not stage.done
    assert subprocess.run(words, check=False).returncode == 0
    assert stage.done


def test_a_stage_outlives_a_killed_command_and_is_waited_for(tmp_path, monkeypatch):
    stage = stand_in(tmp_path, monkeypatch, "slow")
    words = [sys.executable, "-c", RUN, str(stage.folder)]
    killed = subprocess.Popen(words)
    while not (stage.out / "begun").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    second = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None
    assert "another process is at it; waiting" in second.stdout.readline()
    children = subprocess.run(
        ["pgrep", "-f", f"stand_in --config {stage.config_path}"], capture_output=True, text=True, check=True
    )
    os.kill(int(children.stdout), signal.SIGTERM)  # the first stage, the only one that runs
    assert second.wait() == 0
    assert (stage.out / "runs").read_text() == "x"


def test_a_cut_encoder_gives_the_hidden_states_of_the_first_layers(tmp_path, tiny_encoder):
    from nuner_jax.ablate.cut import main as cut
    from nuner_jax.model import hf
    from nuner_jax.model.encoder import hidden_states, structure
    from nuner_jax.pretrained import load_tokenizer, tokenizer_fingerprint

    words = ["--source", str(tiny_encoder), "--out", str(tmp_path / "cut")]
    with pytest.raises(SystemExit) as stopped:
        cut([*words, "--layers", "1"])
    assert stopped.value.code == 0
    states = []
    for folder in (tiny_encoder, tmp_path / "cut"):
        config, params, _ = hf.load_encoder(folder)
        ids = np.arange(5, 25).reshape(2, 10)
        states.append([np.asarray(x) for x in hidden_states(structure(config)[0], params, ids, np.ones_like(ids))])
    assert len(states[1]) == 2
    for whole, cut_one in zip(states[0], states[1], strict=False):
        np.testing.assert_array_equal(whole, cut_one)
    fingerprints = {tokenizer_fingerprint(load_tokenizer(str(folder))) for folder in (tiny_encoder, tmp_path / "cut")}
    assert len(fingerprints) == 1
    with pytest.raises(SystemExit) as stopped:
        cut([*words, "--layers", "3"])
    assert stopped.value.code == 2


@pytest.mark.slow
def test_an_ablation_from_declaration_to_figure(tmp_path, tiny_encoder, capsys):
    """All stages for real, on a tiny encoder: one trained point on the encoder cut to one layer, and the untouched encoder."""
    write_mentions(tmp_path / "t.jsonl", 60)
    path = tmp_path / "a.yaml"
    declaration = {
        "title": "Toy",
        "base": {
            "dataset": {"input": [str(tmp_path / "t.jsonl")], "row_length": 32, "mentions_per_row": 12, "num_workers": 1},
            "train": {"init_from": str(tiny_encoder), "num_train_steps": 2, "batch_size": 8},
            "evaluate": {"tasks": ["kitchen"], "ks": [1], "seeds": 2, "head.num_steps": 5},
        },
        "points": {
            "untouched": {"untrained": True},
            "cut": {"encoder": {"source": str(tiny_encoder), "layers": 1}, "evaluate": {"layers": [-1]}},
        },
        "out": str(tmp_path / "out"),
    }
    path.write_text(yaml.safe_dump(declaration, sort_keys=False), encoding="utf8")
    words = ["--config", str(path)]
    assert status(words) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").open(encoding="utf8")]
    assert [(row["point"], row["train_seed"], row["seed"]) for row in rows] == [
        ("untouched", None, 0),
        ("untouched", None, 1),
        ("cut", 0, 0),
        ("cut", 0, 1),
    ]
    run = yaml.safe_load((Path(rows[2]["stages"]["train"]) / "config.yaml").read_text(encoding="utf8"))
    assert (run["num_train_steps"], run["seed"]) == (2, 0)
    assert not (Path(rows[2]["stages"]["train"]) / "out" / "checkpoints").exists()
    capsys.readouterr()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cache").rglob("done.json")}
    assert len(before) == 6
    assert status(words) == 0
    assert "..." not in capsys.readouterr().out  # nothing was started
    assert {file: file.stat().st_mtime_ns for file in before} == before
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf8")
    assert "| cut - untouched | " in report
    assert (tmp_path / "out" / "figure.pdf").stat().st_size > 5_000
    assert r"\toprule" in (tmp_path / "out" / "table.tex").read_text(encoding="utf8")


@pytest.mark.parametrize("tasks", ["toy={folder}/a.bio,{folder}/b.bio", "{folder}/tasks.yaml", "mit_movie"])
def test_scores_hang_on_what_stands_in_the_files_of_a_task(tmp_path, tasks):
    (tmp_path / "tasks.yaml").write_text("toy: {train: a.bio, test: b.bio}")
    rows = [row for _, row in find_rows("mit_movie", str(tmp_path))]
    files = ["a.bio", "b.bio", *(str(Path(row.path) / file) for row in rows for file in (row.train, row.test))]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("a\tO\n")
    config = EvaluateConfig(tasks=Strs([tasks.format(folder=tmp_path)]), task_data=str(tmp_path))
    before = plan.evaluate_identity(config)
    assert plan.evaluate_identity(config) == before
    for file in files[1:]:
        (tmp_path / file).write_text("b\tO\n")
    plan.file_hash.cache_clear()
    assert plan.evaluate_identity(config) != before


def test_the_script_of_commands_survives_blanks_in_paths(tmp_path):
    stage = plan.Stage("dataset", "nuner_jax.dataset", tmp_path / "my cache" / "x", None)
    script = runner.commands([plan.Job("plain", None, 0, (stage,))])
    assert shlex.split(script.splitlines()[-1]) == ["python", "-m", "nuner_jax.dataset", "--config", str(stage.config_path)]
