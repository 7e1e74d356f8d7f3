"""Bad input through the real commands: one clear line that names what is wrong and where, exit status 2, never a traceback."""

import importlib
import json
import shutil
import signal
import subprocess
import sys

import pytest
from helpers import make_encoder, write_json_lines

from nuner_jax.__main__ import module_of
from nuner_jax.files import held

GOOD = [
    {"text": f"alpha {n} eats beta food", "mentions": [{"start": 0, "end": 5, "concept": f"kind {n % 5}"}]} for n in range(60)
]
BIO = "alpha\tB-name\neats\tO\n\nbeta\tB-name\nfood\tI-name\n\n"


@pytest.fixture(autouse=True)
def signals():
    """The training loop takes over SIGINT and SIGTERM; the test run gets them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def command(capsys):
    """Runs `nuner_jax.<stage>` in this process; returns (exit status, standard error)."""

    def run(stage: str, *words: object) -> tuple[int, str]:
        capsys.readouterr()
        code: object = 0
        try:
            importlib.import_module(module_of(stage)).main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        assert isinstance(code, int)
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def refused(command):
    """Runs a command that must be refused; returns its one line."""

    def run(stage: str, *words: object) -> str:
        status, error = command(stage, *words)
        assert status == 2, error
        assert error.count("\n") == 1, error
        assert error.startswith(f"nuner_jax.{stage}: error: ")
        return error.removeprefix(f"nuner_jax.{stage}: error: ").rstrip("\n")

    return run


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_encoder):
    """A data set, a finished run of two steps, and a task, all tiny; treated as read-only."""
    from nuner_jax.config import DataConfig, DatasetConfig, TrainConfig
    from nuner_jax.dataset.builder import build
    from nuner_jax.lists import Strs
    from nuner_jax.train import train

    folder = tmp_path_factory.mktemp("world")
    text = write_json_lines(folder / "good.jsonl", GOOD)
    dataset = DatasetConfig(input=Strs([str(text)]), out=str(folder / "data"), tokenizer=str(tiny_encoder), row_length=32)
    build(dataset)
    run = {"data": DataConfig(path=dataset.out), "init_from": str(tiny_encoder), "batch_size": 8, "num_train_steps": 2}
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    train(TrainConfig(workdir=str(folder / "run"), **run))
    for number, handler in before.items():
        signal.signal(number, handler)
    (folder / "train.bio").write_text(BIO)
    return folder


# The dataset stage.


def test_input_that_is_not_there(refused, tmp_path, tiny_encoder):
    missing = tmp_path / "missing.jsonl"
    words = ["--tokenizer", tiny_encoder, "--out", tmp_path, "--row_length", "32"]
    assert refused("dataset", "--input", missing, *words).startswith(f"{missing}: ")
    assert "--input" in refused("dataset", *words)
    assert not (tmp_path / "nuner").exists()


@pytest.mark.parametrize("text", ["", "\n\n", '{"text": "", "mentions": []}\n'])
def test_input_without_a_sentence(refused, tmp_path, tiny_encoder, text):
    (tmp_path / "empty.jsonl").write_text(text)
    words = ["--input", tmp_path / "empty.jsonl", "--tokenizer", tiny_encoder, "--out", tmp_path / "out", "--row_length", "32"]
    message = refused("dataset", *words)
    assert message.startswith(f"{tmp_path / 'empty.jsonl'}: no sentence")
    assert not list(tmp_path.glob("out/nuner/1.0.0*/*.array_record*"))


@pytest.mark.parametrize("broken", ['{"text": "a', '{"text": 3}', '{"mentions": []}', '"text"'])
def test_a_broken_line_is_named_by_its_number(refused, tmp_path, tiny_encoder, broken):
    path = write_json_lines(tmp_path / "broken.jsonl", GOOD[:9])
    path.write_text(path.read_text() + broken + "\n")
    words = ["--tokenizer", tiny_encoder, "--out", tmp_path / "out", "--row_length", "32"]
    assert refused("dataset", "--input", path, *words).startswith(f"{path}, line 10: ")


def test_a_failed_build_leaves_the_earlier_data_set(refused, tmp_path, tiny_encoder, world):
    out = tmp_path / "data"
    shutil.copytree(world / "data", out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    path = tmp_path / "broken.jsonl"
    path.write_text("{")
    refused("dataset", "--input", path, "--tokenizer", tiny_encoder, "--out", out, "--row_length", "32")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["--row_length", "4"], ["row_length 4"]),
        (["--row_length", "65"], ["row_length 65", "the 64 positions"]),
        (["--mentions_per_row", "0"], ["mentions_per_row 0"]),
        (["--max_concept_length", "2"], ["max_concept_length 2", "2 special tokens"]),
        (["--min_concept_count", "1000"], ["no mention to learn from", "below min_concept_count", "60"]),
        (["--limit=-1"], ["limit -1 is below 0"]),
        (["--num_workers=-1"], ["num_workers -1 is below 0"]),
        (["--num_groups=-1"], ["num_groups -1 is below 0"]),
        (["--validation_fraction", "1"], ["validation_fraction 1"]),
        (["--tokenizer", "/no/such/folder"], ["/no/such/folder: no such folder"]),
    ],
)
def test_settings_that_cannot_work_are_refused_with_their_numbers(refused, world, tmp_path, tiny_encoder, words, numbers):
    given = ["--input", world / "good.jsonl", "--tokenizer", tiny_encoder, "--out", tmp_path, "--row_length", "32"]
    message = refused("dataset", *given, *words)
    assert all(number in message for number in numbers), message


def test_a_tokenizer_folder_with_a_damaged_configuration_is_named(refused, world, tmp_path, tiny_encoder):
    shutil.copytree(tiny_encoder, tmp_path / "encoder")
    (tmp_path / "encoder" / "config.json").write_text("{")
    words = ["--input", world / "good.jsonl", "--tokenizer", tmp_path / "encoder", "--out", tmp_path / "out"]
    assert refused("dataset", *words, "--row_length", "32").startswith(f"{tmp_path / 'encoder' / 'config.json'}: ")


# The train stage.


@pytest.fixture
def training(world, tiny_encoder, tmp_path):
    words = ["--data.path", world / "data", "--init_from", tiny_encoder, "--batch_size", "8", "--num_train_steps", "2"]
    return [*words, "--workdir", tmp_path / "run"]


def test_a_batch_that_the_mesh_does_not_divide_is_refused_with_the_numbers(refused, training):
    message = refused("train", *training, "--batch_size", "12")
    assert "batch_size 12" in message
    assert "8 data shards" in message


def test_a_mesh_that_the_devices_do_not_fill_is_refused_with_the_numbers(refused, training):
    message = refused("train", *training, "--mesh.data", "3")
    assert "data 3" in message
    assert "8 devices" in message


def test_a_tokenizer_that_does_not_fit_the_data_set_is_refused_by_fingerprint(refused, training, tmp_path):
    other = make_encoder(tmp_path / "other", vocab_size=300)
    message = refused("train", *training, "--init_from", other)
    assert str(other) in message
    assert "fingerprint" in message


@pytest.mark.parametrize("words", [["--num_train_steps", "0"], ["--num_epochs", "0"], ["--num_epochs=-1"], ["--batch_size", "0"]])
def test_an_empty_run_is_refused(refused, training, words):
    key, _, value = words[0].removeprefix("--").partition("=")
    message = refused("train", *(training[:6] + training[8:] if "epochs" in key else training), *words)
    assert key in message
    assert (value or words[1]) in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch_size", "0"], "batch_size: 0 is below 1"),
        (["--keep_checkpoints", "0"], "keep_checkpoints: 0 is below 1"),
        (["--data.concept_group", "0"], "data.concept_group: 0 is below 1"),
        (["--model.dropout", "1"], "model.dropout: 1.0 is above 0.99"),
        (["--model.logit_scale", "0"], "model.logit_scale: 0.0 is below 1e-30"),
        (["--optim.warmup_fraction", "2"], "optim.warmup_fraction: 2.0 is above 1"),
        (["--eval_batches=-1"], "eval_batches: -1 is below 0"),
    ],
)
def test_values_that_no_run_can_use_are_refused_before_any_work(refused, words, said):
    assert refused("train", "--data.path", "/no/data", "--num_epochs", "1", *words) == said


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_run_directory_that_cannot_be_made_is_named(refused, training, tmp_path, place):
    (tmp_path / "file").write_text("")
    assert refused("train", *training, "--workdir", tmp_path / place).startswith(f"workdir {tmp_path / place}: ")


def test_storage_that_fails_while_training_is_worth_another_start(command, training, monkeypatch):
    def fails(config):
        raise FileNotFoundError(2, "No such file or directory", str(config.workdir))

    monkeypatch.setattr("nuner_jax.train.train", fails)
    status, error = command("train", *training)
    assert (status, error.count("\n")) == (1, 1)
    assert "goes on from the last checkpoint" in error


def test_a_disk_that_is_full_at_a_checkpoint_is_told_in_one_line_and_the_run_goes_on_later(command, training, tmp_path):
    from nuner_jax.checkpoint import Checkpoints

    words = [str(word) for word in (*training, "--workdir", tmp_path / "run", "--checkpoint_every_steps", "1")]

    small_files = ["bash", "-c", "ulimit -f 30; trap '' XFSZ; exec \"$@\"", "bash"]
    process = subprocess.run(
        [*small_files, sys.executable, "-m", "nuner_jax.train", *words], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stderr.count("\n")) == (1, 1), process.stderr
    assert "a checkpoint could not be written" in process.stderr
    assert command("train", *words)[0] == 0
    assert Checkpoints(tmp_path / "run", keep=1).latest() == 2


def test_a_second_process_in_the_same_run_directory_is_refused(refused, training, tmp_path):
    (tmp_path / "run").mkdir()
    with held(tmp_path / "run" / "run.json"):
        message = refused("train", *training, "--workdir", tmp_path / "run")
    assert message.startswith(f"{tmp_path / 'run' / 'run.json'}: in use by another process")


def test_a_folder_that_holds_no_data_set_is_named(refused, training, tmp_path):
    assert refused("train", *training, "--data.path", tmp_path).startswith(f"{tmp_path}: no data set")


@pytest.mark.parametrize("damage", ["not JSON", '{"format": 99}', "{}"])
def test_a_damaged_manifest_is_named(refused, training, world, tmp_path, damage):
    shutil.copytree(world / "data", tmp_path / "data")
    manifest = tmp_path / "data/nuner/1.0.0/manifest.json"
    manifest.write_text(damage)
    assert str(tmp_path / "data") in refused("train", *training, "--data.path", tmp_path / "data")


def test_an_unreadable_shard_is_named(refused, training, world, tmp_path):
    shutil.copytree(world / "data", tmp_path / "data")
    shard = next((tmp_path / "data").rglob("*train*array_record*"))
    shard.write_bytes(b"nothing")
    message = refused("train", *training, "--data.path", tmp_path / "data")
    assert message.startswith(str(tmp_path / "data"))
    assert "train" in message


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_damaged_encoder_is_named(refused, training, tiny_encoder, tmp_path, file):
    encoder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, encoder)
    (encoder / file).write_text("{")
    assert file in refused("train", *training, "--init_from", encoder)


def test_a_resume_that_would_change_numbers_is_refused_by_name(refused, training, world, tmp_path):
    shutil.copytree(world / "run", tmp_path / "run")
    assert "batch_size 8, not 16" in refused("train", *training, "--batch_size", "16")
    assert "optim.learning_rate 0.0002, not 0.1" in refused("train", *training, "--optim.learning_rate", "0.1")
    assert "--extend" in refused("train", *training, "--num_train_steps", "4")


def damage_checkpoints(folder):
    for path in (folder / "checkpoints").rglob("*"):
        if path.is_file() and "_CHECKPOINT_METADATA" not in path.name and "commit" not in path.name:
            path.write_bytes(b"\0")


def test_an_unreadable_checkpoint_is_named(refused, training, world, tmp_path):
    shutil.copytree(world / "run", tmp_path / "run")
    damage_checkpoints(tmp_path / "run")
    message = refused("train", *training, "--num_train_steps", "4", "--extend")
    assert message.startswith(f"{tmp_path / 'run/checkpoints/2'}: the checkpoint cannot be read")


# The export stage.


def test_export_names_a_run_that_is_missing_or_damaged(refused, world, tmp_path):
    missing = tmp_path / "none"
    assert refused("export", "--workdir", missing, "--out", tmp_path / "hf").startswith(str(missing))
    assert "7" in refused("export", "--workdir", world / "run", "--step", "7", "--out", tmp_path / "hf")
    shutil.copytree(world / "run", tmp_path / "run")
    damage_checkpoints(tmp_path / "run")
    assert "checkpoint cannot be read" in refused("export", "--workdir", tmp_path / "run", "--out", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_export_does_not_write_over_what_it_did_not_write(refused, world, tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "thesis.tex").write_text("years of work")
    assert str(tmp_path / "hf") in refused("export", "--workdir", world / "run", "--out", tmp_path / "hf")
    assert (tmp_path / "hf" / "thesis.tex").read_text() == "years of work"


# The evaluate stage.


@pytest.fixture
def evaluation(world, tiny_encoder, tmp_path):
    bio = world / "train.bio"
    return [
        "--encoders",
        f"e={tiny_encoder}",
        "--tasks",
        f"t={bio},{bio}",
        "--ks",
        "1",
        "--seeds",
        "1",
        "--out",
        tmp_path / "out",
    ]


@pytest.mark.parametrize("line", ["beta", "beta\tI\tname", "beta\tX-name", "beta\tB-", "\tO"])
def test_a_bio_file_with_a_bad_line_is_named_by_its_number(refused, evaluation, world, tmp_path, line):
    bad = tmp_path / "bad.bio"
    bad.write_text(f"alpha\tB-name\n\n{line}\n")
    message = refused("evaluate", *evaluation[:2], "--tasks", f"t={world / 'train.bio'},{bad}", *evaluation[4:])
    assert message.startswith(f"{bad}, line 3: "), message


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--tasks", "nowhere"], ["nowhere"]),
        (["--tasks", "t=a.bio"], ["t=a.bio"]),
        (["--tasks", "t=/no/train.bio,/no/test.bio"], ["/no/train.bio"]),
        (["--encoders", "e=/no/encoder"], ["/no/encoder"]),
        (["--ks", "0"], ["ks", "0"]),
        (["--ks="], ["ks"]),
        (["--seeds", "0"], ["seeds", "0"]),
        (["--limit_test=-1"], ["limit_test -1 is below 0"]),
        (["--finetune.batch_size", "0"], ["finetune.batch_size 0 is below 1"]),
        (["--finetune.dropout", "1"], ["finetune.dropout 1.0 is above 0.99"]),
        (["--layers=-9"], ["-9"]),
        (["--layers=5"], ["5"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_cannot_be_evaluated_is_named(refused, evaluation, words, names):
    flag = words[0].partition("=")[0]
    at = evaluation.index(flag) if flag in evaluation else len(evaluation)
    message = refused("evaluate", *evaluation[:at], *evaluation[at + 2 :], *words)
    assert all(name in message for name in names), message


def test_an_empty_task_file_is_named(refused, evaluation, world, tmp_path):
    (tmp_path / "empty.bio").write_text("\n\n")
    task = f"t={tmp_path / 'empty.bio'},{world / 'train.bio'}"
    message = refused("evaluate", *evaluation[:2], "--tasks", task, *evaluation[4:])
    assert f"task t: its train file {tmp_path / 'empty.bio'} holds no sentence" in message


def test_the_world_of_these_tests_is_good(command, evaluation, training, world, tmp_path):
    """So that no refusal above is for another reason than the one under test."""
    words = ["--input", world / "good.jsonl", "--tokenizer", evaluation[1].partition("=")[2], "--out", tmp_path / "data"]
    assert command("dataset", *words, "--row_length", "32") == (0, "")
    shutil.copytree(world / "run", tmp_path / "run")
    assert command("train", *training)[0] == 0
    assert command("export", "--workdir", tmp_path / "run", "--out", tmp_path / "hf")[0] == 0
    assert command("evaluate", *evaluation)[0] == 0
    assert json.loads((tmp_path / "out/results.jsonl").read_text().splitlines()[0])["k"] == 1
