#!/usr/bin/env python3
"""Several training processes on this machine, each with CPU devices of its own: a pod's code paths without a pod.

    python launch/local_processes.py --processes 2 --devices 2 -- --config demo/train --workdir runs/local

What stands behind `--` goes to `python -m nuner_jax.train`. SIGTERM and Ctrl-C preempt the run (exit status 75); the same command
goes on, also with other numbers of processes and devices. With --restarts N a run that was killed or that crashed is started again.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

PREEMPTED = 75
FINAL = (0, 2, 3)  # done, bad input, does not fit: starting again would end the same way


def main() -> int:
    """Returns the exit status of the run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--processes", type=int, default=2, help="training processes")
    parser.add_argument("--devices", type=int, default=2, help="CPU devices of each")
    parser.add_argument("--restarts", type=int, default=0, help="times that a run which was killed or crashed is started again")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds that the others have to end once one has failed")
    parser.add_argument("train", nargs=argparse.REMAINDER, help="-- and the options of nuner_jax.train")
    options = parser.parse_args()
    words = options.train[1:] if options.train[:1] == ["--"] else options.train
    stopping = Stopping()
    for left in range(options.restarts, -1, -1):
        status = run(words, options.processes, options.devices, options.grace, stopping)
        if status in FINAL or stopping.asked or not left:
            return status
        print(f"local_processes: ended with status {status}; {left} restarts left", file=sys.stderr, flush=True)
    return status


class Stopping:
    """Hands SIGTERM and Ctrl-C on to the processes, as SIGTERM."""

    def __init__(self) -> None:
        self.asked, self.processes = False, list[subprocess.Popen[bytes]]()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        del number, frame
        self.asked = True
        self.stop()

    def stop(self) -> None:
        """Asks every process that still runs to save and end."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()


def run(words: Sequence[str], count: int, devices: int, grace: float, stopping: Stopping) -> int:
    """Starts the processes and waits for all; those that hang after another has failed are killed."""
    address = f"127.0.0.1:{free_port()}"
    stopping.processes = [start(words, address, count, i, devices) for i in range(count)]
    ids = ", ".join(str(process.pid) for process in stopping.processes)
    print(f"local_processes: process ids {ids}", file=sys.stderr, flush=True)
    if stopping.asked:  # by a signal that came while they were started
        stopping.stop()
    deadline = float("inf")
    while any(process.poll() is None for process in stopping.processes):
        time.sleep(0.1)
        failed = any(process.poll() not in (None, 0) for process in stopping.processes)
        deadline = min(deadline, time.monotonic() + grace) if failed else deadline
        if time.monotonic() > deadline:
            for process in stopping.processes:
                process.kill()
    return status_of([process.returncode for process in stopping.processes])


def start(words: Sequence[str], address: str, count: int, index: int, devices: int) -> "subprocess.Popen[bytes]":
    """One training process, in a session of its own, so that a terminal's Ctrl-C reaches it only through this program."""
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "XLA_FLAGS": flags.strip()}
    place = [f"--distributed.kind=explicit --distributed.coordinator_address={address}"]
    place += [f"--distributed.num_processes={count} --distributed.process_id={index}"]
    command = [sys.executable, "-m", "nuner_jax.train", *words, *" ".join(place).split()]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def status_of(codes: Sequence[int]) -> int:
    """One status for all: 0 if all are done, bad input before anything else, preempted if that is all that happened."""
    for status in FINAL[1:]:
        if status in codes:
            return status
    if set(codes) <= {0, PREEMPTED}:
        return max(codes)
    worst = next(code for code in codes if code not in (0, PREEMPTED))
    return 128 - worst if worst < 0 else worst


if __name__ == "__main__":
    sys.exit(main())
