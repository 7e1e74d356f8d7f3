"""The README tells the demo that `make demo` runs, and the exit statuses that there are."""

import re
import shlex
from pathlib import Path

CLONE = Path(__file__).resolve().parent.parent
README = (CLONE / "README.md").read_text(encoding="utf8")
BASH = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMAND = "python -m nuner_jax."


def words(line: str) -> list[str]:
    return shlex.split(line.removeprefix(COMMAND), comments=True)


def test_the_quick_start_is_what_make_demo_runs():
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (CLONE / "Makefile").read_text(encoding="utf8"), re.MULTILINE)
    assert recipe
    made = [shlex.split(line.replace("$(RUN) nuner_jax.", "")) for line in recipe[1].splitlines()]
    assert made == [words(line) for line in BASH[1].splitlines()]


def test_exit_statuses_are_those_of_the_errors():
    from nuner_jax import errors

    shown = {int(status) for status in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    classes = (errors.InputError, errors.DoesNotFitError, errors.Preempted)
    assert shown == {0, *(error.exit_status for error in classes)}
