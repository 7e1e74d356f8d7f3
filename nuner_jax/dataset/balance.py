"""Which rows make up a batch: the random order of the data, dealt out so that each batch has about as many concept tokens.

The concept encoder's arrays have one shape for the whole run, so the batch with most concepts, or the part of one that a device gets,
sets what every step costs. With rows in random order it has half as many again as the average one.
"""

from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nuner_jax.dataset.loader import Batch, PackedDataset
    from nuner_jax.dataset.mixture import Mixture

KEPT_WINDOWS = 2  # loader threads are in one window or the next


def deal(mentions: np.ndarray, counts: np.ndarray, cost: np.ndarray, num_batches: int) -> np.ndarray:
    """Rows dealt out to batches of one size, [num_batches, N / num_batches] row numbers.

    `mentions` [N, M, 3] and `counts` [N] are those of the rows, `cost` [concepts] what a concept costs a batch that has it, once.
    Longest-processing-time-first: those rows first that by chance would add most to a batch, each to the cheapest one with room.
    Concepts are not drawn together: their number in all batches stays what it is in random order. Within a batch rows stand so
    that equal parts of it, however many, come near each other too.
    """
    N = len(counts)
    real = np.arange(mentions.shape[1]) < counts[:, None]
    names, concept = np.unique(mentions[..., 2][real], return_inverse=True)
    pairs = np.unique(np.nonzero(real)[0] * max(1, len(names)) + concept)  # each concept of a row once
    row, concept = np.divmod(pairs, max(1, len(names)))
    of_row = np.split(concept, np.searchsorted(row, np.arange(1, N)))
    frequency = np.bincount(concept, minlength=len(names))
    expected_batches = num_batches * (1 - (1 - 1 / num_batches) ** frequency)
    cost = cost[names]
    added = np.bincount(row, (cost * expected_batches / frequency)[concept], minlength=N)

    load, room = np.zeros(num_batches), np.full(num_batches, N // num_batches)
    total = np.zeros(num_batches)
    has = np.zeros((num_batches, len(names)), bool)
    batch_of = np.empty(N, np.int64)
    heaviest_first = np.argsort(-added, kind="stable")
    for r in heaviest_first:
        b = load.argmin()
        new = of_row[r][~has[b, of_row[r]]]
        has[b, new] = True
        total[b] += cost[new].sum()
        room[b] -= 1
        load[b] = total[b] if room[b] else np.inf
        batch_of[r] = b
    by_batch = heaviest_first[np.argsort(batch_of[heaviest_first], kind="stable")].reshape(num_batches, -1)
    return by_batch[:, spread(by_batch.shape[1])]


def spread(n: int) -> np.ndarray:
    """0 .. n-1 so that every stretch has small and large ones: the numbers with their bits reversed (van der Corput)."""
    bits = (n - 1).bit_length()
    reversed_bits = sum((np.arange(1 << bits) >> bit & 1) << (bits - 1 - bit) for bit in range(bits)) + np.zeros(1, np.int64)
    return reversed_bits[reversed_bits < n]


class BalancedOrder:
    """The rows of each step, a function of (data, split, seed, batch size, window) alone.

    Windows are stretches of steps of about equal length, and each step lies in the window of the epoch that it begins in. So a pass
    over the data stays one, but for the batch that reaches into the next epoch: its rows may stand anywhere in the last window.
    Neither the number of processes nor the length of the run changes what a step is made of.
    """

    def __init__(
        self, data: "PackedDataset | Mixture", split: str, seed: int, batch_size: int, window_rows: int, cost: np.ndarray
    ):
        """Rows change places within `window_rows` of them at most; below two batches they stay in random order."""
        self.data, self.split, self.seed, self.batch_size, self.cost = data, split, seed, batch_size, cost
        self.num_rows = data.num_rows(split)
        self.steps = max(1, window_rows // batch_size)
        self._windows: dict[int, tuple[np.ndarray, Batch]] = {}
        self._lock = Lock()

    def window(self, step: int) -> range:
        """The steps whose rows are dealt out together with this one's."""
        epoch = step * self.batch_size // self.num_rows
        first, end = (-(-e * self.num_rows // self.batch_size) for e in (epoch, epoch + 1))  # steps that begin in this epoch
        parts = -(-(end - first) // self.steps)
        part = ((step - first + 1) * parts - 1) // (end - first)
        return range(first + part * (end - first) // parts, first + (part + 1) * (end - first) // parts)

    def indices(self, step: int) -> np.ndarray:
        """The row numbers of a global batch."""
        if self.steps == 1:
            return self.data.order(self.split, self.seed, step * self.batch_size, self.batch_size)
        return self._dealt(step)[0]

    def rows(self, step: int, part: slice = slice(None)) -> "Batch":
        """A part of the rows of a global batch (records.deserialize)."""
        if self.steps == 1:
            return self.data.rows(self.split, self.indices(step)[part])
        return {name: value[part] for name, value in self._dealt(step)[1].items()}

    def _dealt(self, step: int) -> "tuple[np.ndarray, Batch]":
        """The row numbers of a step and the rows. A window is read once, by whichever thread comes first."""
        window = self.window(step)
        with self._lock:
            if window.start not in self._windows:
                while len(self._windows) >= KEPT_WINDOWS:
                    del self._windows[next(iter(self._windows))]
                first, size = window.start * self.batch_size, len(window) * self.batch_size
                indices = self.data.order(self.split, self.seed, first, size)
                rows = self.data.rows(self.split, indices)
                dealt = deal(rows["mentions"], rows["num_mentions"], self.cost, len(window))
                self._windows[window.start] = indices[dealt], {name: value[dealt] for name, value in rows.items()}
            indices, rows = self._windows[window.start]
        i = step - window.start
        return indices[i], {name: value[i] for name, value in rows.items()}
