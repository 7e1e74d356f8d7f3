"""The demo, command by command as in the Makefile, with the real encoder: what a newcomer sees first."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from safetensors.numpy import load_file

from nuner_jax import NuNER
from nuner_jax.evaluate.tasks import load_task

CLONE = Path(__file__).resolve().parent.parent.parent
RECIPE = re.search(r"^demo:.*\n((?:\t.*\n)+)", (CLONE / "Makefile").read_text(encoding="utf8"), re.MULTILINE)

pytestmark = pytest.mark.slow


def run_demo(folder: Path) -> str:
    """Runs the recipe in `folder`, TensorFlow seemingly installed; returns everything that was printed."""
    assert RECIPE
    fake = folder / "site" / "tensorflow"
    fake.mkdir(parents=True, exist_ok=True)
    (fake / "__init__.py").write_text(f"open({str(folder / 'tensorflow_was_imported')!r}, 'w').close()\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
    printed = []
    for line in RECIPE[1].splitlines():
        command = line.strip().replace("$(RUN)", f"{shlex.quote(sys.executable)} -m")
        done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        printed.append(done.stdout)
    return "\n".join(printed)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, run_demo(folder)


def test_pre_training_gains_at_least_five_points_at_four_examples_on_each_task(demo):
    folder, printed = demo
    scores = defaultdict(list)
    for line in (folder / "runs/demo/results/results.jsonl").read_text(encoding="utf8").splitlines():
        row = json.loads(line)
        scores[row["system"], row["task"], row["k"]].append(100 * row["token_macro_f1"])
    for task in ("kitchen", "helpdesk"):
        base, nuner = scores["base", task, 4], scores["nuner", task, 4]
        assert len(base) == len(nuner) == 5
        assert mean(nuner) - mean(base) >= 5.0, (task, base, nuner)
    assert "kitchen" in printed
    assert "helpdesk" in printed


def test_names_alone_gain_at_least_ten_points_over_the_untouched_encoder(demo):
    """By the default threshold, against a threshold that the untouched encoder gets from the labels of the training file."""
    spec = importlib.util.spec_from_file_location("zero_shot", CLONE / "benchmarks" / "zero_shot.py")
    assert spec
    assert spec.loader
    zero_shot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zero_shot)
    ner, untouched = NuNER.from_pretrained(demo[0] / "runs/demo/hf"), NuNER.from_pretrained("minilm")._base
    for name in ("kitchen", "helpdesk"):
        ours, plain = zero_shot.compare(ner, untouched, load_task(name), sentences=200)
        assert ours - plain >= 10, (name, ours, plain)


def test_it_leaves_every_artifact(demo):
    folder = demo[0] / "runs/demo"
    for name in (
        "annotate/ledger.sqlite",
        "annotate/report.md",
        "dataset/nuner/1.0.0/manifest.json",
        "dataset/nuner/1.0.0/summary.md",
        "train/metrics.jsonl",
        "hf/config.json",
        "hf/model.safetensors",
        "hf/README.md",
        "hf/nuner.json",
        "hf/concept_encoder/model.safetensors",
        "results/results.jsonl",
        "results/samples.jsonl",
    ):
        assert (folder / name).is_file(), name
    manifest = json.loads((folder / "dataset/nuner/1.0.0/manifest.json").read_text(encoding="utf8"))
    assert (manifest["sentences"], manifest["mentions"], manifest["concepts"]) == (1400, 10787, 4453)


def test_transformers_opens_the_encoder_bit_for_bit(demo):
    from transformers import AutoModel

    folder = demo[0] / "runs/demo/hf"
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    tensors, state = load_file(folder / "model.safetensors"), model.state_dict()
    assert set(tensors) <= set(state)
    assert all(np.array_equal(state[name].numpy(), value) for name, value in tensors.items())


def test_the_second_run_finds_nothing_to_do_and_changes_nothing(demo):
    folder, _ = demo
    files = [folder / "runs/demo/hf/model.safetensors", folder / "runs/demo/results/results.jsonl"]
    before = [file.read_bytes() for file in files]
    assert "nothing left to do" in run_demo(folder)
    assert [file.read_bytes() for file in files] == before


def test_tensorflow_is_not_imported_where_it_is_installed(demo):
    assert not (demo[0] / "tensorflow_was_imported").exists()
