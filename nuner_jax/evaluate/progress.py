"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Counts up to `total`; call it with the number of units done."""

    def __init__(self, title: str, total: int, unit: str, every_seconds: float = 30.0):
        self.title, self.total, self.unit, self.every = title, total, unit, every_seconds
        self.done, self.started = 0, time.monotonic()
        self.spoken = self.started
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=title, unit=f" {unit}", unit_scale=True, leave=False) if terminal else None

    def __call__(self, count: int) -> None:
        """`count` more units are done."""
        self.done += count
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(count)
        elif now - self.spoken >= self.every:
            self.spoken = now
            print(f"{self.title}: {self.done:,} of {self.total:,} {self.unit}, {now - self.started:.0f} s", flush=True)

    def close(self) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.close()
