"""The README shows commands that exist, and the demo that `make demo` runs."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from nuner_jax import cli
from nuner_jax.__main__ import COMMANDS, module_of

CLONE = Path(__file__).resolve().parent.parent
README = (CLONE / "README.md").read_text(encoding="utf8")
BASH = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMAND = "python -m nuner_jax."
SHOWN = [line for block in BASH for line in block.replace("\\\n", " ").splitlines() if line.startswith(COMMAND)]


def words(line: str) -> list[str]:
    return shlex.split(line.removeprefix(COMMAND), comments=True)


@pytest.mark.parametrize("line", SHOWN)
def test_a_shown_command_is_accepted(line, monkeypatch, capsys):
    stage, *rest = words(line)
    main = importlib.import_module(module_of(stage)).main
    if stage == "report":  # has no config to print
        monkeypatch.setattr(cli, "run", lambda command, prog: None)
        main(rest)
        return
    with pytest.raises(SystemExit) as end:
        main([*rest, "--print_config"])
    assert (end.value.code or 0, capsys.readouterr().err) == (0, "")


def test_every_command_is_shown():
    assert {words(line)[0] for line in SHOWN} == set(COMMANDS)


def test_the_quick_start_is_what_make_demo_runs():
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (CLONE / "Makefile").read_text(encoding="utf8"), re.MULTILINE)
    assert recipe
    made = [shlex.split(line.replace("$(RUN) nuner_jax.", "")) for line in recipe[1].splitlines()]
    assert made == [words(line) for line in BASH[1].splitlines()]


def test_links_into_the_clone_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    assert all((CLONE / link).exists() for link in links)


def test_exit_statuses_are_those_of_the_errors():
    from nuner_jax import errors

    shown = {int(status) for status in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    classes = (errors.InputError, errors.DoesNotFitError, errors.Preempted)
    assert shown == {0, *(error.exit_status for error in classes)}
