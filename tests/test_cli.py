"""The command line of every stage: what is accepted, in which order it counts, and how it refuses."""

import importlib
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import yaml

from nuner_jax import __main__ as nuner
from nuner_jax import cli, config, options
from nuner_jax.errors import DoesNotFitError, InputError, Preempted
from nuner_jax.lists import Ints, Strs

CLASSES: dict[str, Any] = {
    "annotate": config.AnnotateConfig,
    "dataset": config.DatasetConfig,
    "train": config.TrainConfig,
    "export": config.ExportConfig,
    "evaluate": config.EvaluateConfig,
}
STAGES = list(CLASSES)


def status(main, words) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def main_of(stage: str):
    return importlib.import_module(nuner.module_of(stage)).main


def one_line(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert ": error: " in captured.err
    return captured.err.split(": error: ", 1)[1].strip()


# A small config of our own: the rules of the command line.


@dataclass(frozen=True)
class InnerConfig:
    """A group."""

    rate: float = 0.5
    """Rate."""
    kind: Literal["a", "b"] = "a"
    """Kind."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Anything."""


@dataclass(frozen=True)
class ToyConfig:
    """A stage."""

    recipe: Literal["plain", "fancy"] = "plain"
    """Recipe."""
    inner: InnerConfig = InnerConfig()
    files: Strs = Strs()
    """Files."""
    ks: Ints = Ints((1, 2))
    """Numbers."""
    size: int = 3
    """Size."""
    layers: int | Literal["half"] = 0
    """Layers."""
    go: bool = False
    """Switch."""
    steps: int | None = None
    """Steps."""
    epochs: float | None = None
    """Epochs."""


RECIPES = {"plain": {}, "fancy": {"inner.rate": 9.0, "size": 30}}


def toy(*words: str) -> ToyConfig:
    given = [] if any(w.startswith(("--steps", "--epochs", "--config")) for w in words) else ["--steps", "1"]
    return cli.parse(ToyConfig, [*words, *given], prog="toy", recipes=RECIPES, alternatives=("steps", "epochs"))


@pytest.fixture
def file(tmp_path):
    def write(text: str | bytes, name: str = "c.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


def test_defaults_then_recipe_then_file_then_command_line(file):
    path = file("steps: 5\nsize: 40\n")
    assert (toy().size, toy().inner.rate) == (3, 0.5)
    fancy = toy("--recipe", "fancy")
    assert (fancy.size, fancy.inner.rate, fancy.inner.kind) == (30, 9.0, "a")
    assert toy("--config", path, "--recipe=fancy").size == 40
    for words in (["--size", "50", "--config", path], ["--config", path, "--size=50"]):
        assert toy(*words, "--recipe", "fancy").size == 50
    assert toy("--config", file("recipe: fancy\nsteps: 5\n")).inner.rate == 9.0
    assert toy("--config", file("recipe: fancy\nsteps: 5\n"), "--recipe", "plain").inner.rate == 0.5


def test_later_config_files_add_to_earlier_ones(file):
    first = file("steps: 5\nsize: 40\ninner: {rate: 2}\n", "1.yaml")
    second = file("size: 41\ninner: {kind: b}\n", "2.yaml")
    both = toy("--config", first, "--config", second)
    assert (both.steps, both.size, both.inner.rate, both.inner.kind) == (5, 41, 2.0, "b")


@pytest.mark.parametrize("words", ["--files a b.txt", "--files=a b.txt", "--files a --size 1 --files b.txt"])
def test_several_values_after_one_flag(words):
    assert toy(*words.split()).files == ("a", "b.txt")


@pytest.mark.parametrize("words", [["--ks=-1,-4"], ["--ks", "-1,-4"]])
def test_a_list_of_numbers_may_be_negative(words):
    assert toy(*words).ks == (-1, -4)


def test_a_list_may_be_empty_one_number_or_come_from_yaml(file):
    assert toy("--ks=").ks == ()
    assert toy("--ks", "7").ks == (7,)
    assert toy("--config", file("steps: 1\nks: [4, 5]\nfiles: [x]\n")) == toy("--steps=1", "--ks", "4,5", "--files", "x")
    assert toy("--config", file("steps: 1\nks: 4\nfiles: x\n")) == toy("--steps=1", "--ks", "4", "--files", "x")


def test_a_lone_switch_is_true_and_values_may_be_negative_or_null():
    assert toy("--go").go
    assert toy("--go", "--size", "-2") == toy("--go=true", "--size=-2")
    assert not toy("--go", "false").go
    assert toy("--layers", "half").layers == "half"
    assert toy("--layers", "-1").layers == -1
    assert toy("--inner.extra", '{"seed": 1}').inner.extra == {"seed": 1}


def test_entries_of_a_mapping_change_what_the_file_says_and_nothing_beside_it(file, capsys):
    path = file("steps: 1\ninner:\n  extra: {a: {b: 1, c: 2}, d.e: 3}\n")
    words = ["--config", path, "--inner.extra.a.b=[4, 5]", "--inner.extra.d.e", "x", "--inner.extra.f=1.5"]
    wanted = {"a": {"b": [4, 5], "c": 2}, "d.e": "x", "f": 1.5}
    assert toy(*words).inner.extra == wanted
    assert list(toy(*words).inner.extra) == list(wanted)
    assert status(lambda argv: toy(*argv), [*words, "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["inner"]["extra"] == wanted


def test_a_config_from_plain_values_follows_the_rules_of_the_command_line():
    def build(values):
        return cli.from_values(ToyConfig, values, recipes=RECIPES, alternatives=("steps", "epochs"))

    assert build({"inner.rate": "3e-3", "ks": [4, 5], "steps": 3}) == toy("--inner.rate=3e-3", "--ks=4,5", "--steps=3")
    assert build({"recipe": "fancy", "steps": 3}) == toy("--recipe=fancy", "--steps=3")
    for values, message in [
        ({"inner.rat": 1}, "there is no option inner.rat (did you mean inner.rate?)"),
        ({"inner": 1}, "there is no option inner "),
        ({"inner.kind": "c", "steps": 3}, "inner.kind: expected 'a' or 'b', got c"),
        ({"recipe": "best"}, "there is no recipe 'best'"),
        ({"steps": 1, "epochs": 2.0}, "exactly one of"),
        ({"inner.rate": float("inf"), "steps": 3}, "inner.rate: expected a finite number"),
    ]:
        with pytest.raises(InputError) as refused:
            build(values)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)


def test_exactly_one_alternative_holds_and_the_command_line_replaces_the_file(file, capsys):
    steps = file("steps: 5\n")
    assert (toy("--config", steps).steps, toy("--config", steps).epochs) == (5, None)
    replaced = toy("--config", steps, "--epochs", "2.5")
    assert (replaced.steps, replaced.epochs) == (None, 2.5)
    assert toy("--config", steps, "--steps", "9").steps == 9
    for words in (["--steps", "1", "--epochs", "2"], ["--config", file("size: 1\n", "2.yaml")]):
        assert status(lambda w: toy(*w), words) == 2
        assert one_line(capsys) == "set exactly one of steps and epochs"
    assert status(lambda w: toy(*w), ["--config", file("steps: 1\nepochs: 1\n", "3.yaml")]) == 2


REFUSED = [
    (["--sise", "3"], "there is no option --sise (did you mean size?)"),
    (["--inner.rte", "3"], "there is no option --inner.rte (did you mean inner.rate?)"),
    (["--rate", "3"], "there is no option --rate (did you mean inner.rate?)"),
    (["--inner.zzz", "3"], "there is no option --inner.zzz (there are inner.rate, inner.kind, inner.extra)"),
    (["--siz", "3"], "there is no option --siz (did you mean size?)"),
    (["--size", "big"], "size: expected an integer, got big"),
    (["--size", "1.5"], "size: expected an integer, got 1.5"),
    (["--size", "true"], "size: expected an integer, got True"),
    (["--inner.rate", "fast"], "inner.rate: expected a number, got fast"),
    (["--inner.rate", "1e999"], "inner.rate: expected a finite number, got inf"),
    (["--inner.kind", "c"], "inner.kind: expected 'a' or 'b', got c"),
    (["--layers", "third"], "layers: expected an integer or 'half', got third"),
    (["--epochs", "soon"], "epochs: expected a number or null, got soon"),
    (["--ks", "1,x"], "ks: expected comma-separated integers, got '1,x'"),
    (["--ks", "1", "2"], "2: not an option, and no option before it takes it"),
    (["--recipe", "papr"], "recipe: there is no recipe 'papr'; the recipes are plain, fancy"),
    (["--size"], "--size needs a value"),
    (["--files"], "--files needs a value"),
    (["--config", "--size", "3"], "--config needs a value"),
    (["--config", "demo/nope"], "--config demo/nope: no such file, and no packaged config of that name"),
    (["stray"], "stray: not an option, and no option before it takes it"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_words_end_with_one_line_and_status_2(words, message, capsys):
    assert status(lambda w: toy(*w), words) == 2
    assert one_line(capsys) == message


BAD_FILES = [
    ("size: 3\nsise: 4\n", "line 2: there is no option sise (did you mean size?)"),
    ("steps: 1\ninner:\n  rate: 1\n  rat: 2\n", "line 4: there is no option inner.rat (did you mean inner.rate?)"),
    ("steps: 1\ninner: 3\n", "line 2: inner has to be a mapping (key: value)"),
    ("steps: 1\nsize: big\n", "line 2: size: expected an integer, got big"),
    ("steps: 1\nsize: 1\nsize: 2\n", "line 3: size is set twice"),
    ("steps: 1\nks: [1, x]\n", "line 2: ks: expected comma-separated integers, got [1, 'x']"),
    ("steps: 1\nfiles: {a: 1}\n", "line 2: files: expected a list of texts, got {'a': 1}"),
    ("steps: 1\ninner: {rate: .nan}\n", "line 2: inner.rate: expected a finite number, got nan"),
    ("recipe: papr\n", "line 1: recipe: there is no recipe 'papr'; the recipes are plain, fancy"),
    ("steps: [1,\n", "line 2: not valid YAML (expected the node content, but found '<stream end>')"),
    ("- 1\n", "line 1: a config has to be a mapping (key: value)"),
    ("", ": a config has to be a mapping (key: value)"),
    (b"size: \xff\n", ": cannot be read (not UTF-8 text)"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES, ids=[str(text) for text, _ in BAD_FILES])
def test_a_bad_config_file_is_refused_by_file_line_and_key(text, message, file, capsys):
    path = file(text)
    assert status(lambda w: toy(*w), ["--config", path]) == 2
    found = one_line(capsys)
    assert found.startswith(path)
    assert found.removeprefix(path).removeprefix(", ").split(" (expected")[0] == message.split(" (expected")[0]


def test_a_value_of_the_file_that_the_command_line_replaces_is_not_blamed(file, capsys):
    path = file("steps: 1\nsize: 4\n")
    assert status(lambda w: toy(*w), ["--config", path, "--size", "big"]) == 2
    assert one_line(capsys) == "size: expected an integer, got big"


# The real stages.


@pytest.mark.parametrize("stage", STAGES)
def test_help_explains_every_option(stage, capsys):
    assert status(main_of(stage), ["--help"]) == 0
    text = capsys.readouterr().out
    told = " ".join(text.split("\noptions:\n")[1].split())
    for key, kind in options.keys_of(CLASSES[stage]).items():
        if not isinstance(kind, type) or not hasattr(kind, "__dataclass_fields__"):
            after = told.split(f"--{key} ", 1)
            assert len(after) == 2, key
            explanation = after[1].split("(type:")[0].split(None, 1)
            assert len(explanation) == 2, f"{key} is not explained"
            assert len(explanation[1]) > 8, f"{key} is not explained"


@pytest.mark.parametrize("stage", STAGES)
def test_what_print_config_prints_is_a_config(stage, capsys, tmp_path):
    more = ["--num_epochs", "1"] if stage == "train" else []
    assert status(main_of(stage), [*more, "--print_config"]) == 0
    printed = capsys.readouterr().out
    path = tmp_path / "printed.yaml"
    path.write_text(printed)
    assert status(main_of(stage), ["--config", str(path), "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(printed)


@pytest.mark.parametrize("stage", STAGES)
def test_a_misspelt_option_is_named_by_every_stage(stage, capsys):
    first = next(iter(options.keys_of(CLASSES[stage])))
    for word in (f"--{first}x", "--no_such_option"):
        assert status(main_of(stage), [word, "1"]) == 2
        assert f"there is no option {word} " in one_line(capsys)


# `nuner <command>`.


@pytest.mark.parametrize("stage", STAGES)
def test_nuner_hands_over_to_the_stage(stage, capsys):
    assert status(nuner.main, [stage, "--no_such_option"]) == 2
    through_nuner = capsys.readouterr().err
    assert status(main_of(stage), ["--no_such_option"]) == 2
    assert capsys.readouterr().err == through_nuner


def test_nuner_lists_its_commands_and_refuses_others(capsys):
    nuner.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in nuner.COMMANDS)
    assert status(nuner.main, ["trian"]) == 2
    assert one_line(capsys) == "there is no command trian (did you mean train?)"
    assert status(nuner.main, []) == 2


def test_the_module_and_the_command_are_the_same():
    words = [sys.executable, "-m", "nuner_jax", "--version"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.split() == [nuner.__version__]


# How a command ends.


ENDS = [(InputError("a\nb"), 2), (DoesNotFitError("big"), 3), (Preempted("later"), 75), (KeyboardInterrupt(), 130)]


@pytest.mark.parametrize(("error", "code"), ENDS)
def test_errors_end_a_command_with_one_line_and_their_status(error, code, capsys):
    def command():
        raise error

    assert status(lambda prog: cli.run(command, prog), "toy") == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_closed_pipe_ends_a_command_quietly():
    code = "from nuner_jax import cli\ncli.run(lambda: [print('x' * 99) for _ in range(9999)] and None, 'toy')"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


@pytest.mark.parametrize(("place", "said"), [("missing/out", "no such file or directory"), ("file/out", "not a directory")])
def test_what_the_file_system_refuses_ends_with_one_line(tmp_path, capsys, place, said):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: (tmp_path / place).mkdir(), "prog")
    assert end.value.code == 2
    assert capsys.readouterr().err == f"prog: error: {tmp_path / place}: {said}\n"


def test_other_errors_of_the_system_are_faults_and_keep_their_traceback():
    def broken():
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        cli.run(broken, "prog")


def test_an_entry_below_a_number_of_yaml_joins_what_stands_there():
    tree = {44: {"x": 44}, "b": {}}
    assert options.with_entry(tree, ["44", "dataset", "limit"], 9) == {44: {"x": 44, "dataset": {"limit": 9}}, "b": {}}
    assert options.with_entry({"a": {4: 1}}, ["a", "4"], 2) == {"a": {4: 2}}
