"""Huge pages: a command starts again with them, once, with the same arguments and process, and only where they help."""

import os
import subprocess
import sys

import pytest

from nuner_jax import memory

PROGRAM = """
import os, sys
from nuner_jax import memory
memory.is_useful = lambda: sys.argv[1] == "useful"
print("start", os.getpid(), flush=True)
memory.use_huge_pages()
print(os.getpid(), sys.argv[1:], os.environ.get("GLIBC_TUNABLES"))
"""


def lines(*arguments, tunables=None):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": tunables} if tunables else {}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_command_starts_again_once_with_its_arguments_and_process_number():
    first, second, last = lines("useful", "--a", "b c")
    assert first == second
    assert last == f"{first.split()[1]} ['useful', '--a', 'b c'] glibc.malloc.hugetlb=1"


def test_other_tunables_are_kept():
    assert lines("useful", tunables="glibc.malloc.check=0")[-1].endswith("glibc.malloc.check=0:glibc.malloc.hugetlb=1")


@pytest.mark.parametrize(("arguments", "tunables"), [(["no"], None), (["useful"], "glibc.malloc.hugetlb=0")])
def test_nothing_happens_where_it_is_of_no_use_or_switched_off(arguments, tunables):
    first, last = lines(*arguments, tunables=tunables)
    assert last == f"{first.split()[1]} {arguments} {tunables}"


@pytest.mark.parametrize(
    ("libc", "kernel", "expected"),
    [
        ("glibc 2.36", "always [madvise] never", True),
        ("glibc 2.35", "always [madvise] never", True),
        ("glibc 2.31", "always [madvise] never", False),
        ("glibc 2.36", "[always] madvise never", False),
        ("glibc 2.36", "always madvise [never]", False),
        ("glibc 2.36", None, False),
        ("", "always [madvise] never", False),
        (None, "always [madvise] never", False),
    ],
)
def test_where_it_is_of_use(monkeypatch, tmp_path, libc, kernel, expected):
    monkeypatch.setattr(memory.os, "confstr", lambda name: libc)
    monkeypatch.setattr(memory, "KERNEL", tmp_path / "enabled")
    if kernel:
        (tmp_path / "enabled").write_text(kernel)
    assert memory.is_useful() is expected
